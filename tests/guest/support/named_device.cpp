// SPDX-License-Identifier: MIT
#include "named_device.hpp"

#include <fmt/format.h>
#include <glob.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dmabridge::test {
namespace {

const nlohmann::json& devices() {
  static const nlohmann::json read = [] {
    std::ifstream file("/host/machine.json");
    return nlohmann::json::parse(file).at("devices");
  }();
  return read;
}

const nlohmann::json& device(const std::string& name) {
  if (!devices().contains(name))
    throw std::runtime_error(fmt::format("this topology has no device {}", name));
  return devices().at(name);
}

std::optional<std::string> find_place(const std::string& pattern) {
  glob_t found{};
  std::optional<std::string> path;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) path = found.gl_pathv[0];
  globfree(&found);
  return path;
}

// "0000:04:00.0"; empty while it is not plugged in.
std::string address_of(const nlohmann::json& found) {
  const auto path = find_place(found.at("place"));
  return path ? std::filesystem::path(*path).filename().string() : "";
}

}  // namespace

std::optional<std::string> find_device(const std::string& name) {
  return find_place(device(name).at("place"));
}

bool has_memory(const std::string& name) {
  return device(name).contains("memory");
}

dmabridge_region_info region_of(const std::string& name) {
  const auto path = find_device(name);
  for (const dmabridge_region_info& region : regions()) {
    if (path && path->ends_with("/" + pci_address(region.device))) return region;
  }
  throw std::runtime_error(fmt::format("{} has no region", name));
}

HostMemory host_memory(const dmabridge_region_info& region) {
  for (const nlohmann::json& each : devices()) {
    if (!each.contains("memory") || address_of(each) != pci_address(region.device)) continue;
    const nlohmann::json& memory = each.at("memory");
    HostMemory found{memory.at("file"), memory.at("offset"), memory.at("size"), std::nullopt};
    if (memory.contains("stolen")) found.stolen = memory.at("stolen").get<std::uint64_t>();
    return found;
  }
  throw std::runtime_error(fmt::format("no memory of this topology is region {}", region.name));
}

}  // namespace dmabridge::test

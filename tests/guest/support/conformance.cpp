// SPDX-License-Identifier: MIT
#include "conformance.hpp"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "fixture.hpp"

namespace dmabridge::test {

std::set<std::string> ConformanceReport::with(const std::string& outcome) const {
  std::set<std::string> names;
  for (const auto& [name, result] : checks)
    if (result.outcome == outcome) names.insert(name);
  return names;
}

std::string ConformanceReport::details(const std::string& outcome) const {
  std::string text;
  for (const auto& [name, result] : checks)
    if (result.outcome == outcome) text += fmt::format("  {}: {}\n", name, result.detail);
  return text;
}

bool tables_are_hidden() {
  return shell("grep -qx CONFIG_DMABUF_DEBUG=y /boot/config-$(uname -r)").status == 0;
}

ConformanceReport run_conformance(const std::string& arguments) {
  const std::string file = "/tmp/conformance.json";
  const Output output = shell("exporter-conformance --json " + arguments + " >" + file);
  if (output.status > 1) throw std::runtime_error("exporter-conformance: " + output.text);
  std::ifstream stream(file);
  const auto document = nlohmann::json::parse(stream);
  ConformanceReport report{output.status, {}};
  for (const auto& check : document.at("exporters").at(0).at("checks"))
    report.checks[check.at("group").get<std::string>() + ": " +
                  check.at("name").get<std::string>()] = {check.at("outcome"), check.at("detail"),
                                                          check.contains("known")};
  return report;
}

}  // namespace dmabridge::test

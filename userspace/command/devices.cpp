// SPDX-License-Identifier: MIT
#include "devices.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

namespace dmabridge::command {
namespace {

// Longer names make columns that no terminal has room for.
constexpr std::size_t longest_label = 8;
// A server's management controller has a display with less than this, a GPU has not.
constexpr std::uint64_t least_gpu_memory = std::uint64_t{128} << 20;

// PCI classes, by their upper 16 or 8 bits.
constexpr std::uint32_t display_class = 0x03;
constexpr std::uint32_t accelerator_class = 0x1200;
constexpr std::uint32_t nvme_class = 0x0108;
constexpr std::uint32_t ethernet_class = 0x0200;
constexpr std::uint32_t infiniband_class = 0x0207;

auto kind_by_class(std::uint32_t class_code) -> std::optional<device_kind> {
  if (class_code >> 16 == display_class) return device_kind::gpu;
  switch (class_code >> 8) {
    case accelerator_class:
      return device_kind::gpu;
    case nvme_class:
      return device_kind::drive;
    case infiniband_class:
      return device_kind::rdma;
    case ethernet_class:
      return device_kind::net;
    default:
      return {};
  }
}

auto prefix(device_kind kind) -> const char* {
  switch (kind) {
    case device_kind::gpu:
      return "GPU";
    case device_kind::region:
      return "MEM";
    case device_kind::drive:
      return "DRIVE";
    case device_kind::rdma:
      return "NIC";
    case device_kind::net:
      return "NET";
  }
  return "DEV";
}

// All devices by function, so that each is there once.
class collection {
 public:
  explicit collection(const topology& machine) : machine_(machine) {}

  // What names the function, if it is a function of this machine.
  auto add(const std::optional<pci_address>& address, device_kind kind) -> device* {
    const auto* function = address ? machine_.find(*address) : nullptr;
    if (function == nullptr) return nullptr;
    const auto [found, is_new] = devices_.try_emplace(*address);
    auto& entry = found->second;
    if (is_new) {
      entry.function = *address;
      entry.importer = to_string(*address);
      entry.driver = function->driver;
      entry.memory = largest_bar(*function);
    }
    entry.kind = is_new ? kind : std::min(entry.kind, kind);
    return &entry;
  }

  void add(const std::optional<pci_address>& address, device_kind kind, const std::string& name) {
    auto* entry = add(address, kind);
    if (entry == nullptr || name.empty()) return;
    entry->names.push_back(name);
    // Only of these is more known by their names than by their function.
    const auto is_first = entry->importer == to_string(entry->function);
    if (is_first && kind != device_kind::net && kind != device_kind::region) entry->importer = name;
  }

  auto take() -> std::vector<device> {
    std::vector<device> all;
    for (auto& [address, entry] : devices_) all.push_back(std::move(entry));
    return all;
  }

 private:
  const topology& machine_;
  std::map<pci_address, device> devices_;
};

auto is_small_display(const device& entry) -> bool {
  return entry.kind == device_kind::gpu &&
         (entry.memory == nullptr || entry.memory->size < least_gpu_memory);
}

// GPUs are numbered, as they are everywhere; others have names that people know.
void label(std::vector<device>& devices) {
  std::map<device_kind, unsigned> counts;
  for (auto& entry : devices) {
    const auto number = counts[entry.kind]++;
    const auto own = entry.kind != device_kind::gpu && !entry.names.empty() &&
                     entry.names.front().size() <= longest_label;
    entry.label = own ? entry.names.front() : fmt::format("{}{}", prefix(entry.kind), number);
  }
}

}  // namespace

auto to_string(device_kind kind) -> std::string {
  switch (kind) {
    case device_kind::gpu:
      return "gpu";
    case device_kind::region:
      return "region";
    case device_kind::drive:
      return "drive";
    case device_kind::rdma:
      return "rdma";
    case device_kind::net:
      return "net";
  }
  return "unknown";
}

auto largest_bar(const pci_function& function) noexcept -> const pci_bar* {
  const auto largest = std::ranges::max_element(function.bars, {}, &pci_bar::size);
  return largest != function.bars.end() && largest->size != 0 ? &*largest : nullptr;
}

auto list_devices(const topology& machine, std::span<const region_info> regions)
    -> std::vector<device> {
  collection all(machine);
  for (const auto& function : machine.functions) {
    if (const auto kind = kind_by_class(function.class_code)) all.add(function.address, *kind);
  }
  for (const auto& node : machine.drm) {
    all.add(node.function, device_kind::gpu, node.card);
    all.add(node.function, device_kind::gpu, node.render);
  }
  for (const auto& region : regions) {
    auto* entry = all.add(region.device, device_kind::region);
    if (entry == nullptr) continue;
    entry->names.push_back(region.name);
    if (entry->region == nullptr) entry->region = &region;
  }
  for (const auto& disk : machine.blocks) {
    if (disk.kind == block_kind::disk) all.add(disk.function, device_kind::drive, disk.name);
  }
  for (const auto& node : machine.rdma) all.add(node.function, device_kind::rdma, node.name);
  for (const auto& node : machine.nets) all.add(node.function, device_kind::net, node.name);

  auto devices = all.take();
  // Displays of management controllers last among the GPUs: GPU0 is what its owner calls so.
  std::ranges::stable_sort(devices, {}, [](const device& entry) {
    return std::pair(entry.kind, is_small_display(entry));
  });
  label(devices);
  return devices;
}

auto find_device(std::span<const device> devices, std::string_view label) noexcept
    -> const device* {
  const auto found = std::ranges::find(devices, label, &device::label);
  return found != devices.end() ? &*found : nullptr;
}

}  // namespace dmabridge::command

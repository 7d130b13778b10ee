// SPDX-License-Identifier: MIT
// The devices of a machine that peer-to-peer transfers are about, with short names.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dmabridge/control.hpp"
#include "dmabridge/topology.hpp"

namespace dmabridge::command {

enum class device_kind { gpu, region, drive, rdma, net };
auto to_string(device_kind kind) -> std::string;

// One PCI function. One that is several things is listed once, as the first of them in the order of
// device_kind.
struct device {
  std::string label{};  // short: "GPU0", "nvme0n1"
  device_kind kind = device_kind::gpu;
  pci_address function{};
  std::vector<std::string> names{};  // of the system's: "card0", "renderD128"; of regions
  std::string importer{};            // what importer_named() knows it by
  std::string driver{};
  const pci_bar* memory = nullptr;      // its largest BAR, in the topology; nullptr: it has none
  const region_info* region = nullptr;  // of ours, the first on it
};

// GPUs first, then the others in the order of device_kind, each in the order of addresses. The
// result refers to both arguments.
auto list_devices(const topology& machine, std::span<const region_info> regions)
    -> std::vector<device>;

// By label; nullptr: there is none.
auto find_device(std::span<const device> devices, std::string_view label) noexcept -> const device*;

// The BAR that a function's memory is behind, as a rule; nullptr: it has none.
auto largest_bar(const pci_function& function) noexcept -> const pci_bar*;

}  // namespace dmabridge::command

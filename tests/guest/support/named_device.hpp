// SPDX-License-Identifier: MIT
//
// The PCI functions that the guest's topology has names for: "vram0", "SAMESW". vm.py tells where
// each is, and which of the host's files is behind a memory, in /host/machine.json.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "abi.hpp"

namespace dmabridge::test {

// The memory behind a BAR, as the host sees it.
struct HostMemory {
  std::string file;      // in the run directory
  std::uint64_t offset;  // where in it the memory begins
  std::uint64_t size;
  std::optional<std::uint64_t> stolen;  // its address as RAM
};

// Folder in sysfs of the function with this name; nothing while it is not plugged in. Throws
// std::runtime_error if the topology has no such name.
std::optional<std::string> find_device(const std::string& name);

// Whether it is a GPU-like device. Throws as find_device() does.
bool has_memory(const std::string& name);

// Of a plugged-in memory. Throws std::runtime_error if it has no region.
dmabridge_region_info region_of(const std::string& name);

// Throws std::runtime_error if the region is of a function that the topology has no name for.
HostMemory host_memory(const dmabridge_region_info& region);

}  // namespace dmabridge::test

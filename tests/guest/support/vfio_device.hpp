// SPDX-License-Identifier: MIT
//
// A PCI function that vfio-pci has, opened by its IOMMU group.
#pragma once

#include <cstdint>
#include <string>

#include "fd.hpp"

namespace dmabridge::test {

// The group's node in /dev/vfio. Throws std::runtime_error if no IOMMU translates for it.
std::string vfio_group(const std::string& function);

class VfioDevice {
 public:
  // Throws std::system_error.
  explicit VfioDevice(const std::string& function);

  int get() const { return device_.get(); }
  // Where BAR `bar` begins in the device's file. Throws std::system_error.
  std::uint64_t bar_start(std::uint32_t bar) const;
  // Switches the function's memory on or off, which revokes its dma-bufs: 0 or -errno.
  int enable_memory(bool on);

 private:
  std::uint64_t region_start(std::uint32_t index) const;

  Fd container_, group_, device_;
};

}  // namespace dmabridge::test

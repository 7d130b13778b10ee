// SPDX-License-Identifier: MIT
#include "vfio_device.hpp"

#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "drives.hpp"

namespace dmabridge::test {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

std::string vfio_group(const std::string& function) {
  const std::filesystem::path group = "/sys/bus/pci/devices/" + function + "/iommu_group";
  if (!std::filesystem::exists(group))
    throw std::runtime_error("no IOMMU translates for " + function);
  return "/dev/vfio/" + std::filesystem::read_symlink(group).filename().string();
}

VfioDevice::VfioDevice(const std::string& function)
    : container_(open_file("/dev/vfio/vfio", O_RDWR)),
      group_(open_file(vfio_group(function), O_RDWR)) {
  int container = container_.get();
  if (ioctl(group_.get(), VFIO_GROUP_SET_CONTAINER, &container) != 0)
    fail("VFIO_GROUP_SET_CONTAINER");
  if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) != 0) fail("VFIO_SET_IOMMU");
  device_ = Fd(ioctl(group_.get(), VFIO_GROUP_GET_DEVICE_FD, function.c_str()));
  if (!device_) fail("VFIO_GROUP_GET_DEVICE_FD");
}

std::uint64_t VfioDevice::region_start(std::uint32_t index) const {
  vfio_region_info region{};
  region.argsz = sizeof(region);
  region.index = index;
  if (ioctl(device_.get(), VFIO_DEVICE_GET_REGION_INFO, &region) != 0)
    fail("VFIO_DEVICE_GET_REGION_INFO");
  return region.offset;
}

std::uint64_t VfioDevice::bar_start(std::uint32_t bar) const {
  return region_start(VFIO_PCI_BAR0_REGION_INDEX + bar);
}

int VfioDevice::enable_memory(bool on) {
  const auto at = static_cast<off_t>(region_start(VFIO_PCI_CONFIG_REGION_INDEX)) + PCI_COMMAND;
  std::uint16_t command = 0;
  if (pread(device_.get(), &command, sizeof(command), at) != sizeof(command)) return -errno;
  command &= static_cast<std::uint16_t>(~PCI_COMMAND_MEMORY);
  if (on) command |= PCI_COMMAND_MEMORY;
  return pwrite(device_.get(), &command, sizeof(command), at) == sizeof(command) ? 0 : -errno;
}

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// vfio-pci lends a PCI function to user space, and exports parts of its BARs as dma-bufs.
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include "exporter.hpp"
#include "support/abi.hpp"
#include "support/drives.hpp"
#include "support/fixture.hpp"
#include "support/pci_driver.hpp"
#include "support/vfio_device.hpp"

namespace dmabridge::test::conformance {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string sysfs(const std::string& function) {
  return "/sys/bus/pci/devices/" + function;
}

std::string driver_of(const std::string& function) {
  const fs::path link = sysfs(function) + "/driver";
  return fs::exists(link) ? fs::read_symlink(link).filename().string() : "";
}

struct Bar {
  std::uint32_t index = 0;
  std::uint64_t size = 0;
};

// The largest that is memory.
Bar largest_bar(const std::string& function) {
  constexpr std::uint64_t is_memory = 0x200;
  std::ifstream file(sysfs(function) + "/resource");
  Bar found;
  std::uint64_t start = 0, end = 0, flags = 0;
  file >> std::hex;
  for (std::uint32_t index = 0; index < PCI_STD_NUM_BARS && file >> start >> end >> flags; index++)
    if ((flags & is_memory) != 0 && end - start + 1 > found.size) found = {index, end - start + 1};
  return found;
}

// The function whose BAR is borrowed from its driver.
std::string choose(const std::string& wanted) {
  if (!wanted.empty()) return wanted;
  if (access("/dev/dmabridge", F_OK) == 0)
    for (const dmabridge_region_info& region : regions())
      if ((region.flags & DMABRIDGE_REGION_NOT_PCI) == 0) return pci_address(region.device);
  throw Unavailable("no function to lend: none has a region of dmabridge, and --vfio names none");
}

class VfioPci : public Exporter {
 public:
  explicit VfioPci(const Wish& wish) : function_(choose(wish.vfio_function)) {
    const fs::path group = sysfs(function_) + "/iommu_group";
    if (!fs::exists(group))
      throw Unavailable(
          "no IOMMU translates for " + function_ +
          ", and vfio-pci lends no function without (Debian's kernel is built without "
          "VFIO_NOIOMMU); boot with one, as tests/vm --topology two-ports-iommu does");
    group_ = vfio_group(function_);
    bar_ = largest_bar(function_);
    if (bar_.size == 0) throw Unavailable(function_ + " has no memory BAR");
    size_ = std::min(wish.size, bar_.size);

    const Output loaded = shell("modprobe vfio-pci && modprobe vfio_iommu_type1");
    if (loaded.status != 0) throw Unavailable("cannot load vfio-pci: " + loaded.text);
    driver_ = driver_of(function_);
    const int error = bind_function(function_, "vfio-pci");
    if (error == 0 && eventually([&] { return access(group_.c_str(), F_OK) == 0; })) {
      const std::string reason = try_out();
      if (reason.empty()) return;
      give_back();
      throw Unavailable(reason);
    }
    give_back();
    throw Unavailable("vfio-pci does not bind " + function_ + ": " +
                      (error != 0 ? std::strerror(-error) : "there is no " + group_));
  }
  ~VfioPci() override { give_back(); }

  std::string name() const override { return "vfio-pci"; }

  Fd make() override {
    if (!device_) device_.emplace(function_);
    const std::size_t length = sizeof(vfio_device_feature) + sizeof(vfio_device_feature_dma_buf) +
                               sizeof(vfio_region_dma_range);
    // Of 8-byte words, as the structures want it.
    std::vector<std::uint64_t> room((length + 7) / 8);
    auto* feature = reinterpret_cast<vfio_device_feature*>(room.data());
    feature->argsz = static_cast<std::uint32_t>(length);
    feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
    auto* argument = reinterpret_cast<vfio_device_feature_dma_buf*>(feature->data);
    argument->region_index = bar_.index;
    argument->open_flags = O_RDWR | O_CLOEXEC;
    argument->nr_ranges = 1;
    argument->dma_ranges[0] = {0, size_};
    Fd buffer(ioctl(device_->get(), VFIO_DEVICE_FEATURE, feature));
    if (!buffer) fail("VFIO_DEVICE_FEATURE_DMA_BUF");
    return buffer;
  }

  // By switching off the function's memory. Closing the device undoes that.
  bool can_revoke() const override { return true; }
  int revoke() override { return device_->enable_memory(false); }

 private:
  // Once, so that what is missing is told once. Empty: all is there.
  std::string try_out() {
    try {
      make();
      device_.reset();
      return "";
    } catch (const std::system_error& error) {
      device_.reset();
      std::string reason = error.what();
      if (error.code().value() == EPERM)
        reason +=
            " (an IOMMU that does not remap interrupts is refused unless "
            "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts is Y)";
      return reason;
    }
  }

  void give_back() {
    device_.reset();
    if (driver_.empty())
      unbind_function(function_);
    else
      bind_function(function_, driver_);
  }

  const std::string function_;
  std::string group_;
  std::string driver_;  // that had it
  Bar bar_;
  std::uint64_t size_ = 0;
  std::optional<VfioDevice> device_;
};

}  // namespace

std::unique_ptr<Exporter> vfio_pci(const Wish& wish) {
  return std::make_unique<VfioPci>(wish);
}

}  // namespace dmabridge::test::conformance

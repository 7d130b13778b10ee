// SPDX-License-Identifier: MIT
#include "dmabridge/vfio_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/vfio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/size.hpp"
#include "memory_range.hpp"
#include "page.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

struct bar_range {
  std::uint32_t bar;
  std::uint64_t offset;
  std::uint64_t size;
};

auto attempt(const bar_range& wanted) -> std::string {
  return fmt::format("export {} of BAR {} of a vfio device", format_size(wanted.size), wanted.bar);
}

[[noreturn]] void fail_copy(const char* doing, int code) {
  error_details details{.kind = error_kind::io,
                        .attempted = fmt::format("{} the memory of a vfio device", doing),
                        .code = code};
  if (code == EIO) {
    details.detail = "the function's memory is disabled, or it is being reset";
    details.remedies = {"enable memory in its PCI_COMMAND register, and try again"};
  }
  throw error(std::move(details));
}

class vfio_owner final : public memory_owner {
 public:
  // `at`: where the range begins in the file.
  vfio_owner(fd device, std::uint64_t at, std::uint64_t size) noexcept
      : device_(std::move(device)), at_(at), size_(size) {}

  auto name() const -> std::string override { return "vfio-pci"; }

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    check_copy(*this, size_, offset, from.size());
    while (!from.empty()) {
      const auto done = sys().pwrite(device_.get(), from.data(), from.size(), at_ + offset);
      if (done <= 0) fail_copy("copy bytes into", done < 0 ? static_cast<int>(-done) : EIO);
      from = from.subspan(static_cast<std::size_t>(done));
      offset += static_cast<std::uint64_t>(done);
    }
  }

  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    check_copy(*this, size_, offset, into.size());
    while (!into.empty()) {
      const auto done = sys().pread(device_.get(), into.data(), into.size(), at_ + offset);
      if (done <= 0) fail_copy("copy bytes out of", done < 0 ? static_cast<int>(-done) : EIO);
      into = into.subspan(static_cast<std::size_t>(done));
      offset += static_cast<std::uint64_t>(done);
    }
  }

 private:
  fd device_;
  std::uint64_t at_;
  std::uint64_t size_;
};

[[noreturn]] void refuse(const bar_range& wanted, std::string detail, std::string remedy) {
  throw error({.kind = error_kind::usage,
               .attempted = attempt(wanted),
               .detail = std::move(detail),
               .remedies = {std::move(remedy)}});
}

auto take_device(int device, const bar_range& wanted) -> fd {
  std::error_code ec;
  auto copy = fd::duplicate(device, ec);
  if (!ec) return copy;
  if (ec.value() == EBADF)
    refuse(wanted, fmt::format("this process has no fd {}", device), "give a vfio device's fd");
  throw error({.attempted = attempt(wanted), .code = ec.value()});
}

// Where the BAR begins in the device's file.
auto find_bar(int device, const bar_range& wanted) -> std::uint64_t {
  vfio_region_info info{};
  info.argsz = sizeof(info);
  info.index = wanted.bar;
  const auto result = sys().ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &info);
  if (result == -ENOTTY)
    refuse(wanted, "the fd is not that of a vfio device",
           "give what VFIO_GROUP_GET_DEVICE_FD gave, or /dev/vfio/devices/vfioN");
  if (wanted.bar > VFIO_PCI_BAR5_REGION_INDEX || result == -EINVAL || (result == 0 && !info.size))
    refuse(wanted, "the function has no such BAR", "lspci -v lists its memory");
  if (result < 0) throw error({.attempted = attempt(wanted), .code = -result});
  if (wanted.offset <= info.size && wanted.size <= info.size - wanted.offset) return info.offset;
  refuse(wanted,
         fmt::format("{} bytes from {} leave the BAR, which has {}", wanted.size, wanted.offset,
                     info.size),
         "choose a range in it");
}

void check_aligned(const bar_range& wanted) {
  const auto page = page_size();
  if (wanted.size != 0 && wanted.size % page == 0 && wanted.offset % page == 0) return;
  refuse(wanted,
         fmt::format("{} bytes from {} are no whole pages of {} bytes", wanted.size, wanted.offset,
                     page),
         fmt::format("choose multiples of {}, and not 0", page));
}

[[noreturn]] void fail_export(const bar_range& wanted, int code) {
  error_details details{.attempted = attempt(wanted), .code = code};
  switch (code) {
    case ENOTTY:
    case EOPNOTSUPP:
      details.detail = "this kernel, or the driver that lends the function, exports no dma-bufs";
      details.remedies = {
          "boot Linux 6.19 or later with CONFIG_VFIO_PCI_DMABUF=y, and bind the "
          "function to vfio-pci"};
      break;
    case EINVAL:
      details.detail =
          "the kernel takes the BAR for no memory that peers can reach: I/O ports, or a kernel "
          "without CONFIG_PCI_P2PDMA";
      break;
    case ENODEV:
      details.detail = "the BAR is not in use by vfio-pci, or the device is going";
      break;
    default:
      break;
  }
  throw error(std::move(details));
}

// The fixed part of VFIO_DEVICE_FEATURE, the feature's own, and one range, as the kernel reads
// them.
struct dma_buf_request {
  std::uint32_t argsz = sizeof(dma_buf_request);
  std::uint32_t flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF;
  std::uint32_t region_index = 0;
  std::uint32_t open_flags = O_RDWR | O_CLOEXEC;
  std::uint32_t dma_buf_flags = 0;
  std::uint32_t nr_ranges = 1;
  vfio_region_dma_range range{};
};
static_assert(offsetof(dma_buf_request, region_index) == offsetof(vfio_device_feature, data));
static_assert(offsetof(dma_buf_request, range) ==
              sizeof(vfio_device_feature) + offsetof(vfio_device_feature_dma_buf, dma_ranges));

auto export_range(int device, const bar_range& wanted) -> buffer {
  dma_buf_request request;
  request.region_index = wanted.bar;
  request.range = {wanted.offset, wanted.size};
  const auto made = sys().ioctl(device, VFIO_DEVICE_FEATURE, &request);
  if (made < 0) fail_export(wanted, -made);
  return buffer::from_fd(fd(made));
}

}  // namespace

auto export_vfio(int device, std::uint32_t bar, std::uint64_t offset, std::uint64_t size)
    -> exported_memory {
  const bar_range wanted{bar, offset, size};
  check_aligned(wanted);
  auto own = take_device(device, wanted);
  const auto start = find_bar(own.get(), wanted);
  auto memory = export_range(own.get(), wanted);
  auto owner = std::make_unique<vfio_owner>(std::move(own), start + offset, size);
  return {std::move(memory), 0, size, std::move(owner)};
}

}  // namespace dmabridge

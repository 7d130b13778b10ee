// SPDX-License-Identifier: MIT
#include "dmabridge/drm_memory.hpp"

#include <drm/drm.h>
#include <drm/drm_mode.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "dmabridge/exporter_rules.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/size.hpp"
#include "drm_file.hpp"
#include "drm_ioctl.hpp"
#include "drm_placement.hpp"
#include "mapped_owner.hpp"
#include "page.hpp"

namespace dmabridge {
namespace {

// A dumb buffer is a picture of 32-bit pixels; a line of it is as long as every driver's pitch
// divides.
constexpr std::uint64_t dumb_line = 4096;
constexpr std::uint64_t dumb_limit = std::uint64_t{4} << 30;

[[noreturn]] void fail(std::string attempted, int code, std::string detail,
                       std::vector<std::string> remedies = {},
                       error_kind kind = error_kind::system) {
  throw error({.kind = kind,
               .attempted = std::move(attempted),
               .code = code,
               .detail = std::move(detail),
               .remedies = std::move(remedies)});
}

[[noreturn]] void fail_open(const std::string& path, int code) {
  const auto attempted = fmt::format("open the DRM node {}", path);
  switch (code) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      fail(attempted, code, "there is none of that name",
           {"ls /dev/dri tells which there are; load the device's driver if it is not among them"});
    case EACCES:
    case EPERM:
      fail(attempted, code, "this user has no permission to open it",
           {"join its group (render for /dev/dri/renderD*, video for /dev/dri/card*), as root: "
            "usermod -aG render,video USER, and log in again"});
    default:
      fail(attempted, code, "");
  }
}

auto driver_of(int file) -> std::string {
  std::array<char, 64> name{};
  drm_version argument{};
  argument.name = name.data();
  argument.name_len = name.size() - 1;
  const auto result = drm_ioctl(file, DRM_IOCTL_VERSION, &argument);
  if (result < 0) {
    fail(fmt::format("use fd {} as a DRM device", file), -result, "it is no DRM node",
         {"give an fd of /dev/dri/card* or /dev/dri/renderD*"}, error_kind::usage);
  }
  return name.data();
}

[[noreturn]] void fail_export(const drm_device& device, std::uint32_t handle, int code) {
  const auto attempted = fmt::format("export GEM handle {} of {}", handle, device.driver());
  switch (code) {
    case ENOENT:
      fail(attempted, code, "this open file of the device has no such handle",
           {"give the fd that the handle was made with: handles count for one open file"},
           error_kind::usage);
    case ENOSYS:
    case EOPNOTSUPP:
      fail(attempted, code, "the driver exports nothing");
    case EPERM:
      fail(attempted, code, "the driver does not share this memory",
           {"make it neither from user pages (userptr) nor for one GPU address space alone: not "
            "AMDGPU_GEM_CREATE_VM_ALWAYS_VALID, and without a vm_id on xe"});
    default:
      fail(attempted, code, "");
  }
}

auto export_handle(const drm_device& device, std::uint32_t handle) -> buffer {
  drm_prime_handle argument{};
  argument.handle = handle;
  argument.flags = DRM_CLOEXEC | DRM_RDWR;
  argument.fd = -1;
  const auto result = drm_ioctl(device.descriptor(), DRM_IOCTL_PRIME_HANDLE_TO_FD, &argument);
  if (result < 0) fail_export(device, handle, -result);
  return buffer::from_fd(fd(argument.fd));
}

auto with_owner(const drm_device& device, buffer memory, std::uint64_t offset, std::uint64_t size)
    -> exported_memory {
  auto owner =
      std::make_unique<mapped_owner>(fmt::format("drm ({})", device.driver()), memory, offset, size,
                                     rules_of(memory.exporter(), device.driver()));
  return {std::move(memory), offset, size, std::move(owner)};
}

// Of memory that only the export is to keep: the handle goes in any case.
auto export_once(const drm_device& device, std::uint32_t handle, std::uint64_t size)
    -> exported_memory {
  struct handle_closer {
    drm_file& file;
    std::uint32_t handle;
    ~handle_closer() { file.close(handle); }
  };
  const handle_closer closer{*device.file(), handle};
  return with_owner(device, export_handle(device, handle), 0, size);
}

[[noreturn]] void fail_import(const drm_device& device, const buffer& memory, int code) {
  const auto exporter = memory.exporter();
  const auto attempted =
      fmt::format("import a dma-buf of {} into {}",
                  exporter.empty() ? "an unknown exporter" : exporter, device.driver());
  switch (code) {
    case ENODEV:
    case ENOSYS:
      fail(attempted, code,
           fmt::format("{} takes no dma-bufs of others, or the exporter's device is gone",
                       device.driver()),
           {"share the other way round: export memory of this driver, and let the other import it"},
           error_kind::refused);
    case EOPNOTSUPP:
      fail(attempted, code,
           "the exporter refuses this device: it cannot reach the memory by P2P, or could not give "
           "it up when it is revoked",
           {"for memory of dmabridge, dmabridge explain tells why; let the buffer be in system "
            "memory (policy prefer)",
            "memory of vfio-pci can be imported by RDMA devices and accelerators alone"},
           error_kind::refused);
    default:
      fail(attempted, code, "");
  }
}

[[noreturn]] void fail_dumb(const drm_device& device, std::uint64_t size, int code) {
  const auto attempted =
      fmt::format("allocate a dumb buffer of {} of {}", format_size(size), device.driver());
  switch (code) {
    case EACCES:
      fail(attempted, code, "that is for primary nodes, and this is a render node",
           {"open /dev/dri/card* of the device; its group is video",
            "or allocate by the driver's own calls, which render nodes have: allocate_drm()"});
    case ENOSYS:
      fail(attempted, code, "the driver has no dumb buffers",
           {"allocate by the driver's own calls, or by Vulkan, and export that"});
    case ENOMEM:
    case ENOSPC:
      fail(attempted, code, "there is not so much memory of that kind left",
           {"free some, or ask for less"});
    default:
      fail(attempted, code, "");
  }
}

[[noreturn]] void fail_placed(const std::string& attempted, drm_placement where, int code) {
  const bool in_device = where == drm_placement::device;
  switch (code) {
    case ENODEV:
    case EINVAL:
      if (in_device) {
        fail(attempted, code, "the device seems to have no memory of its own",
             {"an integrated GPU uses the machine's: allocate drm_placement::system"});
      }
      break;
    case ENOMEM:
    case ENOSPC:
      fail(attempted, code, "there is not so much memory of that kind left",
           {"free some, or ask for less",
            "if the BAR is smaller than the VRAM, only that much can "
            "be allocated: enable Resizable BAR in the firmware"});
    default:
      break;
  }
  fail(attempted, code, "");
}

}  // namespace

auto drm_device::open(const std::string& path) -> drm_device {
  std::error_code ec;
  auto opened = fd::open(path, O_RDWR, 0, ec);
  if (ec) fail_open(path, ec.value());
  auto driver = driver_of(opened.get());
  return drm_device(std::make_shared<drm_file>(std::move(opened), std::move(driver)));
}

auto drm_device::duplicate(int descriptor) -> drm_device {
  std::error_code ec;
  auto copy = fd::duplicate(descriptor, ec);
  if (ec) {
    const bool none = ec.value() == EBADF;
    fail(fmt::format("use fd {} as a DRM device", descriptor), ec.value(),
         none ? "this process has no such fd" : "", {},
         none ? error_kind::usage : error_kind::system);
  }
  auto driver = driver_of(copy.get());
  return drm_device(std::make_shared<drm_file>(std::move(copy), std::move(driver)));
}

auto drm_device::descriptor() const noexcept -> int {
  return file_->descriptor();
}

auto drm_device::driver() const noexcept -> const std::string& {
  return file_->driver();
}

drm_handle::drm_handle(std::shared_ptr<drm_file> file, std::uint32_t value) noexcept
    : file_(std::move(file)), value_(value) {}

drm_handle::drm_handle(drm_handle&& other) noexcept
    : file_(std::move(other.file_)), value_(std::exchange(other.value_, 0)) {}

auto drm_handle::operator=(drm_handle&& other) noexcept -> drm_handle& {
  std::swap(file_, other.file_);
  std::swap(value_, other.value_);
  return *this;
}

drm_handle::~drm_handle() {
  if (file_) file_->drop(value_);
}

auto export_drm(const drm_device& device, std::uint32_t handle) -> exported_memory {
  auto memory = export_handle(device, handle);
  const auto size = memory.size();
  return with_owner(device, std::move(memory), 0, size);
}

auto export_drm(const drm_device& device, std::uint32_t handle, std::uint64_t offset,
                std::uint64_t size) -> exported_memory {
  return with_owner(device, export_handle(device, handle), offset, size);
}

auto import_drm(const drm_device& device, const buffer& memory) -> drm_handle {
  std::uint32_t handle = 0;
  const auto result = device.file()->import(memory.descriptor(), handle);
  if (result < 0) fail_import(device, memory, -result);
  return {device.file(), handle};
}

auto allocate_dumb(const drm_device& device, std::uint64_t size) -> exported_memory {
  const auto whole = round_up(size, dumb_line);
  if (size == 0 || !whole || *whole >= dumb_limit) {
    fail(fmt::format("allocate a dumb buffer of {}", format_size(size)), 0,
         "dumb buffers have at least a byte, and less than 4 GiB",
         {"allocate several, or by the driver's own calls"}, error_kind::usage);
  }
  drm_mode_create_dumb argument{};
  argument.width = dumb_line / 4;
  argument.height = static_cast<std::uint32_t>(*whole / dumb_line);
  argument.bpp = 32;
  const auto result = drm_ioctl(device.descriptor(), DRM_IOCTL_MODE_CREATE_DUMB, &argument);
  if (result < 0) fail_dumb(device, size, -result);
  return export_once(device, argument.handle, size);
}

auto allocate_drm(const drm_device& device, std::uint64_t size, drm_placement where)
    -> exported_memory {
  const auto attempted =
      fmt::format("allocate {} of {} in {}", format_size(size), device.driver(),
                  where == drm_placement::device ? "the device's memory" : "system memory");
  const auto whole = round_up(size, page_size());
  if (size == 0 || !whole) fail(attempted, 0, "that is no size of memory", {}, error_kind::usage);
  if (!can_place(device.driver())) {
    fail(attempted, 0,
         fmt::format("this library knows no such call of {}: of amdgpu, i915 and xe only",
                     device.driver()),
         {"allocate_dumb(), or allocate by an API that knows the GPU, such as Vulkan, and export "
          "that"},
         error_kind::usage);
  }
  const auto created = create_placed(device.descriptor(), device.driver(), *whole, where);
  if (created.result < 0) fail_placed(attempted, where, -created.result);
  return export_once(device, created.handle, size);
}

}  // namespace dmabridge

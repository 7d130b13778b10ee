// SPDX-License-Identifier: MIT
#include "dmabridge/region.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "ioctl_failure.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto fits(const region_info& region, const std::string& spec) -> bool {
  if (spec.empty() || spec == region.name || spec == region.node) return true;
  const auto address = pci_address::parse(spec);
  return address && address == region.device;
}

auto owner(const region_info& region) -> std::string {
  if (region.unregistered) {
    return region.quarantined != 0 ? "memory in quarantine" : "a device that is gone";
  }
  return region.device ? "device " + to_string(*region.device) : "driver " + region.driver;
}

auto list(const std::vector<region_info>& regions) -> std::string {
  std::string names;
  for (const auto& region : regions) {
    if (!names.empty()) names += ", ";
    names += fmt::format("{} ({} of {})", region.name, format_size(region.size), owner(region));
  }
  return names;
}

[[noreturn]] void fail_open(const region_info& region, int code) {
  error_details details{.kind = error_kind::system,
                        .attempted = "open the region's node " + region.node,
                        .code = code};
  switch (code) {
    case EACCES:
    case EPERM:
      details.detail =
          "this user may not allocate in the region (by default root and group render)";
      details.remedies = {
          "as root: usermod -aG render USER, then log in again; or run this as root"};
      break;
    case ENOENT:
      details.detail =
          "the region has no node; either it is just going away, or nothing makes nodes "
          "in /dev here";
      details.remedies = {
          "mount -t devtmpfs devtmpfs /dev, or run where the host's /dev is visible"};
      break;
    case ENXIO:
    case ENODEV:
      details.detail = "its device is gone";
      break;
    default:
      break;
  }
  throw error(std::move(details));
}

}  // namespace

auto find_region(const std::vector<region_info>& regions, const std::string& spec)
    -> const region_info& {
  const region_info* found = nullptr;
  error_details details{.kind = error_kind::usage,
                        .attempted = spec.empty() ? std::string("choose a region")
                                                  : fmt::format("find the region \"{}\"", spec)};
  if (regions.empty()) {
    details.kind = error_kind::system;
    details.detail = "there is no region: no driver exports memory";
    details.remedies = {
        "load a driver that exports memory, or give a PCI function ADDRESS to the generic one; as "
        "root: modprobe dmabridge_pci; echo dmabridge_pci > "
        "/sys/bus/pci/devices/ADDRESS/driver_override; echo ADDRESS > /sys/bus/pci/drivers_probe"};
    throw error(std::move(details));
  }
  for (const auto& region : regions) {
    if (!fits(region, spec)) continue;
    // What is only kept for those who pinned it gives way to what can be used.
    if (found != nullptr && region.unregistered) continue;
    if (found != nullptr && !found->unregistered) {
      details.detail = "there are several: " + list(regions);
      details.remedies = {"name one of them"};
      throw error(std::move(details));
    }
    found = &region;
  }
  if (found == nullptr) {
    details.detail = "there is none of that name, node or device, only " + list(regions);
    throw error(std::move(details));
  }
  return *found;
}

auto allocate(const region_info& region, std::uint64_t size, policy wanted) -> buffer {
  std::error_code ec;
  const auto node = fd::open(region.node, O_RDWR, 0, ec);
  if (ec) fail_open(region, ec.value());

  dmabridge_alloc raw{};
  raw.size = size;
  raw.policy = static_cast<std::uint32_t>(wanted);
  raw.fd = -1;
  const auto result = sys().ioctl(node.get(), DMABRIDGE_IOCTL_ALLOC, &raw);
  if (result < 0) {
    auto details =
        ioctl_failure(fmt::format("allocate {} in region {}", format_size(size), region.name),
                      -result, DMABRIDGE_ABI_VERSION);
    if (result == -ENOSPC || result == -ENOMEM) {
      details.detail = fmt::format(
          "{} of {} are available, of which at most {} may be handed out at a time",
          format_size(region.available), format_size(region.size), format_size(region.limit));
      details.remedies = {size > region.limit
                              ? "load a part of it (--offset, --length), or use a larger region"
                              : "release buffers of the region, or ask for less"};
    }
    if (result == -EOPNOTSUPP) {
      details.detail = "the region is system memory, which nobody reaches peer to peer";
      details.remedies = {"use a region of device memory, or policy prefer"};
    }
    if (result == -EBUSY) {
      details.detail = "its driver has suspended the device, or is resetting it";
      details.remedies = {"wait until dmabridge info says that it is in use again, then try again"};
    }
    if (result == -ENODEV) details.detail = "its device is gone";
    throw error(std::move(details));
  }
  return buffer::from_fd(fd(raw.fd));
}

auto may_allocate(const region_info& region) noexcept -> bool {
  return sys().access(region.node.c_str(), R_OK | W_OK) == 0;
}

}  // namespace dmabridge

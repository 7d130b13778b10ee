// SPDX-License-Identifier: MIT
#include "dmabridge/control.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "dmabridge/error.hpp"
#include "ioctl_failure.hpp"
#include "kernel_text.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

[[noreturn]] void fail_open(int code) {
  error_details details{
      .kind = error_kind::system, .attempted = fmt::format("open {}", control::node), .code = code};
  switch (code) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      details.detail = "the kernel module is not loaded";
      details.remedies = {
          "as root: modprobe dmabridge (and modprobe dmabridge_pci, "
          "dmabridge_block)"};
      break;
    case EACCES:
    case EPERM:
      details.detail = "this user has no permission to open it";
      details.remedies = {
          fmt::format("as root: chmod 0666 {} (which is what the module makes it)", control::node)};
      break;
    default:
      break;
  }
  throw error(std::move(details));
}

auto to_region(const dmabridge_region_info& raw) -> region_info {
  region_info region;
  region.id = raw.id;
  region.name = kernel_text(raw.name);
  region.node = "/dev/dmabridge-" + region.name;
  region.kind = static_cast<region_kind>(raw.kind);
  if ((raw.flags & DMABRIDGE_REGION_NOT_PCI) == 0) region.device = pci_address::unpack(raw.device);
  region.bar = raw.bar;
  region.driver = kernel_text(raw.driver);
  region.has_pages = (raw.flags & DMABRIDGE_REGION_HAS_PAGES) != 0;
  region.takes_unrevocable = (raw.flags & DMABRIDGE_REGION_TAKES_UNREVOCABLE) != 0;
  region.has_engine = (raw.flags & DMABRIDGE_REGION_HAS_ENGINE) != 0;
  region.suspended = (raw.flags & DMABRIDGE_REGION_SUSPENDED) != 0;
  // An older module has the one flag for both.
  region.unregistered =
      (raw.flags & (DMABRIDGE_REGION_UNREGISTERED | DMABRIDGE_REGION_QUARANTINED)) != 0;
  region.buffers = raw.nr_buffers;
  region.size = raw.size;
  region.available = raw.available;
  region.limit = raw.limit;
  region.move_limit = raw.move_limit;
  region.quarantined = raw.quarantined;
  return region;
}

auto to_user(const dmabridge_user& raw) -> buffer_user {
  buffer_user user;
  user.kind = static_cast<user_kind>(raw.kind);
  user.name = kernel_text(raw.name);
  user.driver = kernel_text(raw.driver);
  if ((raw.flags & DMABRIDGE_USER_HAS_DEVICE) != 0) user.device = pci_address::unpack(raw.device);
  user.policy = static_cast<policy>(raw.policy);
  user.needs_system = (raw.flags & DMABRIDGE_USER_NEEDS_SYSTEM) != 0;
  user.needs_device = (raw.flags & DMABRIDGE_USER_NEEDS_DEVICE) != 0;
  user.p2p = (raw.flags & DMABRIDGE_USER_P2P) != 0;
  user.peer2peer = (raw.flags & DMABRIDGE_USER_PEER2PEER) != 0;
  user.revocable = (raw.flags & DMABRIDGE_USER_REVOCABLE) != 0;
  user.pinned = (raw.flags & DMABRIDGE_USER_PINNED) != 0;
  user.bounces = (raw.flags & DMABRIDGE_USER_BOUNCES) != 0;
  user.verdict = verdict::from_kernel(raw.verdict);
  return user;
}

auto to_buffer(const dmabridge_query& raw) -> buffer_info {
  buffer_info info;
  info.region = kernel_text(raw.region);
  info.region_id = raw.region_id;
  info.placement = static_cast<placement>(raw.placement);
  info.policy = static_cast<policy>(raw.policy);
  info.revoked = (raw.flags & DMABRIDGE_BUFFER_REVOKED) != 0;
  info.size = raw.size;
  info.generation = raw.generation;
  info.moves = raw.moves;
  if (raw.last_move.code != DMABRIDGE_REASON_NONE) {
    info.last_move = reason::from_kernel(raw.last_move);
  }
  if (raw.last_refused.kind != 0) info.last_refused = to_user(raw.last_refused);
  return info;
}

}  // namespace

auto to_string(region_kind kind) -> std::string {
  switch (kind) {
    case region_kind::bar:
      return "bar";
    case region_kind::stolen:
      return "stolen";
    case region_kind::system:
      return "system";
  }
  return fmt::format("unknown_region_kind_{}", static_cast<std::uint32_t>(kind));
}

auto to_string(user_kind kind) -> std::string {
  switch (kind) {
    case user_kind::static_attachment:
      return "static_attachment";
    case user_kind::dynamic_attachment:
      return "dynamic_attachment";
    case user_kind::binding:
      return "binding";
    case user_kind::hold:
      return "hold";
  }
  return fmt::format("unknown_user_kind_{}", static_cast<std::uint32_t>(kind));
}

control::control() {
  std::error_code ec;
  fd_ = fd::open(node, O_RDWR, 0, ec);
  if (ec) fail_open(ec.value());

  dmabridge_info raw{};
  const auto result = sys().ioctl(fd_.get(), DMABRIDGE_IOCTL_INFO, &raw);
  if (result < 0)
    throw error(ioctl_failure(fmt::format("ask {} for its version", node), -result, 0));
  abi_version_ = raw.abi_version;
}

auto control::info() const -> module_info {
  dmabridge_info raw{};
  const auto result = sys().ioctl(fd_.get(), DMABRIDGE_IOCTL_INFO, &raw);
  if (result < 0)
    throw error(ioctl_failure(fmt::format("ask {} what it has", node), -result, abi_version_));
  return {.abi_version = raw.abi_version,
          .regions = raw.nr_regions,
          .block_importer = (raw.importers >> DMABRIDGE_IMPORTER_BLOCK & 1) != 0};
}

auto control::regions() const -> std::vector<region_info> {
  std::vector<region_info> found;
  for (std::uint64_t next = 0; next <= UINT32_MAX;) {
    dmabridge_region_info raw{};
    raw.id = static_cast<std::uint32_t>(next);
    const auto result = sys().ioctl(fd_.get(), DMABRIDGE_IOCTL_REGION, &raw);
    if (result == -ENOENT) break;
    if (result < 0) throw error(ioctl_failure("list the regions", -result, abi_version_));
    found.push_back(to_region(raw));
    next = std::uint64_t{raw.id} + 1;
  }
  return found;
}

auto control::query(int buffer) const -> buffer_info {
  std::vector<dmabridge_user> users(8);
  std::vector<dmabridge_chunk> chunks(64);
  for (;;) {
    dmabridge_query raw{};
    raw.fd = buffer;
    raw.users = reinterpret_cast<std::uintptr_t>(users.data());
    raw.max_users = static_cast<std::uint32_t>(users.size());
    raw.user_size = sizeof(dmabridge_user);
    raw.chunks = reinterpret_cast<std::uintptr_t>(chunks.data());
    raw.max_chunks = static_cast<std::uint32_t>(chunks.size());
    const auto result = sys().ioctl(fd_.get(), DMABRIDGE_IOCTL_QUERY, &raw);
    if (result < 0) {
      auto details =
          ioctl_failure(fmt::format("query the buffer of fd {}", buffer), -result, abi_version_);
      if (result == -EMEDIUMTYPE) details.detail = "it is a dma-buf of another exporter";
      if (result == -EINVAL) details.detail = "it is no dma-buf";
      throw error(std::move(details));
    }
    // Users come and go between two calls, so ask again until all fit.
    if (raw.nr_users > users.size() || raw.nr_chunks > chunks.size()) {
      users.resize(std::max<std::size_t>(users.size(), std::size_t{raw.nr_users} * 2));
      chunks.resize(std::max<std::size_t>(chunks.size(), std::size_t{raw.nr_chunks} * 2));
      continue;
    }
    auto info = to_buffer(raw);
    users.resize(raw.nr_users);
    chunks.resize(raw.nr_chunks);
    for (const auto& user : users) info.users.push_back(to_user(user));
    for (const auto& run : chunks) info.chunks.push_back({run.offset, run.length});
    return info;
  }
}

auto control::hold(int buffer, placement where) const -> fd {
  dmabridge_hold raw{};
  raw.fd = buffer;
  raw.placement = static_cast<std::uint32_t>(where);
  raw.hold_fd = -1;
  const auto result = sys().ioctl(fd_.get(), DMABRIDGE_IOCTL_HOLD, &raw);
  if (result < 0) {
    auto details = ioctl_failure(
        fmt::format("hold the buffer of fd {} in placement {}", buffer, to_string(where)), -result,
        abi_version_);
    add_verdict(details, raw.verdict);
    throw error(std::move(details));
  }
  return fd(raw.hold_fd);
}

auto control::move(int buffer, placement where) const -> verdict {
  dmabridge_move raw{};
  raw.fd = buffer;
  raw.placement = static_cast<std::uint32_t>(where);
  const auto result = sys().ioctl(fd_.get(), DMABRIDGE_IOCTL_MOVE, &raw);
  if (result < 0) {
    auto details = ioctl_failure(
        fmt::format("move the buffer of fd {} to placement {}", buffer, to_string(where)), -result,
        abi_version_);
    add_verdict(details, raw.verdict);
    throw error(std::move(details));
  }
  return verdict::from_kernel(raw.verdict);
}

}  // namespace dmabridge

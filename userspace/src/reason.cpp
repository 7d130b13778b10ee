// SPDX-License-Identifier: MIT
#include "dmabridge/reason.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "dmabridge/verdict.hpp"
#include "kernel_text.hpp"

namespace dmabridge {
namespace {

// The one place that says what a reason means. Texts are sentences without a full stop.
constexpr auto table = std::to_array<reason_description>({
    {DMABRIDGE_REASON_NONE, "none", "no reason was given", "", ""},

    {DMABRIDGE_REASON_REVOKED, "revoked", "the device that the buffer was on is gone",
     "device {device} was unbound, reset or unplugged; the bytes are lost",
     "allocate a new buffer once the driver of {device} is bound again"},
    {DMABRIDGE_REASON_POLICY_FORBID, "policy_forbid", "the policy forbids peer to peer", "",
     "use policy prefer, both for the buffer and for the importer"},
    {DMABRIDGE_REASON_POLICY_CONFLICT, "policy_conflict",
     "the policies of the buffer and of the importer contradict each other",
     "the buffer says {buffer_policy}, the importer {importer_policy}",
     "give both the same policy, or prefer to one of them"},
    {DMABRIDGE_REASON_DEMOTED, "demoted",
     "the buffer is in system memory because another user cannot reach it on its device",
     "that user: {name} {device}",
     "end that use, or keep one buffer for it and another for this one; then: move the buffer back "
     "(DMABRIDGE_IOCTL_MOVE, or dmabridge::control::move)"},
    {DMABRIDGE_REASON_HELD, "held", "another user keeps the buffer where it is",
     "{name} {device} keeps it in placement {placement}", "end that use, or its placement hold"},
    {DMABRIDGE_REASON_PINNED_BY_USER, "pinned_by_user",
     "pages of the buffer are pinned through a mapping, so it cannot move",
     "{value} pinned page(s): O_DIRECT in flight, registered io_uring buffers or RDMA memory "
     "regions",
     "end that I/O or unregister those buffers, then try again"},
    {DMABRIDGE_REASON_PINNED_BY_IMPORTER, "pinned_by_importer",
     "a driver has pinned the buffer, so it cannot move", "{value} pin(s) by dma_buf_pin()",
     "end the use that pins it; dmabridge info --buffer shows who that is"},
    {DMABRIDGE_REASON_MOVE_LIMIT, "move_limit",
     "the buffer holds more than the CPU may copy out of its region",
     "the region's limit is {size}: uncached reads of a BAR are slow",
     "use a smaller buffer, bring the importer in before the buffer is filled (an empty one moves "
     "without a copy), or raise the region's move limit"},
    {DMABRIDGE_REASON_NO_SYSTEM_MEMORY, "no_system_memory",
     "there is not enough system memory to move the buffer to", "{size} were asked for",
     "free memory, or raise the memory limit of the control group of the process that made the "
     "buffer"},
    {DMABRIDGE_REASON_NO_DEVICE_MEMORY, "no_device_memory",
     "there is not enough free memory in the region", "{size} were asked for",
     "release buffers of the region; dmabridge info shows how much is available"},
    {DMABRIDGE_REASON_MOVED, "moved",
     "the buffer is in system memory because it was moved there on request", "",
     "move it back (DMABRIDGE_IOCTL_MOVE, or dmabridge::control::move)"},
    {DMABRIDGE_REASON_INTERRUPTED, "interrupted", "a signal ended the move", "", "try again"},
    {DMABRIDGE_REASON_NO_PAGES, "no_pages",
     "the region has no struct pages, without which block I/O cannot be peer to peer",
     "its BAR is smaller than 2 MiB, not aligned to that, or mapped by its driver in a way that "
     "excludes them",
     "use a region of which dmabridge info says pages: yes", true},
    {DMABRIDGE_REASON_RESTORED, "restored",
     "the buffer is back on the device, since nobody needs it in system memory any more", "", ""},
    {DMABRIDGE_REASON_SYSTEM_REGION, "system_region",
     "the buffer's region is system memory, so there is no device memory to reach", "",
     "allocate the buffer in a region of kind bar or stolen (dmabridge info lists them)", true},
    {DMABRIDGE_REASON_EVICTED, "evicted",
     "the buffer is in system memory because the driver of its device moved it there", "",
     "once its device has memory to spare, move it back (DMABRIDGE_IOCTL_MOVE, or "
     "dmabridge::control::move)"},
    {DMABRIDGE_REASON_SUSPENDED, "suspended",
     "the driver lets nothing onto its device for now: it has suspended it, or is resetting it", "",
     "wait until the driver resumes the device (dmabridge info shows it), then try again", true},
    {DMABRIDGE_REASON_COPY_FAILED, "copy_failed",
     "the device's copy engine failed, so the buffer stays where it is",
     "the engine's error: {error}",
     "see the kernel log (dmesg) for what the device's driver reported, then try again"},

    {DMABRIDGE_REASON_STATIC_IMPORTER, "static_importer",
     "the importer cannot follow a buffer that moves", "{name} {device} used dma_buf_attach()",
     "its driver would have to use dma_buf_dynamic_attach() with allow_peer2peer"},
    {DMABRIDGE_REASON_NOT_PEER2PEER, "not_peer2peer",
     "the importer's driver does not ask for peer to peer",
     "{name} {device} attached without allow_peer2peer",
     "its driver would have to set allow_peer2peer"},
    {DMABRIDGE_REASON_NOT_REVOCABLE, "not_revocable",
     "the importer could not be stopped if the device went away",
     "{name} {device} has no invalidate_mappings callback",
     "its driver would have to provide one; a region can be told to take such importers"},
    {DMABRIDGE_REASON_NOT_PCI, "not_pci", "the importer does its DMA through no PCI function",
     "{name}", "use a PCI device", true},
    {DMABRIDGE_REASON_EXPORTER_VETO, "exporter_veto",
     "the driver that exports the memory refuses this importer", "the driver's own code: {value}",
     "see the documentation of that driver"},
    {DMABRIDGE_REASON_DMA_MASK, "dma_mask",
     "the importer cannot address the device's memory, which lies too high for it",
     "{device} addresses up to {hex}", "use a device that addresses 64 bits", true},

    {DMABRIDGE_REASON_ACS_REDIRECT, "acs_redirect",
     "a PCIe bridge sends peer-to-peer traffic up to the root instead of across (ACS redirect)",
     "bridge {device}, ACS control {hex}: {acs}",
     "boot with pci=disable_acs_redir={device} (which also merges the IOMMU groups behind it)",
     true},
    {DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED, "host_bridge_unlisted",
     "the two devices meet in a host bridge that the kernel does not list as forwarding peer to "
     "peer",
     "host bridge {device}, PCI id {pci_id}",
     "move both devices below one PCIe switch or root port", true},
    {DMABRIDGE_REASON_NO_PATH, "no_path",
     "the kernel knows no peer-to-peer path between the devices",
     "pci_p2pdma_distance() is {signed_value}",
     "move both devices below one PCIe switch or root port", true},
    {DMABRIDGE_REASON_MEMORY_ENCRYPTION, "memory_encryption",
     "memory encryption (SEV, TDX) is active, which excludes this memory", "",
     "use a machine without memory encryption", true},

    {DMABRIDGE_REASON_QUEUE_NO_P2P, "queue_no_p2p",
     "the disk's driver does not take peer-to-peer memory", "disk {name}",
     "use a drive on the nvme PCI driver", true},
    {DMABRIDGE_REASON_STACKED_DEVICE, "stacked_device",
     "the disk is made of others (md, dm, loop, multipath), so there is no one device to reach",
     "disk {name}", "use a disk below it (lsblk -s /dev/{name} lists them)", true},
    {DMABRIDGE_REASON_STABLE_WRITES, "stable_writes",
     "the CPU computes checksums of the data, so it has to reach it", "disk {name}",
     "use a namespace or file system without them", true},
    {DMABRIDGE_REASON_FILESYSTEM_UNLISTED, "filesystem_unlisted",
     "the file system is not one that is known to keep its hands off the data",
     "file system {name}, magic {hex}",
     "put the file on ext4 or xfs, or use the block device itself", true},
    {DMABRIDGE_REASON_FILE_NO_DIRECT_IO, "file_no_direct_io",
     "the file cannot be read and written directly (O_DIRECT)",
     "journalled or inline data, or a file system without direct I/O",
     "on ext4 turn off data journalling (chattr -j FILE, mount -o data=ordered) or inline data; "
     "else put it on ext4 or xfs"},
    {DMABRIDGE_REASON_FILE_ENCRYPTED, "file_encrypted", "the file is encrypted by its file system",
     "{name}", "copy it to a folder that is not encrypted", true},
    {DMABRIDGE_REASON_FILE_VERITY, "file_verity",
     "the file is protected by fs-verity, whose check needs the CPU", "{name}",
     "copy the file (the copy has no fs-verity)", true},
    {DMABRIDGE_REASON_FILE_REALTIME, "file_realtime",
     "the file's data is on another device than its file system's (xfs realtime)", "{name}",
     "copy it to a folder without the realtime flag (xfs_io -c 'chattr -t')", true},
    {DMABRIDGE_REASON_TARGET_NOT_BLOCK, "target_not_block",
     "the target is neither a block device nor a file on one", "{name}",
     "put the file on an ext4 or xfs file system of a drive"},
    {DMABRIDGE_REASON_TARGET_READ_ONLY, "target_read_only", "the target is read-only", "{name}",
     "for a disk: blockdev --setrw /dev/{name}; for a file: mount -o remount,rw its file system"},
    {DMABRIDGE_REASON_TARGET_NOT_READABLE, "target_not_readable",
     "the target's fd was not opened for what it should be used for", "missing: {access}",
     "open it with O_RDONLY, O_WRONLY or O_RDWR as needed"},
    {DMABRIDGE_REASON_TARGET_BUSY, "target_busy",
     "the target is mounted, or claimed by somebody else", "{name}",
     "unmount it, or end that use: lsblk /dev/{name} and fuser -v /dev/{name} show it"},
    {DMABRIDGE_REASON_FOREIGN_BUFFER, "foreign_buffer",
     "the buffer comes from another exporter, whose pages are not ours to vouch for",
     "exporter {name}", "allocate the buffer in a dmabridge region", true},
    {DMABRIDGE_REASON_NO_IMPORTER, "no_importer", "the block importer is not loaded", "",
     "modprobe dmabridge_block"},
});

auto find(std::uint32_t code) -> const reason_description* {
  const auto found = std::ranges::lower_bound(table, code, {}, &reason_description::code);
  return found != table.end() && found->code == code ? &*found : nullptr;
}

// Names of the ACS control bits, as in PCI_ACS_CTRL.
auto decode_acs(std::uint64_t bits) -> std::string {
  constexpr auto names =
      std::to_array<std::pair<unsigned, const char*>>({{0x01, "source validation"},
                                                       {0x02, "translation blocking"},
                                                       {0x04, "P2P request redirect"},
                                                       {0x08, "P2P completion redirect"},
                                                       {0x10, "upstream forwarding"},
                                                       {0x20, "P2P egress control"},
                                                       {0x40, "direct translated P2P"}});
  std::string set;
  for (const auto& [bit, name] : names) {
    if ((bits & bit) == 0) continue;
    if (!set.empty()) set += ", ";
    set += name;
  }
  return set.empty() ? "no bit set" : set;
}

auto decode_access(std::uint64_t bits) -> std::string {
  switch (bits & (DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE)) {
    case DMABRIDGE_BIND_READ:
      return "reading";
    case DMABRIDGE_BIND_WRITE:
      return "writing";
    case DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE:
      return "reading and writing";
    default:
      return "nothing";
  }
}

// An errno of either sign.
auto decode_error(std::uint64_t value) -> std::string {
  const auto magnitude = static_cast<std::int64_t>(value) < 0 ? ~value + 1 : value;
  const auto code = static_cast<int>(std::min<std::uint64_t>(magnitude, INT32_MAX));
  return fmt::format("{} ({})", errno_name(code), errno_text(code));
}

auto fill_in(std::string_view format, const reason& why) -> std::string {
  const auto value = why.value;
  auto text = fmt::format(
      fmt::runtime(format), fmt::arg("device", why.device ? to_string(*why.device) : std::string()),
      fmt::arg("name", why.name), fmt::arg("value", value),
      fmt::arg("signed_value", static_cast<std::int64_t>(value)),
      fmt::arg("hex", fmt::format("{:#x}", value)), fmt::arg("size", format_size(value)),
      fmt::arg("error", decode_error(value)), fmt::arg("acs", decode_acs(value)),
      fmt::arg("access", decode_access(value)),
      fmt::arg("pci_id", fmt::format("{:04x}:{:04x}", value >> 16 & 0xffff, value & 0xffff)),
      fmt::arg("placement", to_string(static_cast<placement>(value))),
      fmt::arg("buffer_policy", to_string(static_cast<policy>(value >> 32))),
      fmt::arg("importer_policy", to_string(static_cast<policy>(value & 0xffffffff))));
  while (text.ends_with(' ')) text.pop_back();
  return text;
}

}  // namespace

auto reason_table() noexcept -> std::span<const reason_description> {
  return table;
}

auto reason::from_kernel(const dmabridge_reason& raw) -> reason {
  reason why{.code = raw.code,
             .blocks_p2p = (raw.flags & DMABRIDGE_REASON_BLOCKS_P2P) != 0,
             .blocks_move = (raw.flags & DMABRIDGE_REASON_BLOCKS_MOVE) != 0,
             .device = {},
             .value = raw.value,
             .name = kernel_text(raw.name)};
  if ((raw.flags & DMABRIDGE_REASON_HAS_DEVICE) != 0) {
    why.device = pci_address::unpack(raw.device);
  }
  return why;
}

auto reason::id() const -> std::string {
  const auto* known = find(code);
  return known != nullptr ? std::string(known->id) : fmt::format("unknown_reason_{}", code);
}

auto reason::text() const -> std::string {
  const auto* known = find(code);
  return known != nullptr
             ? std::string(known->text)
             : fmt::format("unknown reason {}: the kernel module is newer than this library", code);
}

auto reason::evidence() const -> std::string {
  const auto* known = find(code);
  if (known != nullptr) return fill_in(known->evidence, *this);
  auto all = fmt::format("value {:#x}", value);
  if (device) all += fmt::format(", device {}", to_string(*device));
  if (!name.empty()) all += fmt::format(", name {}", name);
  return all;
}

auto reason::remedy(std::optional<policy> in_force) const -> std::string {
  const auto* known = find(code);
  if (known == nullptr) return "update the dmabridge user space to the version of the module";
  auto text = fill_in(known->remedy, *this);
  if (known->prefer_helps && in_force.value_or(policy::require) == policy::require) {
    text += ", or use policy prefer";
  }
  return text;
}

}  // namespace dmabridge

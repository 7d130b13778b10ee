// SPDX-License-Identifier: MIT
#include "dmabridge/reason.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

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
    {DMABRIDGE_REASON_POLICY_FORBID, "policy_forbid", "the policy forbids peer to peer",
     "the policy of the buffer, or that of the importer, is forbid",
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
     "the buffer is in system memory because it was moved there on request",
     "its last move was asked for",
     "move it back (DMABRIDGE_IOCTL_MOVE, or dmabridge::control::move)"},
    {DMABRIDGE_REASON_INTERRUPTED, "interrupted", "a signal ended the move", "", "try again"},
    {DMABRIDGE_REASON_NO_PAGES, "no_pages",
     "the memory has no struct pages, without which block I/O cannot be peer to peer",
     "its BAR is smaller than 2 MiB, not aligned to that, or its driver maps or exports it in a "
     "way "
     "that excludes them",
     "use a region of which dmabridge info says pages: yes", true},
    {DMABRIDGE_REASON_RESTORED, "restored",
     "the buffer is back on the device, since nobody needs it in system memory any more", "", ""},
    {DMABRIDGE_REASON_SYSTEM_REGION, "system_region",
     "the buffer's region is system memory, so there is no device memory to reach",
     "the region is of kind system",
     "allocate the buffer in a region of kind bar or stolen (dmabridge info lists them)", true},
    {DMABRIDGE_REASON_EVICTED, "evicted",
     "the buffer is in system memory because the driver of its device moved it there",
     "its last move was the driver's",
     "once its device has memory to spare, move it back (DMABRIDGE_IOCTL_MOVE, or "
     "dmabridge::control::move)"},
    {DMABRIDGE_REASON_SUSPENDED, "suspended",
     "the driver lets nothing onto its device for now: it has suspended it, or is resetting it",
     "the region is suspended",
     "wait until the driver resumes the device (dmabridge info shows it), then try again", true},
    {DMABRIDGE_REASON_COPY_FAILED, "copy_failed",
     "the device's copy engine failed, so the buffer stays where it is",
     "the engine's error: {error}",
     "see the kernel log (dmesg) for what the device's driver reported, then try again"},
    {DMABRIDGE_REASON_NOT_MOVABLE, "not_movable",
     "the exporter of the memory cannot move it to system memory", "{name}",
     "leave out the importers that need system memory, or allocate the buffer in a dmabridge "
     "region"},

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
    {DMABRIDGE_REASON_BY_CPU, "by_cpu",
     "the importer's driver moves the bytes by the CPU, which needs them in system memory",
     "driver {name}", "use a device that does DMA of its own", true},

    {DMABRIDGE_REASON_ACS_REDIRECT, "acs_redirect",
     "a PCIe bridge sends peer-to-peer traffic up to the root instead of across (ACS redirect)",
     "bridge {device}, ACS control {hex}: {acs}",
     "boot with pci=disable_acs_redir={bridges} (in quotes in GRUB's files, where a semicolon ends "
     "a command; it also merges the IOMMU groups behind the bridges)",
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
     "memory encryption (SEV, TDX) is active, which excludes this memory",
     "the kernel encrypts memory", "use a machine without memory encryption", true},
    {DMABRIDGE_REASON_DENIED, "denied", "the administrator keeps the two devices from peer to peer",
     "{device} is in /sys/module/dmabridge/parameters/deny",
     "as root, write the list without that pair to /sys/module/dmabridge/parameters/deny", true},
    {DMABRIDGE_REASON_KERNEL_NO_P2PDMA, "kernel_no_p2pdma",
     "the kernel was built without PCI peer to peer",
     "CONFIG_PCI_P2PDMA is not set in Linux {name}",
     "boot a kernel that has it (Debian 13: the one of backports)", true},
    {DMABRIDGE_REASON_BAR_DISABLED, "bar_disabled",
     "the memory's BAR has no address, or its device does not answer to it",
     "BAR {value} of {device}",
     "bind the driver of {device}, which enables it; if there was no room for the BAR, boot with "
     "pci=realloc, or turn on Above 4G Decoding in the firmware's setup",
     true},
    {DMABRIDGE_REASON_SMALL_BAR, "small_bar", "the BAR may show a part of the device's memory only",
     "{size} on {device}", "turn on Resizable BAR and Above 4G Decoding in the firmware's setup"},
    {DMABRIDGE_REASON_BROKEN_PATH, "broken_path",
     "bytes that were sent peer to peer did not arrive", "{value} byte(s) differ",
     "keep the two devices from peer to peer (write ADDRESS-ADDRESS to "
     "/sys/module/dmabridge/parameters/deny); under a translating IOMMU of a virtual machine, boot "
     "with iommu=pt"},
    {DMABRIDGE_REASON_VIRTUAL_MACHINE, "virtual_machine",
     "this is a virtual machine, which cannot see the bridges of its host", "hypervisor {name}",
     "have the bytes compared (dmabridge explain --prove), or run dmabridge explain on the host "
     "for "
     "the devices that it passes on"},
    {DMABRIDGE_REASON_MODULE_LOCKED_OUT, "module_locked_out",
     "this machine takes signed kernel modules only", "{name}",
     "sign dmabridge's modules with a key that the machine trusts (mokutil --import), or turn off "
     "Secure Boot"},
    {DMABRIDGE_REASON_PATH_UNKNOWN, "path_unknown", "a fact that decides could not be read",
     "{name}", "run this as root, or load dmabridge, so that the kernel can be asked", true},
    {DMABRIDGE_REASON_NOT_MAPPABLE, "not_mappable", "this architecture cannot map a BAR", "{name}",
     "use a machine of another architecture", true},

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
     "exporter {name}",
     "allocate the buffer in a dmabridge region; if its exporter gives the kernel no mapping of "
     "system memory, do the I/O on a mapping that can be pinned, or on memory of your own and copy",
     true},
    {DMABRIDGE_REASON_NO_IMPORTER, "no_importer", "the block importer is not loaded", "",
     "modprobe dmabridge_block"},
    {DMABRIDGE_REASON_LEG, "leg", "a disk that this one is made of cannot take part",
     "{name} {device}", "make it of disks that all reach the device", true},
    {DMABRIDGE_REASON_RAID_WRITE, "raid_write",
     "for writes only: md takes a disk to which a peer-to-peer write fails for a broken one",
     "array {name}", "write to a drive that is not in an array", true},
    {DMABRIDGE_REASON_IO_IN_FLIGHT, "io_in_flight",
     "block I/O on the buffer does not end, so it cannot move", "it was waited for {value} ms",
     "try again, once the disk has recovered if it is in trouble; I/O on a FUSE file system that "
     "does not answer ends with umount -f of that file system"},

    {DMABRIDGE_REASON_NO_DMABUF_MR, "no_dmabuf_mr",
     "the RDMA device gives no dma-buf memory regions, and whether its provider library or its "
     "driver is to blame is not known",
     "asking {name} for one gave {error}",
     "look for that error in the kernel log (dmesg); update rdma-core and the kernel if newer ones "
     "have them for this device, or use an RDMA device that has them",
     true},
    {DMABRIDGE_REASON_DMABUF_MR_REFUSED, "dmabuf_mr_refused",
     "the RDMA device's driver could not register the buffer",
     "ibv_reg_dmabuf_mr() of {name} gave {error}",
     "see the reasons beside this one, and the kernel log (dmesg)"},
    {DMABRIDGE_REASON_PIN_LIMIT, "pin_limit", "this process may not pin so much memory",
     "its limit is {size} (RLIMIT_MEMLOCK)",
     "raise the limit (ulimit -l in KiB; LimitMEMLOCK= of a systemd unit; memlock in "
     "/etc/security/limits.conf), or register less at a time"},
    {DMABRIDGE_REASON_NOT_PINNABLE, "not_pinnable",
     "a mapping of the buffer cannot be pinned, which this RDMA device needs",
     "exporter {name}; pinning gave {error}",
     "allocate the buffer in a dmabridge region, or use an RDMA device with dma-buf memory "
     "regions"},
    {DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR, "driver_no_dmabuf_mr",
     "the kernel's driver of the RDMA device has no dma-buf memory regions, so that it does not "
     "attach to buffers",
     "asked past its provider library, the driver of {name} gave {error}",
     "use a newer kernel if its driver has them (mlx5 also needs "
     "CONFIG_INFINIBAND_ON_DEMAND_PAGING), or an RDMA device that has them",
     true},
    {DMABRIDGE_REASON_PROVIDER_NO_DMABUF_MR, "provider_no_dmabuf_mr",
     "the kernel's driver of the RDMA device has dma-buf memory regions, but its provider library "
     "lacks the call for them",
     "ibv_reg_dmabuf_mr() of {name} gave {error}, and its driver takes the call",
     "update rdma-core, or use an RDMA device whose provider library has the call", true},
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

// `bridges`: all that redirect on a path; empty: only the one that the reason names.
auto fill_in(std::string_view format, const reason& why, std::string_view bridges = {})
    -> std::string {
  const auto value = why.value;
  const auto device = why.device ? to_string(*why.device) : std::string();
  auto text = fmt::format(
      fmt::runtime(format), fmt::arg("device", device),
      fmt::arg("bridges", bridges.empty() ? std::string_view(device) : bridges),
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

auto remedy_of(const reason& why, std::optional<policy> in_force, std::string_view bridges = {})
    -> std::string {
  const auto* known = find(why.code);
  if (known == nullptr) return "update the dmabridge user space to the version of the module";
  auto text = fill_in(known->remedy, why, bridges);
  if (known->prefer_helps && in_force.value_or(policy::require) == policy::require) {
    text += ", or use policy prefer";
  }
  return text;
}

// As the kernel's parameter pci=disable_acs_redir= takes them.
auto redirecting_bridges(std::span<const reason> reasons) -> std::string {
  std::vector<pci_address> bridges;
  for (const auto& why : reasons) {
    if (why.code == DMABRIDGE_REASON_ACS_REDIRECT && why.device) bridges.push_back(*why.device);
  }
  std::ranges::sort(bridges);
  const auto again = std::ranges::unique(bridges);
  bridges.erase(again.begin(), again.end());
  std::string list;
  for (const auto& bridge : bridges) {
    list += fmt::format("{}{}", list.empty() ? "" : ";", to_string(bridge));
  }
  return list;
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
  return remedy_of(*this, in_force);
}

auto remedies(std::span<const reason> reasons, std::optional<policy> in_force)
    -> std::vector<std::string> {
  const auto bridges = redirecting_bridges(reasons);
  std::vector<std::string> list;
  for (const auto& why : reasons) {
    auto text = remedy_of(why, in_force, bridges);
    if (!text.empty() && std::ranges::find(list, text) == list.end()) {
      list.push_back(std::move(text));
    }
  }
  return list;
}

}  // namespace dmabridge

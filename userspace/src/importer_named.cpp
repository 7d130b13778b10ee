// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <string_view>

#include "attach_manner.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/plan.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto against(std::uint32_t code, std::string name, std::uint64_t value = 0) -> reason {
  return {.code = code, .blocks_p2p = true, .value = value, .name = std::move(name)};
}

// --- what drivers do --------------------------------------------------------------------

void take_manner(const std::string& driver, importer_facts& facts) {
  facts.driver = driver;
  const auto* const found = manner_of(driver);
  facts.assumed = found == nullptr;
  if (found == nullptr) {
    facts.missing.push_back({fmt::format("how driver {} attaches to a dma-buf",
                                         driver.empty() ? "(none is bound)" : driver),
                             "it is none that this library knows",
                             "let it attach, and see dmabridge info --buffer"});
    return;
  }
  facts.is_static = found->is_static;
  facts.peer2peer = found->peer2peer;
  facts.revocable = found->revocable;
  facts.pins = found->pins;
}

// --- block devices -------------------------------------------------------------------------

auto is_stacked(const block_node& node) -> bool {
  return node.kind == block_kind::md || node.kind == block_kind::dm ||
         node.kind == block_kind::loop || node.kind == block_kind::multipath;
}

// A recording was checked when it was read; a topology made by hand may go round in a circle.
constexpr int most_levels = 16;

// Whether the queue takes peers' pages: NVMe's do, and what is stacked on nothing but such ones by
// a driver that passes it on.
auto queue_takes_p2p(const topology& machine, const block_node& node, int levels = most_levels)
    -> std::optional<bool> {
  if (!is_stacked(node)) {
    if (node.driver.empty()) return {};
    return node.driver == "nvme" || node.driver == "nvme-rdma";
  }
  const auto passes_on =
      node.kind == block_kind::multipath ||
      (node.kind == block_kind::md &&
       (node.level == "raid0" || node.level == "raid1" || node.level == "raid10"));
  if (!passes_on || levels == 0) return false;
  std::optional<bool> all = true;
  for (const auto& name : node.legs) {
    const auto* const leg = machine.find_block(name);
    const auto takes = leg != nullptr ? queue_takes_p2p(machine, *leg, levels - 1) : std::nullopt;
    if (takes && !*takes) return false;
    if (!takes) all.reset();
  }
  return all;
}

auto is_redundant(const block_node& node) -> bool {
  constexpr auto levels =
      std::to_array<std::string_view>({"raid1", "raid10", "raid4", "raid5", "raid6"});
  return node.kind == block_kind::md && std::ranges::find(levels, node.level) != levels.end();
}

// Reads are nothing that md would hold against a disk.
void take_redundancy(const block_node& disk, importer_facts& facts) {
  if (facts.way != direction::read && is_redundant(disk)) {
    facts.own.push_back(against(DMABRIDGE_REASON_RAID_WRITE, disk.name));
  }
}

auto disk_of(const topology& machine, const block_node& node) -> const block_node& {
  const auto* const disk = node.disk.empty() ? nullptr : machine.find_block(node.disk);
  return disk != nullptr ? *disk : node;
}

void take_leg(const topology& machine, const block_node& leg, importer_facts& facts) {
  if (std::ranges::find(facts.legs, leg.name) != facts.legs.end()) return;
  const auto takes = queue_takes_p2p(machine, leg);
  if (!leg.function || !takes.value_or(true)) {
    auto why = against(DMABRIDGE_REASON_LEG, leg.name);
    why.device = leg.function;
    facts.own.push_back(std::move(why));
    facts.own.push_back(against(DMABRIDGE_REASON_QUEUE_NO_P2P, leg.name));
  } else if (!takes) {
    facts.missing.push_back(
        {fmt::format("driver of {}", leg.name), "it is not in this topology", ""});
  }
  if (leg.function) {
    facts.functions.push_back(*leg.function);
    facts.legs.push_back(leg.name);
  }
}

// Down to the disks at the bottom.
void take_legs(const topology& machine, const block_node& node, importer_facts& facts,
               int levels = most_levels) {
  for (const auto& name : node.legs) {
    const auto* const leg = machine.find_block(name);
    if (leg == nullptr || levels == 0) {
      facts.missing.push_back({fmt::format("block device {}, of {}", name, node.name),
                               "it is not in this topology", ""});
      continue;
    }
    const auto& disk = disk_of(machine, *leg);
    take_redundancy(disk, facts);
    if (is_stacked(disk)) {
      take_legs(machine, disk, facts, levels - 1);
    } else {
      take_leg(machine, disk, facts);
    }
  }
}

void take_stability(const block_node& disk, importer_facts& facts) {
  if (disk.stable_writes.value_or(false) || disk.integrity.value_or(false)) {
    facts.own.push_back(against(DMABRIDGE_REASON_STABLE_WRITES, disk.name));
  } else if (!disk.stable_writes || !disk.integrity) {
    facts.missing.push_back({fmt::format("whether the data of {} are checksummed", disk.name),
                             "it is not in this topology", "record the machine again, on itself"});
  }
}

// As importer/target.c looks at a disk, and at its legs besides.
void take_disk(const topology& machine, const block_node& node, importer_facts& facts) {
  const auto& disk = disk_of(machine, node);
  const auto stacked = is_stacked(disk);
  if (stacked || !disk.function) {
    facts.own.push_back(against(DMABRIDGE_REASON_STACKED_DEVICE, disk.name));
  }
  const auto takes = queue_takes_p2p(machine, disk);
  if (!takes) {
    facts.missing.push_back({fmt::format("driver of {}", disk.name), "it is not in this topology",
                             "record the machine again, on itself"});
  } else if (!*takes) {
    facts.own.push_back(against(DMABRIDGE_REASON_QUEUE_NO_P2P, disk.name));
  }
  take_stability(disk, facts);
  take_redundancy(disk, facts);
  if (stacked) {
    take_legs(machine, disk, facts);
  } else if (disk.function) {
    facts.functions = {*disk.function};
  }
}

void be_block(importer_kind kind, direction way, importer_facts& facts) {
  facts.kind = kind;
  facts.way = way;
  facts.needs_pages = true;
  facts.can_bounce = true;
}

// --- files of this machine -------------------------------------------------------------------

struct file_state {
  struct statx stat{};
  std::string file_system{};  // its type, as mounted
};

// The type of the file system by the mount's id.
auto mounted_type(std::uint64_t mount) -> std::string {
  std::ifstream table("/proc/self/mountinfo");
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::uint64_t id = 0;
    const auto end = line.find(" - ");
    if (!(fields >> id) || id != mount || end == std::string::npos) continue;
    const auto type = std::string_view(line).substr(end + 3);
    return std::string(type.substr(0, type.find(' ')));
  }
  return {};
}

auto look_at_file(const std::string& path) -> std::optional<file_state> {
  file_state state;
  const auto wanted = STATX_BASIC_STATS | STATX_DIOALIGN | STATX_MNT_ID;
  if (::statx(AT_FDCWD, path.c_str(), 0, wanted, &state.stat) != 0) return {};
  state.file_system = mounted_type(state.stat.stx_mnt_id);
  return state;
}

// "/sys/dev/block/259:1" is a link that ends in the device's name.
auto block_name(unsigned major, unsigned minor) -> std::string {
  std::string link;
  const auto path = fmt::format("/sys/dev/block/{}:{}", major, minor);
  if (sys().read_link(path.c_str(), link) < 0) return {};
  return link.substr(link.rfind('/') + 1);
}

auto magic_of(const std::string& path) -> std::uint64_t {
  struct statfs info{};
  return ::statfs(path.c_str(), &info) == 0 ? static_cast<std::uint32_t>(info.f_type) : 0;
}

auto tells_alignment(const struct statx& stat) -> bool {
  return (stat.stx_mask & STATX_DIOALIGN) != 0 && stat.stx_dio_mem_align != 0 &&
         stat.stx_dio_offset_align != 0;
}

// Whether open() takes O_DIRECT. True as well for one that the caller must not open.
auto opens_directly(const std::string& path) -> bool {
  const auto descriptor = sys().open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK, 0);
  if (descriptor >= 0) sys().close(descriptor);
  return descriptor != -EINVAL;
}

// On xfs data can be on a device of its own.
auto is_realtime(const std::string& path) -> std::optional<bool> {
  const auto descriptor = sys().open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0);
  if (descriptor < 0) return {};
  struct fsxattr attributes{};
  const auto result = sys().ioctl(descriptor, FS_IOC_FSGETXATTR, &attributes);
  sys().close(descriptor);
  if (result < 0) return {};
  return (attributes.fsx_xflags & FS_XFLAG_REALTIME) != 0;
}

void take_realtime(const std::string& path, importer_facts& facts) {
  const auto realtime = is_realtime(path);
  if (!realtime) {
    facts.missing.push_back({fmt::format("whether {} is on the realtime device", path),
                             "it must not be opened", "ask as somebody who may read it"});
  } else if (*realtime) {
    facts.own.push_back(against(DMABRIDGE_REASON_FILE_REALTIME, path));
  }
}

// As importer/target.c looks at a file that is read. What only hinders writes (ext4 with a block
// map) comes out when it is bound.
void take_file(const topology& machine, const std::string& path, const file_state& state,
               importer_facts& facts) {
  const auto& stat = state.stat;
  const auto name = block_name(stat.stx_dev_major, stat.stx_dev_minor);
  const auto listed = (state.file_system == "ext4" || state.file_system == "xfs") && !name.empty();
  if (!listed) {
    facts.own.push_back(
        against(DMABRIDGE_REASON_FILESYSTEM_UNLISTED, state.file_system, magic_of(path)));
  }
  if ((stat.stx_attributes & STATX_ATTR_ENCRYPTED) != 0) {
    facts.own.push_back(against(DMABRIDGE_REASON_FILE_ENCRYPTED, path));
  }
  if ((stat.stx_attributes & STATX_ATTR_VERITY) != 0) {
    facts.own.push_back(against(DMABRIDGE_REASON_FILE_VERITY, path));
  }
  if (state.file_system == "xfs") take_realtime(path, facts);
  if (!tells_alignment(stat))
    facts.own.push_back(against(DMABRIDGE_REASON_FILE_NO_DIRECT_IO, path));

  facts.no_direct_io = listed ? !tells_alignment(stat) : !opens_directly(path);
  facts.may_copy = facts.no_direct_io || !listed;
  if (!listed) return;
  if (const auto* const disk = machine.find_block(name)) {
    take_disk(machine, *disk, facts);
  } else {
    facts.missing.push_back({fmt::format("block device {}", name), "it is not in this topology",
                             "ask about files on the machine that they are on"});
  }
}

// --- names -------------------------------------------------------------------------------------

constexpr std::string_view device_folder = "/dev/";

// "card0" of "card0" and of "/dev/dri/card0"; nothing of another path.
auto device_name(std::string_view name) -> std::string_view {
  const auto slash = name.rfind('/');
  if (slash == std::string_view::npos) return name;
  return name.starts_with(device_folder) ? name.substr(slash + 1) : std::string_view();
}

auto linked_block(const std::string& name) -> std::string {
  struct stat info{};
  if (!name.starts_with('/') || sys().stat(name.c_str(), &info) < 0 || !S_ISBLK(info.st_mode)) {
    return {};
  }
  return block_name(major(info.st_rdev), minor(info.st_rdev));
}

// "nvme0n1", "/dev/nvme0n1"; also links to such as in /dev/disk, of this machine.
auto find_block(const topology& machine, const std::string& name) -> const block_node* {
  const auto bare = name.starts_with(device_folder)
                        ? std::string_view(name).substr(device_folder.size())
                        : std::string_view(name);
  if (const auto* const node = machine.find_block(bare)) return node;
  const auto linked = linked_block(name);
  return linked.empty() ? nullptr : machine.find_block(linked);
}

// By itself, or by one of its network devices.
auto find_rdma(const topology& machine, std::string_view name) -> const rdma_node* {
  if (const auto* const node = machine.find_rdma(name)) return node;
  const auto found = std::ranges::find_if(machine.rdma, [&](const rdma_node& node) {
    return std::ranges::find(node.netdevs, name) != node.netdevs.end();
  });
  return found != machine.rdma.end() ? &*found : nullptr;
}

void take_rdma(const rdma_node& node, importer_facts& facts) {
  facts.kind = importer_kind::rdma;
  if (node.function) facts.functions = {*node.function};
  if (node.software) {
    facts.driver = node.driver;
    facts.pins_mapping = true;
    facts.own.push_back(against(DMABRIDGE_REASON_BY_CPU, node.driver));
  } else {
    take_manner(node.driver, facts);
  }
}

void take_drm(const topology& machine, const drm_node& node, importer_facts& facts) {
  facts.kind = importer_kind::gpu;
  if (node.function) facts.functions = {*node.function};
  const auto* const function = node.function ? machine.find(*node.function) : nullptr;
  take_manner(node.driver.empty() && function != nullptr ? function->driver : node.driver, facts);
}

// What a person could have meant.
auto everything(const topology& machine) -> std::string {
  std::string list;
  const auto add = [&](std::string_view name) {
    if (!name.empty()) list += fmt::format("{}{}", list.empty() ? "" : ", ", name);
  };
  for (const auto& node : machine.blocks) {
    if (node.kind != block_kind::partition) add(node.name);
  }
  for (const auto& node : machine.rdma) add(node.name);
  for (const auto& node : machine.drm) {
    add(node.card);
    add(node.render);
  }
  for (const auto& function : machine.functions) {
    if (function.class_code >> 16 != 0x06) add(to_string(function.address));
  }
  return list.empty() ? "nothing" : list;
}

[[noreturn]] void fail_unknown(const topology& machine, const std::string& name) {
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("find importer {}", name),
               .detail = "there is no PCI function, block device, RDMA device, DRM node or regular "
                         "file of that name; there is " +
                         everything(machine),
               .remedies = {"name one of these, or a file (dmabridge topo shows what is what)"}});
}

auto take_path(const topology& machine, const std::string& name, direction way,
               importer_facts& facts) -> bool {
  const auto state = look_at_file(name);
  if (!state || !S_ISREG(state->stat.stx_mode)) return false;
  be_block(importer_kind::file, way, facts);
  take_file(machine, name, *state, facts);
  return true;
}

}  // namespace

auto importer_named(const topology& machine, const std::string& name, policy wanted, direction way)
    -> importer_facts {
  importer_facts facts{.name = name, .policy = wanted};
  const auto address = pci_address::parse(name);
  if (address && machine.find(*address) != nullptr) {
    facts.name = to_string(*address);
    facts.functions = {*address};
    facts.assumed = true;
    return facts;
  }
  if (const auto* const block = find_block(machine, name)) {
    be_block(importer_kind::block, way, facts);
    take_disk(machine, *block, facts);
    return facts;
  }
  const auto bare = device_name(name);
  if (const auto* const rdma = find_rdma(machine, bare)) {
    take_rdma(*rdma, facts);
    return facts;
  }
  if (const auto* const drm = machine.find_drm(bare)) {
    take_drm(machine, *drm, facts);
    return facts;
  }
  if (!take_path(machine, name, way, facts)) fail_unknown(machine, name);
  return facts;
}

}  // namespace dmabridge

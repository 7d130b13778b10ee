// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/utsname.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>

#include "dmabridge/error.hpp"
#include "machine_roots.hpp"
#include "read_devices.hpp"
#include "read_functions.hpp"
#include "read_machine.hpp"
#include "sysfs.hpp"
#include "topology_check.hpp"

namespace dmabridge {
namespace {

// Whether the CPU, as it shows itself to this kernel, has SEV. A kernel that runs encrypted has
// always seen this bit.
auto offers_sev() -> std::optional<bool> {
#if defined(__x86_64__) || defined(__i386__)
  constexpr unsigned encryption_leaf = 0x8000001f;
  constexpr unsigned sev = 1U << 1;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(encryption_leaf, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (eax & sev) != 0;
#else
  return {};
#endif
}

// drivers/iommu/iommu.c: iommu_group_show_type()
auto to_domain(std::string_view type) -> iommu_domain {
  if (type == "identity") return iommu_domain::identity;
  if (type == "DMA") return iommu_domain::strict;
  if (type == "DMA-FQ") return iommu_domain::lazy;
  if (type == "blocked") return iommu_domain::blocked;
  if (type == "unmanaged") return iommu_domain::unmanaged;
  return iommu_domain::unknown;
}

void read_iommu_groups(const machine_roots& roots, topology& machine) {
  const auto folder = roots.sys + "/kernel/iommu_groups";
  for (const auto& function : machine.functions) {
    if (!function.iommu_group || machine.iommu_groups.contains(*function.iommu_group)) continue;
    const auto type = read_file(fmt::format("{}/{}/type", folder, *function.iommu_group));
    const auto domain = type ? to_domain(*type.text) : iommu_domain::unknown;
    machine.iommu_groups.emplace(*function.iommu_group, domain);
    if (domain != iommu_domain::unknown) continue;
    machine.unread.push_back(
        {.what = fmt::format("IOMMU group {}'s domain type", *function.iommu_group),
         .why = type ? fmt::format("the kernel says \"{}\"", *type.text)
                     : fmt::format("{}/{}/type is not readable", folder, *function.iommu_group),
         .remedy = {}});
  }
}

// "0000:03:00.0-0000:04:00.0" or "0000:03:00.0"
auto to_pair(std::string_view text) -> std::optional<denied_pair> {
  const auto dash = text.find('-');
  const auto one = pci_address::parse(text.substr(0, dash));
  if (!one) return {};
  if (dash == std::string_view::npos) return denied_pair{.one = *one};
  const auto other = pci_address::parse(text.substr(dash + 1));
  if (!other) return {};
  return denied_pair{.one = *one, .other = other};
}

void read_denied(const machine_roots& roots, topology& machine) {
  const auto path = roots.sys + "/module/dmabridge/parameters/deny";
  const auto list = read_file(path);
  if (!list) {
    // Without the module nobody has denied anything.
    if (list.code == ENOENT) return;
    machine.unread.push_back({.what = "deny list",
                              .why = path + " is not for the caller to read",
                              .remedy = "run this as root"});
    return;
  }
  std::string_view rest = *list.text;
  while (!rest.empty() && rest != "(null)") {
    const auto comma = std::min(rest.find(','), rest.size());
    const auto entry = rest.substr(0, comma);
    rest.remove_prefix(std::min(comma + 1, rest.size()));
    if (entry.empty()) continue;
    if (const auto pair = to_pair(entry)) {
      machine.denied.push_back(*pair);
      continue;
    }
    machine.unread.push_back({.what = fmt::format("\"{}\" in the deny list", entry),
                              .why = "it is neither a PCI address nor two with a dash between",
                              .remedy = "mend the module's parameter deny"});
  }
}

}  // namespace

auto this_machine() -> machine_roots {
  utsname name{};
  ::uname(&name);
  return {.here = true, .architecture = name.machine, .encrypts_as_guest = offers_sev()};
}

auto read_topology(const machine_roots& roots) -> topology {
  if (names_in(roots.sys).empty()) {
    throw error({.kind = error_kind::system,
                 .attempted = "read what this machine is made of",
                 .detail = roots.sys + " is empty or not there",
                 .remedies = {"mount -t sysfs sysfs /sys"}});
  }
  topology machine;
  read_machine(roots, machine);
  read_functions(roots, machine);
  read_locality(roots, machine);
  read_iommu_groups(roots, machine);
  read_blocks(roots, machine);
  read_rdma(roots, machine);
  read_drm(roots, machine);
  read_nets(roots, machine);
  read_denied(roots, machine);
  drop_dangling(machine);
  return machine;
}

auto read_topology() -> topology {
  return read_topology(this_machine());
}

}  // namespace dmabridge

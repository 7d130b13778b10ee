// SPDX-License-Identifier: MIT
#include "prospect.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "append.hpp"
#include "dmabridge/path.hpp"
#include "foreign_gap.hpp"

namespace dmabridge {
namespace {

auto has(std::span<const reason> reasons, std::uint32_t code) -> bool {
  return std::ranges::find(reasons, code, &reason::code) != reasons.end();
}

auto blocker(std::uint32_t code) -> reason {
  return {.code = code, .blocks_p2p = true};
}

auto named(std::uint32_t code, std::string name) -> reason {
  return {.code = code, .blocks_p2p = true, .name = std::move(name)};
}

// What the reader of the topology said of it, else that it is not there.
auto not_read(const topology& machine, std::string_view what) -> unread_fact {
  const auto said = std::ranges::find(machine.unread, what, &unread_fact::what);
  if (said != machine.unread.end()) return *said;
  return {std::string(what), "it is not in this topology", "record the machine again, on itself"};
}

void check_bar(const topology& machine, const buffer_facts& buffer, ground& base) {
  const auto& exporter = *base.exporter;
  if (exporter.bars.empty()) {
    base.missing.push_back(
        not_read(machine, fmt::format("BARs of {}", to_string(exporter.address))));
    return;
  }
  const auto bar = std::ranges::find(exporter.bars, buffer.bar, &pci_bar::number);
  const auto assigned = bar != exporter.bars.end() && bar->start != 0;
  if (!assigned || !exporter.memory_enabled.value_or(true)) {
    base.against.push_back({.code = DMABRIDGE_REASON_BAR_DISABLED,
                            .blocks_p2p = true,
                            .device = exporter.address,
                            .value = buffer.bar,
                            .name = to_string(exporter.address)});
  } else if (!exporter.memory_enabled) {
    base.missing.push_back(
        not_read(machine, fmt::format("whether {} decodes its BARs", to_string(exporter.address))));
  }
  // The window that firmware gives a GPU without Resizable BAR, whatever its memory.
  constexpr std::uint64_t usual_window = 256 << 20;
  const auto is_display = exporter.class_code >> 16 == 0x03;
  if (assigned && is_display && bar->prefetchable && bar->size == usual_window) {
    base.caveats.push_back({.code = DMABRIDGE_REASON_SMALL_BAR,
                            .device = exporter.address,
                            .value = bar->size,
                            .name = to_string(exporter.address)});
  }
}

// Whether the module itself gets in. It is there already where a region of it is what was asked
// about; and a signed one gets in. So this decides nothing.
void add_lock_out(const topology& machine, ground& base) {
  const auto& lockdown = machine.machine.lockdown;
  if (lockdown && !lockdown->empty() && *lockdown != "none") {
    base.caveats.push_back({.code = DMABRIDGE_REASON_MODULE_LOCKED_OUT,
                            .name = fmt::format("lockdown is {}", *lockdown)});
  } else if (machine.machine.secure_boot.value_or(false) && !lockdown) {
    base.caveats.push_back({.code = DMABRIDGE_REASON_MODULE_LOCKED_OUT, .name = "Secure Boot"});
  }
}

auto is_denied(const topology& machine, const pci_address& a, const pci_address& b) -> bool {
  return std::ranges::any_of(machine.denied, [&](const denied_pair& pair) {
    if (!pair.other) return pair.one == a || pair.one == b;
    return (pair.one == a && *pair.other == b) || (pair.one == b && *pair.other == a);
  });
}

// Whether the IOMMU gives the function addresses of its own. Nothing: not known.
auto is_translated(const topology& machine, const pci_function& function) -> std::optional<bool> {
  if (!function.iommu_group) return false;
  const auto group = machine.iommu_groups.find(*function.iommu_group);
  if (group == machine.iommu_groups.end()) return {};
  switch (group->second) {
    case iommu_domain::strict:
    case iommu_domain::lazy:
      return true;
    case iommu_domain::identity:
      return false;
    default:
      return {};
  }
}

// The kernel looks at no mask on the way to a peer; dmabridge does.
void check_mask(const topology& machine, const buffer_facts& buffer, const ground& base,
                const pci_function& importer, const pci_path& path, prospect& result) {
  const auto bar = std::ranges::find(base.exporter->bars, buffer.bar, &pci_bar::number);
  if (bar == base.exporter->bars.end() || bar->start == 0 || bar->size == 0) return;
  // Through an IOMMU the device is given an address that fits.
  const auto translated = is_translated(machine, importer);
  const auto by_host_bridge = path.answer == path_answer::host_bridge;
  const auto is_open = by_host_bridge && !path.missing.empty();
  if (by_host_bridge && !is_open && translated.value_or(false)) return;

  if (!importer.dma_mask_bits) {
    lack(not_read(machine, fmt::format("DMA mask of {}", to_string(importer.address))), result);
    return;
  }
  const auto bits = std::min(*importer.dma_mask_bits, 64U);
  const auto mask = bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
  if (bar->start + (bar->size - 1) <= mask) return;
  if (by_host_bridge && (!translated || (is_open && *translated))) {
    lack(translated ? path.missing.front()
                    : not_read(machine,
                               fmt::format("IOMMU group {}'s domain type", *importer.iommu_group)),
         result);
    return;
  }
  result.against.push_back({.code = DMABRIDGE_REASON_DMA_MASK,
                            .blocks_p2p = true,
                            .device = importer.address,
                            .value = mask,
                            .name = to_string(importer.address)});
}

// Whether its exporter is known to ask the kernel for a path. Ours does.
auto asks_path(const buffer_facts& buffer) -> bool {
  return buffer.foreign.empty() || buffer.rules.asks_path == answer::yes;
}

auto gap_of_path(const buffer_facts& buffer) -> foreign_gap {
  return buffer.rules.asks_path == answer::no ? foreign_gap::path : foreign_gap::p2p;
}

// Exporters that ask nobody give addresses of the device's, whatever becomes of them on the way.
auto leads_there(const topology& machine, const pci_function& importer, const pci_path& path)
    -> bool {
  if (path.answer != path_answer::host_bridge) return path.answer == path_answer::bus;
  return !is_translated(machine, importer).value_or(true);
}

// By one of its functions. Several are the legs of one disk, and each has to reach.
void check_function(const topology& machine, const buffer_facts& buffer, const ground& base,
                    const pci_address& function, prospect& result) {
  auto path = base.paths->judge(function);
  const auto is_foreign = !buffer.foreign.empty();
  // The list is one of this project's module, which others do not ask.
  if (!is_foreign && is_denied(machine, base.exporter->address, function)) {
    result.against.push_back({.code = DMABRIDGE_REASON_DENIED,
                              .blocks_p2p = true,
                              .device = function,
                              .name = to_string(function)});
  }
  if (path.answer == path_answer::unknown) {
    append(std::move(path.missing), result.missing);
    append(std::move(path.reasons), result.perhaps);
    return;
  }
  if (!asks_path(buffer) && !leads_there(machine, *machine.find(function), path)) {
    append(std::move(path.reasons), result.perhaps);
    lack(unread(buffer, gap_of_path(buffer)), result);
    return;
  }
  append(std::move(path.reasons), result.against);
  if (path.answer == path_answer::no) {
    append(std::move(path.missing), result.open);
    return;
  }
  result.distance = std::max(result.distance.value_or(0), *path.distance);
  if (path.answer == path_answer::host_bridge) result.straight = route::p2p_host_bridge;
  check_mask(machine, buffer, base, *machine.find(function), path, result);
  append(std::move(path.missing), result.open);
}

// Whether block I/O finds pages, without which it is left with copies.
void check_pages(const buffer_facts& buffer, prospect& result) {
  if (!may_be_bound(buffer)) {
    result.against.push_back(blocker(DMABRIDGE_REASON_NO_PAGES));
  } else if (buffer.kind != region_kind::system || buffer.rules.bindable != answer::yes) {
    lack(unread(buffer, foreign_gap::binding), result);
  } else {
    return;
  }
  if (buffer.copies == answer::unknown) lack(unread(buffer, foreign_gap::copies), result);
}

void check_pins(const buffer_facts& buffer, prospect& result) {
  if (buffer.pinnable == answer::no) {
    // What the kernel says to pins of such mappings.
    result.against.push_back({.code = DMABRIDGE_REASON_NOT_PINNABLE,
                              .blocks_p2p = true,
                              .value = EFAULT,
                              .name = buffer.foreign});
  } else if (buffer.pinnable == answer::unknown) {
    lack(unread(buffer, foreign_gap::pins), result);
  }
}

// What an exporter of its own rules wants of those that attach.
void check_attachment(const buffer_facts& buffer, const importer_facts& importer,
                      prospect& result) {
  const auto& rules = buffer.rules;
  if (rules.p2p == answer::no) {
    result.against.push_back(named(DMABRIDGE_REASON_FOREIGN_BUFFER, buffer.foreign));
  } else if (rules.p2p == answer::unknown) {
    lack(unread(buffer, foreign_gap::p2p), result);
  }
  if (importer.is_static) {
    // Who does not ask for a path does not ask this either.
    if (!asks_path(buffer)) {
      lack(unread(buffer, gap_of_path(buffer)), result);
    } else {
      result.against.push_back(named(DMABRIDGE_REASON_STATIC_IMPORTER, importer.name));
    }
  } else if (!importer.peer2peer) {
    result.against.push_back(named(DMABRIDGE_REASON_NOT_PEER2PEER, importer.name));
  } else if (!importer.revocable && rules.unstoppable == answer::no) {
    result.against.push_back(named(DMABRIDGE_REASON_NOT_REVOCABLE, importer.name));
  } else if (!importer.revocable && rules.unstoppable == answer::unknown) {
    lack(unread(buffer, foreign_gap::unstoppable), result);
  }
}

void check_foreign(const buffer_facts& buffer, const importer_facts& importer, prospect& result) {
  if (importer.needs_pages) {
    result.against.push_back(named(DMABRIDGE_REASON_FOREIGN_BUFFER, buffer.foreign));
    check_pages(buffer, result);
  } else if (importer.pins_mapping) {
    check_pins(buffer, result);
  } else if (buffer.kind == region_kind::bar) {
    check_attachment(buffer, importer, result);
  }
}

// What a driver must bring along to be given the device's memory.
void check_driver(const buffer_facts& buffer, const importer_facts& importer, prospect& result) {
  if (importer.is_static) {
    result.against.push_back(named(DMABRIDGE_REASON_STATIC_IMPORTER, importer.name));
  } else if (!importer.peer2peer) {
    result.against.push_back(named(DMABRIDGE_REASON_NOT_PEER2PEER, importer.name));
  } else if (!importer.revocable && !buffer.takes_unrevocable) {
    result.against.push_back(named(DMABRIDGE_REASON_NOT_REVOCABLE, importer.name));
  }
  if (importer.needs_pages && !buffer.has_pages) {
    result.against.push_back(blocker(DMABRIDGE_REASON_NO_PAGES));
  }
}

void check_path(const topology& machine, const buffer_facts& buffer, const importer_facts& importer,
                const ground& base, prospect& result) {
  if (importer.functions.empty()) {
    // Both say it in better words.
    if (!has(importer.own, DMABRIDGE_REASON_BY_CPU) &&
        !has(importer.own, DMABRIDGE_REASON_STACKED_DEVICE)) {
      result.against.push_back(named(DMABRIDGE_REASON_NOT_PCI, importer.name));
    }
    return;
  }
  if (!base.paths) return;
  if (!buffer.foreign.empty() && importer.pins_mapping) return;
  if (importer.legs.empty()) {
    for (const auto& function : importer.functions) {
      check_function(machine, buffer, base, function, result);
    }
    return;
  }
  for (std::size_t i = 0; i < importer.functions.size(); ++i) {
    prospect leg;
    check_function(machine, buffer, base, importer.functions[i], leg);
    if (i < importer.legs.size() && !leg.against.empty()) {
      result.against.push_back({.code = DMABRIDGE_REASON_LEG,
                                .blocks_p2p = true,
                                .device = importer.functions[i],
                                .name = importer.legs[i]});
    }
    append(std::move(leg.against), result.against);
    append(std::move(leg.perhaps), result.perhaps);
    append(std::move(leg.missing), result.missing);
    append(std::move(leg.open), result.open);
    if (leg.straight == route::p2p_host_bridge) result.straight = leg.straight;
  }
  // The kernel asks for no distance to a disk that is made of others.
}

}  // namespace

void lack(unread_fact fact, prospect& result) {
  result.perhaps.push_back(named(DMABRIDGE_REASON_PATH_UNKNOWN, fact.what));
  result.missing.push_back(std::move(fact));
}

auto may_be_bound(const buffer_facts& buffer) -> bool {
  return buffer.rules.bindable != answer::no &&
         (buffer.kind == region_kind::system || buffer.rules.memory != memory_kind::device);
}

auto is_unplaced(const buffer_facts& buffer) -> bool {
  return !buffer.foreign.empty() && buffer.kind == region_kind::bar && !buffer.device &&
         buffer.rules.memory != memory_kind::device;
}

auto survey(const topology& machine, const buffer_facts& buffer) -> ground {
  ground base;
  add_lock_out(machine, base);
  if (buffer.kind != region_kind::bar) return base;
  const auto& facts = machine.machine;

  if (facts.architecture.starts_with("s390")) {
    base.against.push_back(named(DMABRIDGE_REASON_NOT_MAPPABLE, facts.architecture));
  }
  // Whoever does not ask that part of the kernel does without it.
  const auto does_without = !asks_path(buffer) && buffer.rules.asks_path == answer::no;
  if (!facts.config_p2pdma) {
    if (!does_without) base.missing.push_back(not_read(machine, "kernel configuration"));
  } else if (!*facts.config_p2pdma && asks_path(buffer)) {
    base.against.push_back(named(DMABRIDGE_REASON_KERNEL_NO_P2PDMA, facts.kernel));
  } else if (!*facts.config_p2pdma && !does_without) {
    base.missing.push_back(unread(buffer, foreign_gap::p2p));
  }
  if (!facts.memory_encryption) {
    base.missing.push_back(not_read(machine, "memory encryption"));
  } else if (*facts.memory_encryption) {
    base.against.push_back(blocker(DMABRIDGE_REASON_MEMORY_ENCRYPTION));
  }

  if (buffer.device) base.exporter = machine.find(*buffer.device);
  if (base.exporter != nullptr) {
    base.paths.emplace(machine, base.exporter->address);
    check_bar(machine, buffer, base);
  } else if (buffer.device) {
    base.missing.push_back(
        not_read(machine, fmt::format("PCI function {}", to_string(*buffer.device))));
  } else if (!buffer.foreign.empty()) {
    base.missing.push_back(unread(buffer, foreign_gap::place));
  } else {
    base.against.push_back(blocker(DMABRIDGE_REASON_NO_PATH));
    base.against.back().value = ~std::uint64_t{0};
  }

  if (facts.hypervisor && !facts.hypervisor->empty()) {
    base.caveats.push_back({.code = DMABRIDGE_REASON_VIRTUAL_MACHINE, .name = *facts.hypervisor});
  }
  return base;
}

auto look_at(const topology& machine, const buffer_facts& buffer, const importer_facts& importer,
             const ground& base) -> prospect {
  prospect result;
  if (buffer.kind == region_kind::stolen) result.straight = route::stolen;
  if (buffer.kind == region_kind::system) {
    result.straight = route::system;
    if (buffer.foreign.empty()) {
      result.against.push_back(blocker(DMABRIDGE_REASON_SYSTEM_REGION));
    } else if (!importer.needs_pages) {
      result.against.push_back(named(DMABRIDGE_REASON_FOREIGN_BUFFER, buffer.foreign));
    }
  }
  if (!buffer.foreign.empty()) check_foreign(buffer, importer, result);
  if (buffer.kind != region_kind::bar) {
    std::ranges::copy(importer.own, std::back_inserter(result.against));
    for (const auto& fact : importer.missing) lack(fact, result);
    return result;
  }
  if (buffer.foreign.empty()) check_driver(buffer, importer, result);
  std::ranges::copy(importer.own, std::back_inserter(result.against));
  std::ranges::copy(base.against, std::back_inserter(result.against));
  for (const auto& fact : importer.missing) lack(fact, result);
  for (const auto& fact : base.missing) lack(fact, result);
  check_path(machine, buffer, importer, base, result);
  if (has(base.against, DMABRIDGE_REASON_KERNEL_NO_P2PDMA)) result.distance.reset();
  return result;
}

}  // namespace dmabridge

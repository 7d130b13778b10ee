// SPDX-License-Identifier: MIT
#include "memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "dmabridge/exporter_rules.hpp"
#include "dmabridge/region.hpp"

namespace dmabridge::command {
namespace {

// What struct pages of a BAR need: p2pdma makes them by sections of this.
constexpr std::uint64_t page_section = std::uint64_t{2} << 20;

auto can_have_pages(const pci_bar& bar) -> bool {
  return bar.size >= page_section && bar.start % page_section == 0;
}

auto is_buffer(const std::string& spec) -> bool {
  return spec.starts_with("fd:") || spec.starts_with("pid:");
}

[[noreturn]] void misuse(const std::string& spec, std::string detail, std::string remedy) {
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("find the memory \"{}\"", printable(spec)),
               .detail = std::move(detail),
               .remedies = {std::move(remedy)}});
}

auto choices(const machine_view& machine, std::span<const device> devices) -> std::string {
  std::string list;
  const auto add = [&list](const std::string& choice) {
    list += (list.empty() ? "" : ", ") + choice;
  };
  for (const auto& region : machine.regions) add("region " + region.name);
  for (const auto& entry : devices) {
    if (entry.kind != device_kind::gpu) continue;
    add(entry.names.empty() ? fmt::format("{} ({})", entry.label, to_string(entry.function))
                            : fmt::format("{} ({}, {})", entry.label, entry.names.front(),
                                          to_string(entry.function)));
  }
  if (list.empty()) {
    return "name a PCI function that has a memory BAR by its address (lspci lists them); no region "
           "of dmabridge and no GPU was found on this machine";
  }
  return "there is: " + list + "; or any PCI function with a memory BAR, by its address";
}

// Nothing: it is a dma-buf of another exporter.
auto query(const buffer& held) -> std::optional<buffer_info> {
  const auto exporter = held.exporter();
  if (!exporter.empty() && exporter != "dmabridge") return {};
  try {
    return control().query(held.descriptor());
  } catch (const error& failure) {
    if (failure.code() != EMEDIUMTYPE) throw;
    return {};
  }
}

auto memory_of_foreign_buffer(buffer held) -> named_memory {
  named_memory memory{.facts = dmabridge::facts_of(held, policy::prefer)};
  memory.facts.name = fmt::format("dma-buf of exporter {}", memory.facts.foreign);
  memory.held = std::move(held);
  return memory;
}

auto memory_of_buffer(const machine_view& machine, const std::string& spec) -> named_memory {
  if (!machine.is_here()) {
    misuse(spec,
           "a buffer lives on this machine, and the machine of " + machine.file + " is another",
           "name a PCI function of that machine, or leave out --from");
  }
  auto held = buffer::from_spec(spec);
  const auto known = query(held);
  if (!known) return memory_of_foreign_buffer(std::move(held));
  const auto found = std::ranges::find(machine.regions, known->region_id, &region_info::id);
  if (found == machine.regions.end()) {
    misuse(spec, fmt::format("its region {} went away meanwhile", known->region),
           "allocate a new buffer");
  }
  named_memory memory{.facts = dmabridge::facts_of(*known, *found), .region = *found};
  memory.facts.name = "buffer of region " + found->name;
  memory.held = std::move(held);
  return memory;
}

auto has_region(const machine_view& machine, const std::string& spec) -> bool {
  const auto address = pci_address::parse(spec);
  return std::ranges::any_of(machine.regions, [&](const region_info& region) {
    return spec == region.name || spec == region.node || (address && region.device == address);
  });
}

auto without_dev(std::string_view path) -> std::string_view {
  for (const std::string_view folder : {"/dev/dri/", "/dev/"}) {
    if (path.starts_with(folder)) return path.substr(folder.size());
  }
  return path;
}

auto function_named(const machine_view& machine, std::span<const device> devices,
                    const std::string& spec) -> const pci_function* {
  if (const auto address = pci_address::parse(spec)) {
    const auto* function = machine.facts.find(*address);
    if (function == nullptr) {
      misuse(spec, "there is no PCI function of that address", choices(machine, devices));
    }
    return function;
  }
  const auto* node = machine.facts.find_drm(without_dev(spec));
  return node != nullptr && node->function ? machine.facts.find(*node->function) : nullptr;
}

// Whether its memory is its driver's to export, which today's GPU drivers do without struct pages.
auto is_of_gpu_driver(const device& of) -> bool {
  const auto stands_by = of.driver.empty() || of.driver == "vfio-pci" || of.driver == "pci-stub" ||
                         of.driver == "dmabridge_pci";
  return of.kind == device_kind::gpu && !stands_by;
}

// Of a virtio device the DRM node knows it, and the function that of the bus.
auto driver_of(const machine_view& machine, const device& of) -> std::string {
  const auto node = std::ranges::find(machine.facts.drm, of.function, &drm_node::function);
  const auto is_known = node != machine.facts.drm.end() && rules_of_driver(node->driver).is_known();
  return is_known ? node->driver : of.driver;
}

// What a driver exports by itself, by its rules; nothing: it exports none, and dmabridge_pci could
// have the function instead.
auto exported_by(const std::string& driver, const device& of, std::uint64_t size, policy wanted)
    -> std::optional<buffer_facts> {
  const auto rules = rules_of_driver(driver);
  if (!rules.is_known() && !is_of_gpu_driver(of)) return {};
  auto facts = dmabridge::facts_of(rules, driver, size, wanted);
  // The API that the memory is allocated with copies it, or vfio's file.
  facts.copies = rules.is_known() ? answer::yes : answer::unknown;
  facts.empty = true;
  facts.name = fmt::format("memory of {}, as driver {} exports it", to_string(of.function), driver);
  if (facts.kind == region_kind::system) return facts;
  facts.device = of.function;
  if (of.memory != nullptr) facts.bar = of.memory->number;
  return facts;
}

auto device_of(std::span<const device> devices, const pci_function& function) -> device {
  const auto known = std::ranges::find(devices, function.address, &device::function);
  if (known != devices.end()) return *known;
  return {.kind = device_kind::net,
          .function = function.address,
          .driver = function.driver,
          .memory = largest_bar(function)};
}

}  // namespace

auto facts_of(const device& of, bool assume_pages) -> buffer_facts {
  buffer_facts facts{.device = of.function, .empty = true};
  if (of.memory == nullptr) {
    facts.name = fmt::format("memory of {}, whose BARs are not known", to_string(of.function));
    return facts;
  }
  facts.name = fmt::format("BAR {} of {}", of.memory->number, to_string(of.function));
  facts.bar = of.memory->number;
  facts.has_pages = assume_pages || can_have_pages(*of.memory);
  return facts;
}

auto find_memory(const machine_view& machine, std::span<const device> devices,
                 const std::string& spec, std::uint64_t size, policy wanted) -> named_memory {
  if (is_buffer(spec)) return memory_of_buffer(machine, spec);
  const auto* labelled = find_device(devices, spec);
  const auto by_label = labelled != nullptr && !has_region(machine, spec);
  const auto name = by_label ? to_string(labelled->function) : spec;
  if (has_region(machine, name)) {
    const auto& region = find_region(machine.regions, name);
    return {.facts = dmabridge::facts_of(region, size, wanted), .region = region};
  }
  const auto* function = function_named(machine, devices, name);
  if (function == nullptr) {
    misuse(spec, "it is no region, buffer, DRM node or PCI address", choices(machine, devices));
  }
  const auto of = device_of(devices, *function);
  // A GPU has memory, also where no BAR could be read.
  if (of.memory == nullptr && of.kind != device_kind::gpu) {
    misuse(spec, "the function has no memory BAR, and so no memory that others could reach",
           choices(machine, devices));
  }
  const auto* missing = machine.module ? "it has no region of dmabridge" : "no region is known";
  if (auto facts = exported_by(driver_of(machine, of), of, size, wanted)) {
    return {.facts = std::move(*facts),
            .no_region = fmt::format("{}, and of the memory of another driver the kernel is asked "
                                     "by a buffer (fd:N, pid:PID:FD) only",
                                     missing)};
  }
  named_memory memory{
      .facts = facts_of(of, false),
      .no_region = fmt::format("{}: judged as dmabridge_pci would export it", missing)};
  memory.facts.size = size;
  memory.facts.policy = wanted;
  return memory;
}

}  // namespace dmabridge::command

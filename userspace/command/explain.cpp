// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <ostream>
#include <string_view>
#include <utility>

#include "devices.hpp"
#include "dmabridge/confirm.hpp"
#include "dmabridge/error.hpp"
#include "explanation.hpp"
#include "json.hpp"
#include "machine.hpp"
#include "memory.hpp"
#include "subcommands.hpp"

namespace dmabridge::command {
namespace {

[[noreturn]] void misuse(std::string detail, std::string remedy) {
  throw error({.kind = error_kind::usage,
               .attempted = "explain",
               .detail = std::move(detail),
               .remedies = {std::move(remedy)}});
}

auto has_rdma(const topology& machine, const std::string& netdev) -> bool {
  return std::ranges::any_of(machine.rdma, [&](const rdma_node& node) {
    return std::ranges::find(node.netdevs, netdev) != node.netdevs.end();
  });
}

auto importer_of(const machine_view& machine, std::span<const device> devices,
                 const std::string& name, policy wanted, direction way) -> importer_facts {
  const auto* labelled = find_device(devices, name);
  if (labelled == nullptr && !machine.is_here() && name.find('/') != std::string::npos &&
      !name.starts_with("/dev/")) {
    misuse(fmt::format("{} is a file, and files are looked up on this machine, not on that of {}",
                       name, machine.file),
           "name the block device that it is on, as it is called there");
  }
  // One that does no RDMA is a PCI function like any other.
  const auto* net = machine.facts.find_net(name);
  const auto by_function = net != nullptr && net->function && !has_rdma(machine.facts, name);
  return importer_named(machine.facts,
                        labelled != nullptr ? labelled->importer
                        : by_function       ? to_string(*net->function)
                                            : name,
                        wanted, way);
}

// What a proof opens.
auto path_of(const importer_facts& importer) -> std::string {
  const auto is_path = importer.name.find('/') != std::string::npos;
  return is_path ? importer.name : "/dev/" + importer.name;
}

auto one_line(const error& failure) -> std::string {
  std::string line;
  for (const char* c = failure.what(); *c != '\0'; ++c) {
    if (*c == '\n') line += ';';
    const auto repeats = std::isspace(static_cast<unsigned char>(*c)) != 0 && line.ends_with(' ');
    if (!repeats) line += *c == '\n' ? ' ' : *c;
  }
  return line;
}

// The kernel's word in place of the prediction, if it can be had.
void ask_kernel(const machine_view& machine, named_memory& memory, explanation& told) {
  if (!machine.module) {
    told.why_predicted = machine.why_no_module;
    return;
  }
  if (!memory.region && !memory.held) {
    told.why_predicted = memory.no_region;
    return;
  }
  const auto* held = memory.held ? &*memory.held : nullptr;
  try {
    auto word = memory.region
                    ? confirm(*machine.module, *memory.region, held, machine.facts, memory.facts,
                              told.importers)
                    : confirm(*machine.module, *held, machine.facts, memory.facts, told.importers);
    told.joint = std::move(word.joint);
    told.facts = memory.facts = std::move(word.memory);
    told.differences = std::move(word.differences);
  } catch (const error& failure) {
    told.why_predicted = one_line(failure);
  }
}

auto prove_one(const machine_view& machine, const region_info& region,
               const importer_facts& importer, std::uint64_t length) -> proof {
  if (importer.kind != importer_kind::block && importer.kind != importer_kind::file) {
    return {.importer = importer.name,
            .skipped = "only block devices and files move bytes for a proof"};
  }
  try {
    return prove(*machine.module, region, importer, path_of(importer), length);
  } catch (const error& failure) {
    return {.importer = importer.name, .skipped = one_line(failure)};
  }
}

void demand_proof(const machine_view& machine, const named_memory& memory) {
  if (!machine.is_here()) {
    misuse("--prove moves bytes on this machine, and that of " + machine.file + " is another",
           "leave out --prove, or run it on that machine");
  }
  if (!memory.region) {
    const auto why = !machine.module ? machine.why_no_module
                     : memory.held   ? "the buffer is another exporter's"
                                     : memory.no_region;
    misuse("--prove needs a region of dmabridge to move bytes into: " + why,
           machine.module ? "name a region (dmabridge info lists them), or leave out --prove"
                          : "load the module, as root: modprobe dmabridge; or leave out --prove");
  }
}

}  // namespace

auto explain(const explain_arguments& wanted, surroundings& around) -> int {
  const auto machine = view_machine(wanted.from, around);
  const auto devices = list_devices(machine.facts, machine.regions);
  auto memory = find_memory(machine, devices, wanted.memory, wanted.size, wanted.policy);
  if (wanted.prove) demand_proof(machine, memory);

  explanation told{.memory = wanted.memory, .facts = memory.facts};
  for (const auto& name : wanted.importers) {
    told.importers.push_back(importer_of(machine, devices, name, wanted.policy, wanted.way));
  }
  told.joint = negotiate(machine.facts, memory.facts, told.importers);
  ask_kernel(machine, memory, told);
  if (wanted.prove) {
    for (const auto& importer : told.importers) {
      told.proofs.push_back(prove_one(machine, *memory.region, importer, wanted.size));
    }
  }
  told.of_machine = machine_checks(machine, told.joint);
  told.of_memory = memory_checks(machine, memory, told.joint);
  for (std::size_t i = 0; i < told.importers.size(); ++i) {
    told.of_importers.push_back(
        importer_checks(machine, memory, told.importers[i], told.joint.importers[i]));
  }
  around.out() << (wanted.json ? dump(to_json(told)) : to_text(told));
  return exit_status_of(outcome_of(told));
}

}  // namespace dmabridge::command

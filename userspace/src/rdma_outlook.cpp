// SPDX-License-Identifier: MIT
#include "rdma_outlook.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "attach_manner.hpp"
#include "dmabridge/confirm.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/plan.hpp"

namespace dmabridge {
namespace {

// Of system memory that is pinned by somebody whom a revoke does not concern.
constexpr auto memory_stays =
    "the buffer stays in system memory until it is deregistered; its device may go away meanwhile, "
    "and the registered memory stays";

// The same that any importer gets, but for what only the process knows that has the device open.
auto importer_of(const topology& machine, const rdma_device& device, policy wanted)
    -> importer_facts {
  auto facts = importer_named(machine, device.name, wanted);
  facts.own = device.why_no_dmabuf_mr();
  if (!device.has_dmabuf_mr()) {
    // Its driver does not attach at all: none of that decides.
    facts.missing.clear();
    facts.pins = true;
  }
  return facts;
}

void look_at_foreign(const rdma_device& device, const buffer& memory,
                     const registration_request& wanted, bool pinnable,
                     registration_outlook& seen) {
  // With a mapping that can be pinned nobody has to be asked but the limit.
  seen.unknown = device.has_dmabuf_mr() || !pinnable;
  seen.word.policy = wanted.policy;
  seen.word.route = device.has_dmabuf_mr() ? route::unproved : route::system;
  seen.word.reasons = device.why_no_dmabuf_mr();
  seen.word.reasons.push_back(
      {.code = DMABRIDGE_REASON_FOREIGN_BUFFER, .blocks_p2p = true, .name = memory.exporter()});
  if (wanted.policy == policy::require) {
    seen.unknown = false;
    seen.word.route = route::none;
  }
}

// The kernel's word where it can give one: of a device whose driver attaches. A module that does
// not know the question leaves us with what can be predicted.
auto plan_for(const topology& machine, const rdma_device& device, const control& module,
              const buffer& memory, const known_buffer& known, const importer_facts& importer)
    -> plan {
  const auto facts = facts_of(known.info, *known.region);
  if (device.has_dmabuf_mr()) {
    try {
      return confirm(module, *known.region, &memory, machine, facts, {&importer, 1}).joint;
    } catch (const error& failure) {
      if (failure.code() != ENOTTY) throw;
    }
  }
  return negotiate(machine, facts, {&importer, 1});
}

void look_at_ours(const topology& machine, const rdma_device& device, const control& module,
                  const buffer& memory, const known_buffer& known, policy wanted,
                  registration_outlook& seen) {
  const auto importer = importer_of(machine, device, wanted);
  const auto joint = plan_for(machine, device, module, memory, known, importer);
  const auto& planned = joint.importers.front();
  seen.word = planned.word;
  seen.unknown = planned.unknown;
}

// Who waits for whom while a driver that is known is attached.
auto consequence_of(const attach_manner& manner, bool on_device) -> std::string {
  if (!manner.pins) return "the buffer may move, and the device follows";
  if (manner.revocable) {
    return "the buffer stays where it is until it is deregistered; if its device goes away, peers' "
           "accesses fail";
  }
  if (!on_device) return memory_stays;
  return fmt::format(
      "the buffer stays where it is until it is deregistered, and the driver of its device "
      "cannot be unbound before: driver {} does not let itself be stopped",
      manner.driver);
}

// Who waits for whom, once it is registered.
void add_consequence(const rdma_device& device, registration_outlook& seen) {
  if (seen.word.route == route::none) {
    seen.consequence = "nothing is registered";
    return;
  }
  if (seen.method == registration_method::pinned_mapping) {
    seen.blocks_moves = true;
    seen.consequence =
        seen.word.route == route::stolen
            ? "the buffer stays in the RAM behind its region until it is deregistered; if its "
              "device goes away, that memory is in quarantine until then"
            : memory_stays;
    return;
  }
  const auto* const manner = manner_of(device.driver);
  const auto on_device = seen.unknown || satisfies_require(seen.word.route);
  seen.blocks_moves = manner == nullptr || manner->pins;
  seen.blocks_revoke = on_device && (manner == nullptr || !manner->revocable);
  seen.consequence =
      manner != nullptr
          ? consequence_of(*manner, on_device)
          : fmt::format(
                "the buffer may have to stay where it is until it is deregistered, and the "
                "driver of its device may have to wait for that: driver {} is none that "
                "is known here",
                device.driver.empty() ? "(none is bound)" : device.driver);
}

}  // namespace

auto ask_about(const control* module, const buffer& memory) -> std::optional<known_buffer> {
  if (module == nullptr) return {};
  known_buffer known;
  try {
    known.info = module->query(memory.descriptor());
  } catch (const error& failure) {
    if (failure.code() == EMEDIUMTYPE) return {};
    throw;
  }
  const auto regions = module->regions();
  const auto found = std::ranges::find(regions, known.info.region_id, &region_info::id);
  if (found != regions.end()) known.region = *found;
  return known;
}

auto look_ahead(const topology& machine, const rdma_device& device, const control* module,
                const buffer& memory, const registration_request& wanted, bool pinnable)
    -> registration_outlook {
  registration_outlook seen;
  seen.method =
      device.has_dmabuf_mr() ? registration_method::dmabuf_mr : registration_method::pinned_mapping;
  const auto known = ask_about(module, memory);
  if (!known) {
    look_at_foreign(device, memory, wanted, pinnable, seen);
  } else if (known->info.revoked || !known->region) {
    seen.word.policy = combine(known->info.policy, wanted.policy);
    seen.word.reasons.push_back({.code = DMABRIDGE_REASON_REVOKED, .blocks_p2p = true});
  } else {
    look_at_ours(machine, device, *module, memory, *known, wanted.policy, seen);
  }
  add_consequence(device, seen);
  if (!known && seen.unknown) seen.consequence.insert(0, "if its exporter lets it be registered: ");
  return seen;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "rdma_outlook.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "dmabridge/confirm.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/plan.hpp"

namespace dmabridge {
namespace {

// `attaches`: its driver, to the buffer.
auto importer_of(const topology& machine, const rdma_device& device, policy wanted, bool attaches)
    -> importer_facts {
  // The same that any importer gets.
  if (attaches) return importer_named(machine, device.name, wanted);
  importer_facts facts{.name = device.name,
                       .kind = importer_kind::rdma,
                       .driver = device.driver,
                       .policy = wanted,
                       .pins_mapping = true,
                       .own = device.why_no_dmabuf_mr()};
  if (device.function) facts.functions = {*device.function};
  return facts;
}

// Its facts, and what its owner vouches for.
auto facts_of_foreign(const buffer& memory, bool attaches, bool pinnable) -> buffer_facts {
  // It knows no policies.
  auto facts = facts_of(memory, policy::prefer);
  if (!pinnable) return facts;
  facts.pinnable = answer::yes;
  if (attaches) return facts;
  // For RDMA the kernel pins no other (drivers/infiniband/core/umem.c).
  facts.kind = region_kind::system;
  facts.placement = placement::system;
  return facts;
}

void take(planned_verdict planned, registration_outlook& seen) {
  seen.word = std::move(planned.word);
  seen.unknown = planned.unknown;
  seen.blocks_moves = planned.claim.blocks_moves();
  seen.blocks_revoke = planned.claim.blocks_revoke();
  seen.consequence = planned.claim.text();
}

void look_at_foreign(const topology& machine, const rdma_device& device, const buffer& memory,
                     const registration_request& wanted, bool pinnable,
                     registration_outlook& seen) {
  // An attachment brings no policy, and nobody can hold the buffer where one wants it.
  const auto attaches = device.has_dmabuf_mr() && wanted.policy == policy::prefer;
  if (!attaches) seen.method = registration_method::pinned_mapping;
  const auto importer = importer_of(machine, device, wanted.policy, attaches);
  auto joint = negotiate(machine, facts_of_foreign(memory, attaches, pinnable), {&importer, 1});
  take(std::move(joint.importers.front()), seen);
  auto& reasons = seen.word.reasons;
  const auto is_said = [](const reason& why) {
    return why.code == DMABRIDGE_REASON_FOREIGN_BUFFER;
  };
  if (std::ranges::none_of(reasons, is_said)) {
    reasons.push_back(
        {.code = DMABRIDGE_REASON_FOREIGN_BUFFER, .blocks_p2p = true, .name = memory.exporter()});
  }
  if (!seen.unknown) return;
  // Only a try tells: this is what a registration has that is made.
  seen.word.route = attaches ? route::unproved : route::system;
  seen.consequence.insert(0, "if its exporter lets it be registered: ");
}

// The kernel's word where it can give one: of a device whose driver attaches. A module that does
// not know the question leaves us with what can be predicted.
auto plan_for(const topology& machine, const control& module, const buffer& memory,
              const known_buffer& known, const importer_facts& importer) -> plan {
  if (!known.region) {
    const buffer_facts gone{.revoked = true, .policy = known.info.policy};
    return negotiate(machine, gone, {&importer, 1});
  }
  const auto facts = facts_of(known.info, *known.region);
  if (!facts.revoked && !importer.pins_mapping) {
    try {
      return confirm(module, *known.region, &memory, machine, facts, {&importer, 1}).joint;
    } catch (const error& failure) {
      if (failure.code() != ENOTTY) throw;
    }
  }
  return negotiate(machine, facts, {&importer, 1});
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
    look_at_foreign(machine, device, memory, wanted, pinnable, seen);
    return seen;
  }
  const auto importer = importer_of(machine, device, wanted.policy, device.has_dmabuf_mr());
  auto joint = plan_for(machine, *module, memory, *known, importer);
  take(std::move(joint.importers.front()), seen);
  return seen;
}

}  // namespace dmabridge

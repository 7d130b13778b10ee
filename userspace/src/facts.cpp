// SPDX-License-Identifier: MIT
#include <algorithm>

#include "dmabridge/plan.hpp"

namespace dmabridge {
namespace {

auto facts_of(const region_info& region) -> buffer_facts {
  buffer_facts facts{.name = "region " + region.name,
                     .kind = region.kind,
                     .device = region.device,
                     .bar = region.bar,
                     .has_pages = region.has_pages,
                     .takes_unrevocable = region.takes_unrevocable,
                     .suspended = region.suspended};
  // Uncached reads by the CPU are slow; RAM and engines are not.
  if (region.kind == region_kind::bar && !region.has_engine) facts.move_limit = region.move_limit;
  return facts;
}

auto because_of(std::uint32_t code, const buffer_user& user, std::uint64_t value) -> reason {
  return {.code = code, .device = user.device, .value = value, .name = user.name};
}

// As the kernel tells it: one that was moved off a device which was stopped stays where it is once
// that is over, if it could not go back.
auto why_in_system(const buffer_info& buffer, const region_info& region) -> std::optional<reason> {
  auto why = buffer.last_move;
  if (why && region.suspended) {
    why->code = DMABRIDGE_REASON_SUSPENDED;
  } else if (why && why->code == DMABRIDGE_REASON_SUSPENDED) {
    why->code = DMABRIDGE_REASON_EVICTED;
  }
  return why;
}

}  // namespace

auto facts_of(const region_info& region, std::uint64_t size, policy wanted) -> buffer_facts {
  auto facts = facts_of(region);
  facts.policy = wanted;
  facts.size = size;
  facts.empty = true;
  facts.revoked = region.unregistered;
  // What must not be on the device never is; but nothing is made while that is suspended.
  const auto never_there = region.kind == region_kind::system || wanted == policy::forbid;
  if (never_there && !region.suspended) facts.placement = placement::system;
  return facts;
}

auto facts_of(const buffer_info& buffer, const region_info& region) -> buffer_facts {
  auto facts = facts_of(region);
  facts.name = "buffer of " + facts.name;
  facts.policy = buffer.policy;
  facts.size = buffer.size;
  facts.revoked = buffer.revoked;
  facts.placement = buffer.placement;
  facts.why_in_system = why_in_system(buffer, region);
  facts.pins =
      static_cast<std::uint64_t>(std::ranges::count_if(buffer.users, &buffer_user::pinned));
  const auto needs_system = std::ranges::find_if(buffer.users, &buffer_user::needs_system);
  if (needs_system != buffer.users.end()) {
    facts.system_needer = because_of(DMABRIDGE_REASON_DEMOTED, *needs_system, 0);
  }
  const auto needs_device = std::ranges::find_if(buffer.users, &buffer_user::needs_device);
  if (needs_device != buffer.users.end()) {
    facts.device_needer =
        because_of(DMABRIDGE_REASON_HELD, *needs_device, DMABRIDGE_PLACEMENT_DEVICE);
  }
  return facts;
}

}  // namespace dmabridge

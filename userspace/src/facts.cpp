// SPDX-License-Identifier: MIT
#include <fmt/format.h>

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
  facts.users = buffer.users;
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

auto facts_of(const exporter_rules& rules, const std::string& name, std::uint64_t size,
              policy wanted) -> buffer_facts {
  // Memory that its exporter gives to nobody but by way of system memory is that for all.
  const auto in_system = rules.memory == memory_kind::system ||
                         (rules.p2p == answer::no && rules.redirects == answer::yes);
  const auto known_as = rules.driver.empty() ? rules.exporter : rules.driver;
  buffer_facts facts{.kind = in_system ? region_kind::system : region_kind::bar,
                     .foreign = !name.empty()      ? name
                                : known_as.empty() ? std::string("unknown")
                                                   : std::string(known_as),
                     .rules = rules,
                     .copies = rules.mappable,
                     .pinnable = rules.pinnable,
                     .has_pages = in_system && rules.bindable == answer::yes,
                     .movable = rules.redirects == answer::yes,
                     .takes_unrevocable = rules.unstoppable == answer::yes,
                     .placement = in_system ? placement::system : placement::device,
                     .policy = wanted,
                     .size = size};
  facts.name = fmt::format("memory of exporter {}", facts.foreign);
  return facts;
}

auto facts_of(const buffer& memory, policy wanted) -> buffer_facts {
  const auto exporter = memory.exporter();
  return facts_of(rules_of(exporter), exporter, memory.size(), wanted);
}

auto facts_of(const exported_memory& memory, policy wanted) -> buffer_facts {
  auto facts = facts_of(memory.memory(), wanted);
  facts.name = fmt::format("memory of {}", memory.owner().name());
  facts.size = memory.size();
  facts.copies = answer::yes;
  // O_DIRECT reaches such a mapping as a binding would reach the dma-buf.
  if (!memory.owner().pinnable().empty()) {
    facts.pinnable = answer::yes;
    facts.rules.bindable = answer::yes;
    facts.has_pages = facts.kind == region_kind::system;
  }
  return facts;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>

#include "append.hpp"
#include "claim.hpp"
#include "foreign_gap.hpp"
#include "joint.hpp"
#include "prospect.hpp"

namespace dmabridge {
namespace {

enum class reach : std::uint8_t { yes, no, unknown };

// --- one policy of the buffer ------------------------------------------------------------

// How an importer takes part. What is not known of it makes a role of its own, because others'
// lots hang on it.
enum class role : std::uint8_t {
  conflict,      // policies
  dead,          // requires P2P and cannot
  maybe_holder,  // requires P2P, and it is not known whether it can
  holder,        // requires P2P, and can: the buffer has to be on its device
  rider,         // can, and follows the buffer to either placement
  bouncer,       // takes device memory by copies, and follows too
  copier,        // takes another exporter's memory by copies, and does not attach
  undecided,     // does not attach either, and it is not known what it gets
  maybe_needer,  // would take system memory if it turned out that it cannot
  needer,        // cannot or must not: the buffer has to be in system memory
};

// RAM serves all, but one that insists on DMA gets no copy.
auto own_counts(const buffer_facts& buffer, const importer_facts& importer, policy combined)
    -> bool {
  return buffer.kind != region_kind::stolen || (importer.may_copy && combined == policy::require);
}

// A veto counts always.
auto counts(const buffer_facts& buffer, const importer_facts& importer, policy combined,
            const reason& why) -> bool {
  return why.code == DMABRIDGE_REASON_EXPORTER_VETO || own_counts(buffer, importer, combined);
}

auto reach_of(const buffer_facts& buffer, const importer_facts& importer, policy combined,
              const prospect& view) -> reach {
  const auto against = std::ranges::any_of(
      view.against, [&](const reason& why) { return counts(buffer, importer, combined, why); });
  if (against || combined == policy::forbid) return reach::no;
  const auto open = !view.missing.empty() && own_counts(buffer, importer, combined);
  return open ? reach::unknown : reach::yes;
}

auto bounces(const buffer_facts& buffer, const importer_facts& importer) -> bool {
  return buffer.kind == region_kind::bar && importer.needs_pages && !buffer.has_pages &&
         importer.can_bounce && !importer.vetoed;
}

// Of another exporter's memory, which knows no policies. A binding and the CPU move nothing of it.
auto foreign_role_of(const buffer_facts& buffer, policy combined, const importer_facts& importer,
                     const prospect& view) -> role {
  const auto required = combined == policy::require;
  const auto in_system = buffer.kind == region_kind::system;
  if (importer.needs_pages) {
    if (required) return role::dead;
    return in_system && buffer.rules.bindable == answer::yes ? role::needer : role::copier;
  }
  if (importer.pins_mapping) {
    // The kernel pins no device's memory for RDMA (drivers/infiniband/core/umem.c).
    const auto on_device = !in_system && buffer.rules.memory == memory_kind::device;
    if (required || buffer.pinnable == answer::no || on_device) return role::dead;
    return in_system && buffer.pinnable == answer::yes ? role::needer : role::undecided;
  }
  if (in_system) return required ? role::dead : role::needer;
  // Nobody can hold it where the policy wants it.
  if (required) return role::dead;
  if (combined == policy::forbid) return is_unplaced(buffer) ? role::undecided : role::dead;
  switch (reach_of(buffer, importer, combined, view)) {
    case reach::yes:
      return role::rider;
    case reach::unknown:
      return role::maybe_needer;
    case reach::no:
      break;
  }
  return role::needer;
}

auto role_of(const buffer_facts& buffer, policy of_buffer, const importer_facts& importer,
             const prospect& view) -> role {
  const auto combined = combine(of_buffer, importer.policy);
  if (!combined) return role::conflict;
  if (!buffer.foreign.empty()) return foreign_role_of(buffer, *combined, importer, view);
  const auto reaches = reach_of(buffer, importer, *combined, view);
  if (*combined == policy::require) {
    return reaches == reach::yes       ? role::holder
           : reaches == reach::unknown ? role::maybe_holder
                                       : role::dead;
  }
  if (reaches == reach::yes) return role::rider;
  if (*combined == policy::prefer && bounces(buffer, importer)) return role::bouncer;
  return reaches == reach::unknown ? role::maybe_needer : role::needer;
}

// Where the buffer can be, before anybody's wishes.
struct ways {
  bool lost = false;       // no bytes, or none to be had
  bool in_system = false;  // now
  bool to_device = false;  // it is there, or can go there
  bool to_system = false;
  bool maybe_to_system = false;  // it is not known whether its exporter moves it there
};

// As far as its exporter goes.
auto can_be_moved(const buffer_facts& buffer) -> bool {
  return buffer.foreign.empty() ? buffer.movable : buffer.rules.redirects == answer::yes;
}

auto ways_of(const buffer_facts& buffer) -> ways {
  const auto now = buffer.placement;
  // Of a suspended device all buffers are in system memory. This one is yet to be made.
  const auto lost =
      buffer.revoked || now == placement::none || (buffer.suspended && now == placement::device);
  const auto moves = can_be_moved(buffer) && buffer.pins == 0;
  const auto fits = buffer.empty || !buffer.move_limit || buffer.size <= *buffer.move_limit;
  return {.lost = lost,
          .in_system = now == placement::system,
          .to_device =
              now == placement::device || (moves && !buffer.suspended && !buffer.system_needer &&
                                           buffer.kind != region_kind::system),
          .to_system = now == placement::system || (moves && fits && !buffer.device_needer),
          .maybe_to_system = !buffer.foreign.empty() && now == placement::device &&
                             buffer.rules.redirects == answer::unknown};
}

// The placements that are possible once all have come, as far as it is known: both, if it hangs on
// something unknown.
struct outlook {
  bool device = false;
  bool system = false;
  bool held = false;  // somebody may insist on the device
};

struct crowd {
  std::array<std::size_t, static_cast<std::size_t>(role::needer) + 1> of_role{};

  auto any(role which) const -> bool { return of_role[static_cast<std::size_t>(which)] != 0; }
};

// One that requires P2P, and can have it, outweighs those who would move the buffer away: they are
// refused. In the kernel whoever comes first decides; a plan lets that one come first.
auto look_out(const ways& way, const crowd& all) -> outlook {
  if (way.to_device && all.any(role::holder)) return {.device = true, .held = true};
  const auto held = way.to_device && all.any(role::maybe_holder);
  if (way.in_system) return {.device = held, .system = true, .held = held};
  if (!way.to_system && !way.maybe_to_system) return {.device = true, .held = held};
  if (all.any(role::needer)) {
    return {.device = held || !way.to_system, .system = true, .held = held};
  }
  return {.device = true, .system = all.any(role::maybe_needer), .held = held};
}

struct lot {
  dmabridge::route route = dmabridge::route::none;
  bool unknown = false;
};

// What an importer gets at worst, by all that is not known.
auto lot_of(const buffer_facts& buffer, role part, const importer_facts& importer,
            const prospect& view, const ways& way, const outlook& out) -> lot {
  const auto open = out.device && out.system;
  lot result;
  switch (part) {
    case role::conflict:
    case role::dead:
      break;
    case role::maybe_holder:
      result.unknown = way.to_device;
      break;
    case role::holder:
      if (way.to_device) result.route = view.straight;
      break;
    case role::rider:
      result = {.route = out.system ? route::system : view.straight, .unknown = open};
      break;
    case role::bouncer:
      result = {.route = out.device ? route::bounce : route::system, .unknown = open};
      break;
    case role::copier:
      result = {.route = buffer.copies == answer::yes ? route::bounce : route::none,
                .unknown = buffer.copies == answer::unknown || may_be_bound(buffer)};
      break;
    case role::undecided:
      result.unknown = true;
      break;
    case role::maybe_needer:
      // At worst it cannot, and then gets system memory unless somebody holds the buffer.
      result = {.route = out.system && way.to_system && !out.held ? route::system : route::none,
                .unknown = out.device};
      break;
    case role::needer:
      result = {.route = out.device ? route::none : route::system,
                .unknown = open || (out.device && is_unplaced(buffer))};
      break;
  }
  if (importer.no_direct_io && result.route != route::none) result.route = route::bounce;
  return result;
}

// What the whole set gets under one policy of the buffer.
struct settlement {
  outlook out{};
  std::vector<role> roles{};
  std::vector<lot> lots{};
};

auto settle(const buffer_facts& buffer, policy of_buffer, std::span<const importer_facts> importers,
            std::span<const prospect> views, const ways& way) -> settlement {
  settlement result;
  result.roles.reserve(importers.size());
  result.lots.resize(importers.size());
  crowd all;
  for (std::size_t i = 0; i < importers.size(); ++i) {
    const auto part = role_of(buffer, of_buffer, importers[i], views[i]);
    result.roles.push_back(part);
    ++all.of_role[static_cast<std::size_t>(part)];
  }
  if (way.lost) return result;
  result.out = look_out(way, all);
  for (std::size_t i = 0; i < importers.size(); ++i) {
    result.lots[i] = lot_of(buffer, result.roles[i], importers[i], views[i], way, result.out);
  }
  return result;
}

auto placement_of(const settlement& set) -> placement {
  const auto is_served = [](const lot& one) { return one.route != route::none; };
  if (std::ranges::none_of(set.lots, is_served)) return placement::none;
  return set.out.system ? placement::system : placement::device;
}

auto moved_by(const buffer_facts& buffer, placement to) -> std::uint64_t {
  return to == placement::none || to == buffer.placement || buffer.empty ? 0 : buffer.size;
}

auto copies_on(route by) -> unsigned {
  return by == route::bounce ? 1 : 0;
}

auto option_of(const buffer_facts& buffer, policy of_buffer, const settlement& set) -> plan_option {
  plan_option option{.policy = of_buffer, .placement = placement_of(set)};
  option.routes.reserve(set.lots.size());
  option.copies.reserve(set.lots.size());
  for (const auto& one : set.lots) {
    option.routes.push_back(one.route);
    option.copies.push_back(copies_on(one.route));
  }
  option.moved = moved_by(buffer, option.placement);
  return option;
}

// --- the reasons ----------------------------------------------------------------------------

// Of several, the one whom a reason names: the same whatever their order.
auto first_of(std::span<const importer_facts> importers, const settlement& set,
              std::initializer_list<role> parts) -> const importer_facts* {
  const importer_facts* first = nullptr;
  for (const auto part : parts) {
    for (std::size_t i = 0; i < importers.size(); ++i) {
      if (set.roles[i] != part) continue;
      const auto& one = importers[i];
      if (first == nullptr ||
          std::tie(one.name, one.functions) < std::tie(first->name, first->functions)) {
        first = &one;
      }
    }
    if (first != nullptr) break;
  }
  return first;
}

auto because_of(std::uint32_t code, const importer_facts& who, std::uint64_t value) -> reason {
  reason why{.code = code, .value = value, .name = who.name};
  if (who.functions.size() == 1) why.device = who.functions.front();
  return why;
}

struct culprits {
  std::optional<reason> demoted{};  // why it is in system memory
  std::optional<reason> held{};     // why it stays on the device
};

auto find_culprits(const buffer_facts& buffer, std::span<const importer_facts> importers,
                   const settlement& set) -> culprits {
  culprits result;
  if (buffer.placement == placement::system) {
    result.demoted = buffer.system_needer ? buffer.system_needer : buffer.why_in_system;
    if (!result.demoted) result.demoted = reason{.code = DMABRIDGE_REASON_MOVED};
    if (buffer.suspended && !buffer.system_needer) {
      result.demoted = reason{.code = DMABRIDGE_REASON_SUSPENDED, .device = buffer.device};
    }
  } else if (const auto* who = first_of(importers, set, {role::needer, role::maybe_needer})) {
    result.demoted = because_of(DMABRIDGE_REASON_DEMOTED, *who, 0);
  }
  if (buffer.device_needer) {
    result.held = buffer.device_needer;
  } else if (const auto* who = first_of(importers, set, {role::holder, role::maybe_holder})) {
    result.held = because_of(DMABRIDGE_REASON_HELD, *who, DMABRIDGE_PLACEMENT_DEVICE);
  }
  return result;
}

// Why it cannot be moved from where it is, whatever its importers say.
void add_immovable(const buffer_facts& buffer, placement to, std::vector<reason>& reasons) {
  const auto add = [&](std::uint32_t code, std::uint64_t value, std::string name = {}) {
    reasons.push_back({.code = code, .blocks_move = true, .value = value, .name = std::move(name)});
  };
  if (to == placement::system && !buffer.empty && buffer.move_limit &&
      buffer.size > *buffer.move_limit) {
    add(DMABRIDGE_REASON_MOVE_LIMIT, *buffer.move_limit);
  }
  if (!can_be_moved(buffer)) add(DMABRIDGE_REASON_NOT_MOVABLE, 0, buffer.name);
  if (buffer.pins != 0) add(DMABRIDGE_REASON_PINNED_BY_IMPORTER, buffer.pins);
}

void add_gap(unread_fact fact, planned_verdict& result) {
  result.word.reasons.push_back(
      {.code = DMABRIDGE_REASON_PATH_UNKNOWN, .blocks_p2p = true, .name = fact.what});
  result.missing.push_back(std::move(fact));
}

auto lost_reason(const buffer_facts& buffer) -> reason {
  const auto gone = buffer.revoked || buffer.placement == placement::none;
  return {.code = gone ? std::uint32_t{DMABRIDGE_REASON_REVOKED}
                       : std::uint32_t{DMABRIDGE_REASON_SUSPENDED},
          .blocks_p2p = true,
          .device = buffer.device};
}

// False: it attaches to another exporter's memory, which knows no policy but this library's usual.
auto keeps_policy(const buffer_facts& buffer, const importer_facts& importer, policy combined)
    -> bool {
  const auto attaches = !importer.needs_pages && !importer.pins_mapping;
  return buffer.foreign.empty() || buffer.kind == region_kind::system || !attaches ||
         combined == policy::prefer || buffer.rules.p2p == answer::no;
}

void add_against(const buffer_facts& buffer, const importer_facts& importer, policy combined,
                 prospect& view, planned_verdict& result) {
  auto& reasons = result.word.reasons;
  reasons = std::move(view.against);
  std::erase_if(reasons,
                [&](const reason& why) { return !counts(buffer, importer, combined, why); });
  for (auto& why : reasons) why.blocks_p2p = true;
  if (combined == policy::forbid) {
    reasons.insert(reasons.begin(), {.code = DMABRIDGE_REASON_POLICY_FORBID, .blocks_p2p = true});
  }
  if (!keeps_policy(buffer, importer, combined)) {
    reasons.push_back(
        {.code = DMABRIDGE_REASON_FOREIGN_BUFFER, .blocks_p2p = true, .name = buffer.foreign});
  }
  if (!own_counts(buffer, importer, combined)) return;
  append(std::move(view.perhaps), reasons);
  result.missing = std::move(view.missing);
  append(std::move(view.open), result.missing);
}

// What is the same for all of a plan.
struct frame {
  const buffer_facts& buffer;
  const ground& base;
  const ways& way;
  const outlook& out;
  const culprits& blame;
};

// On top of what speaks against P2P: why one that could have it does not, and why one that needs
// system memory does not get that.
void add_situation(const frame& whole, role part, const lot& given, planned_verdict& result) {
  const auto& buffer = whole.buffer;
  const auto& blame = whole.blame;
  auto& reasons = result.word.reasons;
  const auto could = part == role::holder || part == role::rider;
  if (could && !satisfies_require(given.route)) {
    if (blame.demoted) {
      reasons.push_back(*blame.demoted);
      reasons.back().blocks_p2p = true;
    }
    if (part == role::holder) add_immovable(buffer, placement::device, reasons);
  }
  const auto needs = part == role::needer || part == role::maybe_needer;
  if (needs && given.route == route::none) {
    if (blame.held && (buffer.device_needer || whole.out.held)) {
      reasons.push_back(*blame.held);
      reasons.back().blocks_move = true;
    }
    if (whole.way.maybe_to_system) {
      add_gap(unread(buffer, foreign_gap::move), result);
    } else if (!whole.way.to_system) {
      add_immovable(buffer, placement::system, reasons);
    }
  }
}

// Where the buffer has to be for its sake; nothing: it follows.
auto needs_of(const buffer_facts& buffer, role part, const lot& given) -> std::optional<placement> {
  if (part == role::holder) return placement::device;
  const auto is_sure = part == role::needer || (part == role::maybe_needer && !given.unknown);
  if (is_sure && buffer.kind != region_kind::system) return placement::system;
  return {};
}

auto judge(const frame& whole, const importer_facts& importer, prospect view, role part,
           const lot& given) -> planned_verdict {
  const auto& buffer = whole.buffer;
  planned_verdict result{.importer = importer.name,
                         .unknown = given.unknown,
                         .caveats = whole.base.caveats,
                         .copies = copies_on(given.route)};
  auto& word = result.word;
  word.route = given.route;
  word.policy = combine(buffer.policy, importer.policy);
  word.distance = view.distance;
  if (whole.way.lost) {
    word.reasons.push_back(lost_reason(buffer));
    return result;
  }
  if (!word.policy) {
    word.reasons.push_back({.code = DMABRIDGE_REASON_POLICY_CONFLICT,
                            .blocks_p2p = true,
                            .value = static_cast<std::uint64_t>(buffer.policy) << 32 |
                                     static_cast<std::uint32_t>(importer.policy)});
    return result;
  }
  add_against(buffer, importer, *word.policy, view, result);
  add_situation(whole, part, given, result);
  // RAM that would serve it, but for the copies that it makes itself.
  if (given.route == route::bounce && word.reasons.empty()) {
    word.reasons.push_back({.code = DMABRIDGE_REASON_FILE_NO_DIRECT_IO, .blocks_p2p = true});
  }
  return result;
}

auto verdict_of(const frame& whole, const importer_facts& importer, prospect view, role part,
                const lot& given) -> planned_verdict {
  auto result = judge(whole, importer, std::move(view), part, given);
  result.claim = claim_of(whole.buffer, importer, result, needs_of(whole.buffer, part, given));
  return result;
}

auto keepers_of(const buffer_facts& buffer) -> std::vector<keeper> {
  std::vector<keeper> keepers;
  for (const auto& user : buffer.users) {
    auto what = claim_of(buffer, user);
    if (!what.blocks_moves() && !what.blocks_revoke()) continue;
    keepers.push_back({.kind = user.kind,
                       .name = user.name,
                       .driver = user.driver,
                       .device = user.device,
                       .claim = std::move(what)});
  }
  return keepers;
}

}  // namespace

auto to_string(importer_kind value) -> std::string {
  switch (value) {
    case importer_kind::block:
      return "block";
    case importer_kind::file:
      return "file";
    case importer_kind::rdma:
      return "rdma";
    case importer_kind::gpu:
      return "gpu";
    case importer_kind::pci:
      return "pci";
  }
  return fmt::format("unknown_importer_kind_{}", static_cast<unsigned>(value));
}

auto negotiate(const topology& machine, const buffer_facts& buffer,
               std::span<const importer_facts> importers) -> plan {
  const auto base = survey(machine, buffer);
  std::vector<prospect> views;
  views.reserve(importers.size());
  for (const auto& importer : importers) {
    views.push_back(look_at(machine, buffer, importer, base));
  }
  return plan_by(buffer, importers, base, std::move(views));
}

auto plan_by(const buffer_facts& buffer, std::span<const importer_facts> importers,
             const ground& base, std::vector<prospect> views) -> plan {
  plan joint;
  const auto way = ways_of(buffer);
  settlement chosen;
  joint.options.reserve(3);
  for (const auto of_buffer : {policy::require, policy::prefer, policy::forbid}) {
    auto set = settle(buffer, of_buffer, importers, views, way);
    joint.options.push_back(option_of(buffer, of_buffer, set));
    if (of_buffer == buffer.policy) chosen = std::move(set);
  }

  joint.placement = placement_of(chosen);
  joint.moved = moved_by(buffer, joint.placement);
  joint.kept_by = keepers_of(buffer);
  const auto blame = find_culprits(buffer, importers, chosen);
  const frame whole{.buffer = buffer, .base = base, .way = way, .out = chosen.out, .blame = blame};
  joint.importers.reserve(importers.size());
  for (std::size_t i = 0; i < importers.size(); ++i) {
    joint.importers.push_back(
        verdict_of(whole, importers[i], std::move(views[i]), chosen.roles[i], chosen.lots[i]));
  }

  const auto is_rider = [](role part) { return part == role::rider; };
  const auto leaves = buffer.placement == placement::device && chosen.out.system;
  if (leaves && std::ranges::any_of(chosen.roles, is_rider)) {
    for (std::size_t i = 0; i < importers.size(); ++i) {
      const auto part = chosen.roles[i];
      if (part == role::needer || part == role::maybe_needer) joint.demoting.push_back(i);
    }
  }
  return joint;
}

auto outcome_of(const plan& joint) noexcept -> plan_outcome {
  auto worst = plan_outcome::p2p;
  for (const auto& one : joint.importers) {
    if (!one.unknown && one.word.route == route::none) return plan_outcome::refused;
    if (one.unknown) {
      worst = plan_outcome::unknown;
    } else if (worst == plan_outcome::p2p && !satisfies_require(one.word.route)) {
      worst = plan_outcome::redirected;
    }
  }
  return worst;
}

}  // namespace dmabridge

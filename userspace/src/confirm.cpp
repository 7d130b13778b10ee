// SPDX-License-Identifier: MIT
#include "dmabridge/confirm.hpp"

#include <algorithm>
#include <set>
#include <span>

#include "dmabridge/path.hpp"
#include "joint.hpp"
#include "question.hpp"

namespace dmabridge {
namespace {

// --- the question -------------------------------------------------------------------------

// About the buffer in question as it is, or one that would be made.
auto real_question(const region_info& region, const buffer* memory, const buffer_facts& facts,
                   policy wanted) -> dmabridge_negotiate {
  dmabridge_negotiate question{};
  question.policy = static_cast<std::uint32_t>(wanted);
  if (memory != nullptr) {
    question.fd = memory->descriptor();
    return question;
  }
  question.fd = -1;
  question.region_id = region.id;
  question.size = std::max<std::uint64_t>(facts.size, 1);
  question.buffer_policy = static_cast<std::uint32_t>(facts.policy);
  return question;
}

// About the importer and the device's memory alone. Under require the kernel says all that speaks
// against P2P, of stolen memory too, or by which route it is.
auto pair_question(const region_info& region) -> dmabridge_negotiate {
  return real_question(region, nullptr, {.policy = policy::prefer, .size = 1}, policy::require);
}

// --- the answers --------------------------------------------------------------------------

// Reasons that only this library finds.
auto is_ours(const reason& why) -> bool {
  switch (why.code) {
    case DMABRIDGE_REASON_BY_CPU:
    case DMABRIDGE_REASON_LEG:
    case DMABRIDGE_REASON_RAID_WRITE:
      return true;
    default:
      return false;
  }
}

void add_new(std::vector<reason>& to, const reason& why) {
  if (std::ranges::find(to, why) == to.end()) to.push_back(why);
}

// The kernel does not export its list of host bridges, so the module names both that a path goes
// through. This library knows the lists by release: one that is on it is not to blame.
void clear_listed_bridges(const topology& machine, const buffer_facts& facts,
                          const pci_address& importer, std::vector<reason>& reasons) {
  if (!facts.device) return;
  const auto path = find_path(machine, *facts.device, importer);
  if (path.answer != path_answer::no) return;
  const auto is_blamed = [](const reason& why) {
    return why.code == DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED;
  };
  const auto is_blamed_by = [&](std::span<const reason> list, const reason& why) {
    return std::ranges::any_of(
        list, [&](const reason& one) { return is_blamed(one) && one.device == why.device; });
  };
  // Where both see the same reason the kernel has one left.
  const auto agreed = std::ranges::any_of(path.reasons, [&](const reason& why) {
    return is_blamed(why) && is_blamed_by(reasons, why);
  });
  if (!agreed) return;
  std::erase_if(reasons, [&](const reason& why) {
    return is_blamed(why) && !is_blamed_by(path.reasons, why);
  });
}

// A path of a multipath disk has no node, and a node may not be opened; the function can be asked
// about as the block importer would attach.
auto leg_subject(const importer_facts& importer, std::size_t leg) -> attempt<subject> {
  auto by_node = open_subject(importer.legs[leg], node_of(importer.legs[leg]));
  if (by_node.result || leg >= importer.functions.size()) return by_node;
  return {.result = subject{.kind = DMABRIDGE_NEGOTIATE_PCI,
                            .flags = DMABRIDGE_NEGOTIATE_PEER2PEER | DMABRIDGE_NEGOTIATE_REVOCABLE,
                            .device = importer.functions[leg].pack()}};
}

// A stacked device is none of the kernel's paths; each of its disks is.
void add_legs(const control& module, const region_info& region, const topology& machine,
              const buffer_facts& facts, const importer_facts& importer, prospect& view) {
  for (std::size_t i = 0; i < importer.legs.size(); ++i) {
    auto who = leg_subject(importer, i);
    if (!who.result) {
      lack(std::move(who.obstacle), view);
      continue;
    }
    auto word =
        ask(module, importer.legs[i], *who.result, pair_question(region), memory_of::region);
    if (!word.result) {
      lack(std::move(word.obstacle), view);
      continue;
    }
    if (i < importer.functions.size()) {
      clear_listed_bridges(machine, facts, importer.functions[i], word.result->reasons);
    }
    for (const auto& why : word.result->reasons) add_new(view.against, why);
  }
}

auto view_of(const control& module, const region_info& region, const topology& machine,
             const buffer_facts& facts, const importer_facts& importer, const verdict& word)
    -> prospect {
  prospect view{.against = word.reasons, .distance = word.distance, .straight = word.route};
  add_legs(module, region, machine, facts, importer, view);
  for (const auto& why : importer.own) {
    if (is_ours(why)) add_new(view.against, why);
  }
  // How a driver attaches is our assumption, also when the kernel is asked about it.
  const auto is_driver =
      importer.kind != importer_kind::block && importer.kind != importer_kind::file;
  if (is_driver) {
    for (const auto& fact : importer.missing) lack(fact, view);
  }
  return view;
}

// --- the difference -----------------------------------------------------------------------

// The kernel's word on one importer.
struct hearing {
  verdict alone{};  // as the first to come
  prospect pair{};
};

// What the kernel and a prediction can both say, without their evidence: which is more exact in
// one here, and in the other there.
auto common_codes(std::span<const reason> reasons) -> std::set<std::uint32_t> {
  std::set<std::uint32_t> codes;
  for (const auto& why : reasons) {
    if (!is_ours(why) && why.code != DMABRIDGE_REASON_PATH_UNKNOWN) codes.insert(why.code);
  }
  return codes;
}

auto agree(const importer_facts& importer, const planned_verdict& predicted, const hearing& heard)
    -> bool {
  // What was not known was not claimed.
  if (predicted.unknown) return true;
  if (predicted.word.route != heard.alone.route) return false;
  if (heard.alone.unreported != 0) return true;
  auto codes = common_codes(heard.alone.reasons);
  if (!importer.legs.empty()) {
    // The kernel has no path for the whole; its legs' are what was predicted.
    codes.merge(common_codes(heard.pair.against));
  }
  return common_codes(predicted.word.reasons) == codes;
}

auto hear(const control& module, const region_info& region, const buffer* memory,
          const topology& machine, const buffer_facts& facts, const importer_facts& importer)
    -> attempt<hearing> {
  auto who = subject_of(importer);
  if (!who.result) return {.obstacle = std::move(who.obstacle)};
  auto alone = ask(module, importer.name, *who.result,
                   real_question(region, memory, facts, importer.policy), memory_of::region);
  if (!alone.result) return {.obstacle = std::move(alone.obstacle)};
  const auto clear = [&](verdict& word) {
    if (importer.functions.size() != 1) return;
    clear_listed_bridges(machine, facts, importer.functions.front(), word.reasons);
  };
  clear(*alone.result);
  // Then nothing is made of the region, and nobody is told more than that.
  if (facts.revoked || region.unregistered || region.suspended) {
    prospect pair{.against = alone.result->reasons, .straight = alone.result->route};
    return {.result = hearing{.alone = std::move(*alone.result), .pair = std::move(pair)}};
  }
  auto pair = ask(module, importer.name, *who.result, pair_question(region), memory_of::region);
  if (!pair.result) return {.obstacle = std::move(pair.obstacle)};
  clear(*pair.result);
  return {.result =
              hearing{.alone = std::move(*alone.result),
                      .pair = view_of(module, region, machine, facts, importer, *pair.result)}};
}

}  // namespace

auto confirm(const control& module, const region_info& region, const buffer* memory,
             const topology& machine, const buffer_facts& facts,
             std::span<const importer_facts> importers) -> confirmation {
  const auto base = survey(machine, facts);
  std::vector<prospect> views;
  std::vector<bool> heard;
  std::vector<unread_fact> obstacles;  // of those that were not heard, in order
  confirmation result{.memory = facts};
  for (std::size_t i = 0; i < importers.size(); ++i) {
    auto word = hear(module, region, memory, machine, facts, importers[i]);
    heard.push_back(word.result.has_value());
    if (!word.result) {
      obstacles.push_back(std::move(word.obstacle));
      views.push_back(look_at(machine, facts, importers[i], base));
      continue;
    }
    const auto predicted = negotiate(machine, facts, importers.subspan(i, 1));
    if (!agree(importers[i], predicted.importers.front(), *word.result)) {
      result.differences.push_back({.importer = importers[i].name,
                                    .predicted = predicted.importers.front().word,
                                    .confirmed = word.result->alone});
    }
    views.push_back(std::move(word.result->pair));
  }

  result.joint = plan_by(facts, importers, base, std::move(views));
  mark_confirmed(result.joint, heard, std::move(obstacles));
  return result;
}

}  // namespace dmabridge

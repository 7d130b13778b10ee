// SPDX-License-Identifier: MIT
#include "dmabridge/confirm.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <set>

#include "dmabridge/error.hpp"
#include "ioctl_failure.hpp"
#include "joint.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

// --- whom to ask about --------------------------------------------------------------------

// An importer as the kernel knows them.
struct subject {
  std::uint32_t kind = DMABRIDGE_NEGOTIATE_FILE;
  std::uint32_t flags = DMABRIDGE_NEGOTIATE_READ;
  fd target{};
  std::uint64_t device = 0;
};

// Either what was asked for, or why not.
template <typename Wanted>
struct attempt {
  std::optional<Wanted> result{};
  unread_fact obstacle{};
};

auto obstacle_of(const std::string& name, std::string why, std::string remedy) -> unread_fact {
  return {fmt::format("the kernel's word on {}", name), std::move(why), std::move(remedy)};
}

auto open_subject(const std::string& name, const std::string& path) -> attempt<subject> {
  std::error_code ec;
  auto target = fd::open(path, O_RDONLY | O_NONBLOCK, 0, ec);
  if (!ec) return {.result = subject{.target = std::move(target)}};
  const auto forbidden = ec.value() == EACCES || ec.value() == EPERM;
  return {
      .obstacle = obstacle_of(
          name, fmt::format("{} cannot be opened: {}", path, errno_text(ec.value())),
          forbidden ? "ask as a user who may read it (a block device: root or group disk)" : "")};
}

auto function_subject(const importer_facts& importer) -> attempt<subject> {
  if (importer.functions.size() != 1) {
    return {.obstacle = obstacle_of(importer.name,
                                    "the kernel is asked about PCI functions and files, and "
                                    "this is neither",
                                    "")};
  }
  subject one{
      .kind = DMABRIDGE_NEGOTIATE_PCI, .flags = 0, .device = importer.functions.front().pack()};
  if (importer.is_static) {
    one.flags = DMABRIDGE_NEGOTIATE_STATIC;
  } else {
    if (importer.peer2peer) one.flags |= DMABRIDGE_NEGOTIATE_PEER2PEER;
    if (importer.revocable) one.flags |= DMABRIDGE_NEGOTIATE_REVOCABLE;
  }
  return {.result = std::move(one)};
}

auto node_of(const std::string& disk) -> std::string {
  return disk.starts_with('/') ? disk : "/dev/" + disk;
}

auto subject_of(const importer_facts& importer) -> attempt<subject> {
  switch (importer.kind) {
    case importer_kind::block:
      return open_subject(importer.name, node_of(importer.name));
    case importer_kind::file:
      return open_subject(importer.name, importer.name);
    default:
      return function_subject(importer);
  }
}

// --- the question -------------------------------------------------------------------------

// What refuses an importer whatever the memory: nothing is learnt about the two of them.
auto is_about_target_only(const reason& why) -> bool {
  constexpr auto codes = std::to_array<std::uint32_t>(
      {DMABRIDGE_REASON_TARGET_NOT_BLOCK, DMABRIDGE_REASON_TARGET_READ_ONLY,
       DMABRIDGE_REASON_TARGET_NOT_READABLE, DMABRIDGE_REASON_TARGET_BUSY,
       DMABRIDGE_REASON_NO_IMPORTER});
  return std::ranges::find(codes, why.code) != codes.end();
}

// Of a question that makes no sense to any importer, or to this module.
auto is_hopeless(int result) -> bool {
  switch (-result) {
    case ENOTTY:
    case E2BIG:
    case EINVAL:
    case EFAULT:
    case EBADF:
    case ENOENT:
    case ENOSPC:
    case EMEDIUMTYPE:
    case EINTR:
    case ENOMEM:
      return true;
    default:
      return false;
  }
}

[[noreturn]] void fail(const control& module, const std::string& name, int result,
                       const dmabridge_verdict& verdict) {
  auto details =
      ioctl_failure(fmt::format("ask the kernel about {}", name), -result, module.abi_version());
  add_verdict(details, verdict);
  throw error(std::move(details));
}

auto ask(const control& module, const std::string& name, const subject& who,
         dmabridge_negotiate question) -> attempt<verdict> {
  question.kind = who.kind;
  question.flags = who.flags;
  question.target_fd = who.kind == DMABRIDGE_NEGOTIATE_FILE ? who.target.get() : -1;
  question.device = who.device;
  const auto result = sys().ioctl(module.descriptor(), DMABRIDGE_IOCTL_NEGOTIATE, &question);
  if (result < 0 && is_hopeless(result)) fail(module, name, result, question.verdict);

  auto word = verdict::from_kernel(question.verdict);
  if (result < 0 && word.reasons.empty()) {
    return {.obstacle = obstacle_of(name, fmt::format("it says {}", errno_text(-result)), "")};
  }
  const auto unasked = std::ranges::find_if(word.reasons, is_about_target_only);
  if (unasked != word.reasons.end()) {
    return {.obstacle = obstacle_of(name, unasked->text(), unasked->remedy())};
  }
  return {.result = std::move(word)};
}

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

// What only somebody else could tell, and what may speak against it therefore.
void lack(unread_fact fact, prospect& view) {
  view.perhaps.push_back(
      {.code = DMABRIDGE_REASON_PATH_UNKNOWN, .blocks_p2p = true, .name = fact.what});
  view.missing.push_back(std::move(fact));
}

void add_new(std::vector<reason>& to, const reason& why) {
  if (std::ranges::find(to, why) == to.end()) to.push_back(why);
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
void add_legs(const control& module, const region_info& region, const importer_facts& importer,
              prospect& view) {
  for (std::size_t i = 0; i < importer.legs.size(); ++i) {
    auto who = leg_subject(importer, i);
    if (!who.result) {
      lack(std::move(who.obstacle), view);
      continue;
    }
    auto word = ask(module, importer.legs[i], *who.result, pair_question(region));
    if (!word.result) {
      lack(std::move(word.obstacle), view);
      continue;
    }
    for (const auto& why : word.result->reasons) add_new(view.against, why);
  }
}

auto view_of(const control& module, const region_info& region, const importer_facts& importer,
             const verdict& word) -> prospect {
  prospect view{.against = word.reasons, .distance = word.distance, .straight = word.route};
  add_legs(module, region, importer, view);
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
    codes.erase(DMABRIDGE_REASON_NOT_PCI);
  }
  return common_codes(predicted.word.reasons) == codes;
}

auto hear(const control& module, const region_info& region, const buffer* memory,
          const buffer_facts& facts, const importer_facts& importer) -> attempt<hearing> {
  auto who = subject_of(importer);
  if (!who.result) return {.obstacle = std::move(who.obstacle)};
  auto alone = ask(module, importer.name, *who.result,
                   real_question(region, memory, facts, importer.policy));
  if (!alone.result) return {.obstacle = std::move(alone.obstacle)};
  // Then nothing is made of the region, and nobody is told more than that.
  if (facts.revoked || region.unregistered || region.suspended) {
    prospect pair{.against = alone.result->reasons, .straight = alone.result->route};
    return {.result = hearing{.alone = std::move(*alone.result), .pair = std::move(pair)}};
  }
  auto pair = ask(module, importer.name, *who.result, pair_question(region));
  if (!pair.result) return {.obstacle = std::move(pair.obstacle)};
  return {.result = hearing{.alone = std::move(*alone.result),
                            .pair = view_of(module, region, importer, *pair.result)}};
}

// A plan by views of which the kernel gave those that are marked.
auto plan_marked(const topology& machine, const buffer_facts& facts,
                 std::span<const importer_facts> importers, std::vector<prospect> views,
                 const std::vector<bool>& heard) -> plan {
  auto joint = plan_by(facts, importers, survey(machine, facts), std::move(views));
  for (std::size_t i = 0; i < heard.size(); ++i) {
    if (heard[i]) joint.importers[i].word.state = verdict_state::confirmed;
  }
  if (!heard.empty() && std::ranges::find(heard, false) == heard.end()) {
    joint.state = verdict_state::confirmed;
  }
  return joint;
}

}  // namespace

auto confirm(const control& module, const region_info& region, const buffer* memory,
             const topology& machine, const buffer_facts& facts,
             std::span<const importer_facts> importers) -> confirmation {
  const auto base = survey(machine, facts);
  std::vector<prospect> views;
  std::vector<bool> heard;
  std::vector<unread_fact> obstacles;  // of those that were not heard, in order
  confirmation result;
  for (std::size_t i = 0; i < importers.size(); ++i) {
    auto word = hear(module, region, memory, facts, importers[i]);
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

  result.joint = plan_marked(machine, facts, importers, std::move(views), heard);
  auto obstacle = obstacles.begin();
  for (std::size_t i = 0; i < heard.size(); ++i) {
    if (!heard[i]) result.joint.importers[i].missing.push_back(std::move(*obstacle++));
  }
  return result;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include <algorithm>
#include <utility>

#include "dmabridge/confirm.hpp"
#include "joint.hpp"
#include "question.hpp"

namespace dmabridge {
namespace {

auto is_block(const importer_facts& importer) -> bool {
  return importer.kind == importer_kind::block || importer.kind == importer_kind::file;
}

auto hear(const control& module, const buffer& memory, const importer_facts& importer)
    -> attempt<verdict> {
  if (!is_block(importer)) {
    return {.obstacle = obstacle_of(
                importer.name,
                "the memory is another exporter's, which alone knows what it says to an attach",
                "let the importer attach: the tracepoint dma_buf:dma_buf_dynamic_attach tells what "
                "it got")};
  }
  auto who = subject_of(importer);
  if (!who.result) return {.obstacle = std::move(who.obstacle)};
  dmabridge_negotiate question{};
  question.fd = memory.descriptor();
  question.policy = static_cast<std::uint32_t>(importer.policy);
  return ask(module, importer.name, *who.result, question, memory_of::another_exporter);
}

// Whether a binding takes the memory. An older module refuses all that is not its own, in the same
// words as what nobody may have for want of peer-to-peer access: that tells nothing.
auto is_bindable(const verdict& word) -> answer {
  if (word.route != route::none) return answer::yes;
  const auto why = std::ranges::find(word.reasons, DMABRIDGE_REASON_FOREIGN_BUFFER, &reason::code);
  if (why == word.reasons.end()) return answer::unknown;
  if (why->value != 0) return answer::no;
  return word.policy == policy::require ? answer::unknown : answer::no;
}

// What the kernel's words on all of them tell about the memory.
auto learn(const buffer_facts& facts, std::span<const attempt<verdict>> words) -> buffer_facts {
  auto known = facts;
  for (const auto& word : words) {
    if (!word.result) continue;
    const auto bindable = is_bindable(*word.result);
    if (bindable == answer::unknown) continue;
    known.rules.bindable = bindable;
    known.has_pages = bindable == answer::yes;
    if (bindable == answer::no) continue;
    known.kind = region_kind::system;
    known.placement = placement::system;
    known.device.reset();
  }
  return known;
}

// The reasons that only the kernel saw.
void add_new(const verdict& word, prospect& view) {
  for (const auto& why : word.reasons) {
    if (std::ranges::find(view.against, why.code, &reason::code) != view.against.end()) continue;
    const auto is_policy = why.code == DMABRIDGE_REASON_POLICY_FORBID;
    if (!is_policy) view.against.push_back(why);
  }
}

}  // namespace

auto confirm(const control& module, const buffer& memory, const topology& machine,
             const buffer_facts& facts, std::span<const importer_facts> importers) -> confirmation {
  std::vector<attempt<verdict>> words;
  for (const auto& importer : importers) words.push_back(hear(module, memory, importer));
  const auto known = learn(facts, words);
  const auto base = survey(machine, known);

  confirmation result{.memory = known};
  std::vector<prospect> views;
  std::vector<bool> heard;
  std::vector<unread_fact> obstacles;
  for (std::size_t i = 0; i < importers.size(); ++i) {
    auto& view = views.emplace_back(look_at(machine, known, importers[i], base));
    heard.push_back(words[i].result.has_value());
    if (!words[i].result) {
      obstacles.push_back(std::move(words[i].obstacle));
      continue;
    }
    const auto& word = *words[i].result;
    const auto predicted = negotiate(machine, facts, importers.subspan(i, 1)).importers.front();
    const auto is = negotiate(machine, known, importers.subspan(i, 1)).importers.front();
    if (!predicted.unknown && predicted.word.route != is.word.route) {
      result.differences.push_back({importers[i].name, predicted.word, word});
    }
    add_new(word, view);
  }
  result.joint = plan_by(known, importers, base, std::move(views));
  mark_confirmed(result.joint, heard, std::move(obstacles));
  return result;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "unread.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "machine.hpp"

namespace dmabridge::command {
namespace {

constexpr std::size_t most_named = 3;

struct cause {
  const unread_fact* first = nullptr;
  std::vector<std::string> what{};
};

auto by_cause(std::span<const unread_fact> facts) -> std::vector<cause> {
  std::vector<cause> causes;
  for (const auto& fact : facts) {
    auto found = std::ranges::find_if(causes, [&](const cause& known) {
      return known.first->why == fact.why && known.first->remedy == fact.remedy;
    });
    if (found == causes.end()) found = causes.insert(found, {.first = &fact});
    if (std::ranges::find(found->what, fact.what) == found->what.end()) {
      found->what.push_back(fact.what);
    }
  }
  return causes;
}

}  // namespace

auto to_text(std::span<const unread_fact> facts, const std::string& indent) -> std::string {
  std::string text;
  for (const auto& [first, what] : by_cause(facts)) {
    const auto named = std::min(what.size(), most_named);
    std::string list;
    for (std::size_t i = 0; i < named; ++i) list += (i == 0 ? "" : ", ") + what[i];
    if (what.size() > named) list += fmt::format(" and {} more", what.size() - named);
    text += indent + printable(list);
    if (!first->why.empty()) text += ": " + printable(first->why);
    if (!first->remedy.empty()) text += "; " + printable(first->remedy);
    text += '\n';
  }
  return text;
}

}  // namespace dmabridge::command

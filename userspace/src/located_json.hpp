// SPDX-License-Identifier: MIT
// JSON from anybody, with the place of every value in the text, so that what is wrong with its
// meaning can be pointed at as well as what is wrong with its grammar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dmabridge {

struct text_place {
  std::size_t line = 1;
  std::size_t column = 1;  // bytes
};

struct located_json {
  using array = std::vector<located_json>;
  using object = std::vector<std::pair<std::string, located_json>>;  // as they came; no name twice

  text_place place{};  // of the last character, or of the opening bracket
  std::variant<std::monostate, bool, std::uint64_t, std::int64_t, double, std::string, array,
               object>
      value{};

  // nullptr: it is no object, or has none of that name.
  auto member(std::string_view name) const -> const located_json*;
};

// What is wrong, where, as one phrase: "line 3, column 14: ..."; `path` is empty or the place in
// the tree, "functions[3].parent".
auto describe_place(const text_place& place, const std::string& path, const std::string& wrong)
    -> std::string;

// The value at a path such as "functions[3].parent", or as far towards it as there is something.
auto locate(const located_json& document, std::string_view path) -> const located_json&;

struct json_limits {
  std::size_t bytes = 0;
  std::size_t values = 0;  // names count, too
  std::size_t depth = 0;
  std::size_t members = 0;  // of one object
  std::size_t string_bytes = 0;
};

// Strict JSON, and no control characters in strings, which are for terminals to see. Throws
// std::invalid_argument with describe_place()'s phrase.
auto parse_located(std::string_view text, const json_limits& limits) -> located_json;

}  // namespace dmabridge

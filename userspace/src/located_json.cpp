// SPDX-License-Identifier: MIT
#include "located_json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

namespace dmabridge {
namespace {

// The parser does not say where a value was; it asks for one character after the other, so where it
// has come to is known from that. It reads at most one ahead, and that only after a number.
class counting_iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  counting_iterator(const char* at, text_place* next, text_place* last)
      : at_(at), next_(next), last_(last) {}

  auto operator*() const -> reference { return *at_; }
  auto operator++() -> counting_iterator& {
    *last_ = *next_;
    if (*at_ == '\n') {
      *next_ = {.line = next_->line + 1, .column = 1};
    } else {
      ++next_->column;
    }
    ++at_;
    return *this;
  }
  auto operator++(int) -> counting_iterator {
    auto old = *this;
    ++*this;
    return old;
  }
  auto operator==(const counting_iterator& other) const -> bool { return at_ == other.at_; }

 private:
  const char* at_;
  text_place* next_;  // of the character at at_
  text_place* last_;  // of the one before
};

// U+0000 to U+001F, U+007F to U+009F. `text` is valid UTF-8.
auto has_control_character(std::string_view text) -> bool {
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x20 || byte == 0x7f) return true;
    if (byte == 0xc2 && static_cast<unsigned char>(text[at + 1]) < 0xa0) return true;
  }
  return false;
}

// The parser's words about damaged text, without its prefix and safe to print.
auto printable_cause(std::string_view what) -> std::string {
  constexpr std::size_t longest = 160;
  if (const auto column = what.find("column "); column != std::string_view::npos) {
    if (const auto colon = what.find(": ", column); colon != std::string_view::npos)
      what.remove_prefix(colon + 2);
  }
  std::string text(what.substr(0, longest));
  std::ranges::replace_if(text, [](char letter) { return letter < 0x20 || letter > 0x7e; }, '?');
  if (what.size() > longest) text += "...";
  return text;
}

class builder {
 public:
  using json = nlohmann::json;

  builder(const json_limits& limits, const text_place& last) : limits_(limits), last_(last) {}

  auto take() -> located_json { return std::move(root_); }

  auto null() -> bool { return add({}); }
  auto boolean(bool value) -> bool { return add(value); }
  auto number_integer(json::number_integer_t value) -> bool {
    return add_number(std::int64_t{value});
  }
  auto number_unsigned(json::number_unsigned_t value) -> bool {
    return add_number(std::uint64_t{value});
  }
  auto number_float(json::number_float_t value, const std::string&) -> bool {
    return add_number(value);
  }
  auto string(std::string& value) -> bool {
    check(value);
    return add(std::move(value));
  }
  auto binary(json::binary_t&) -> bool { fail("there is no such thing in JSON"); }

  auto start_object(std::size_t) -> bool { return open(located_json::object{}); }
  auto end_object() -> bool { return close(); }
  auto start_array(std::size_t) -> bool { return open(located_json::array{}); }
  auto end_array() -> bool { return close(); }
  auto key(std::string& name) -> bool {
    check(name);
    count();
    auto& members = std::get<located_json::object>(open_.back()->value);
    if (members.size() == limits_.members)
      fail(fmt::format("more than {} members in one object", limits_.members));
    if (open_.back()->member(name) != nullptr) fail(fmt::format("\"{}\" is there twice", name));
    members.emplace_back(std::move(name), located_json{});
    return true;
  }

  auto parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& why)
      -> bool {
    fail(printable_cause(why.what()));
  }

 private:
  [[noreturn]] void fail(const std::string& wrong) const {
    throw std::invalid_argument(describe_place(last_, {}, wrong));
  }

  void check(const std::string& text) const {
    if (text.size() > limits_.string_bytes)
      fail(fmt::format("a string of more than {} bytes", limits_.string_bytes));
    if (has_control_character(text)) fail("a control character in a string");
  }

  void count() {
    if (++values_ > limits_.values) fail(fmt::format("more than {} values", limits_.values));
  }

  // The place for the next value: that of the name that was last, or a new one at an array's end.
  auto slot() -> located_json& {
    count();
    if (open_.empty()) return root_;
    auto& holder = open_.back()->value;
    if (auto* members = std::get_if<located_json::object>(&holder); members != nullptr)
      return members->back().second;
    return std::get<located_json::array>(holder).emplace_back();
  }

  auto add(decltype(located_json::value) value) -> bool {
    slot() = {.place = last_, .value = std::move(value)};
    return true;
  }

  // The parser has gone one character past it to see where it ends.
  auto add_number(decltype(located_json::value) value) -> bool {
    slot() = {.place = {.line = last_.line, .column = last_.column - (last_.column > 1 ? 1 : 0)},
              .value = std::move(value)};
    return true;
  }

  auto open(decltype(located_json::value) value) -> bool {
    if (open_.size() == limits_.depth)
      fail(fmt::format("more than {} levels of brackets", limits_.depth));
    auto& made = slot();
    made = {.place = last_, .value = std::move(value)};
    // Stays where it is while it is open: its siblings come after it is closed.
    open_.push_back(&made);
    return true;
  }

  auto close() -> bool {
    open_.pop_back();
    return true;
  }

  const json_limits& limits_;
  const text_place& last_;
  std::size_t values_ = 0;
  located_json root_{};
  std::vector<located_json*> open_{};
};

// Takes "[3]" or "name" and what separates it off the front of `path`.
auto step_down(const located_json& from, std::string_view& path) -> const located_json* {
  if (path.starts_with('[')) {
    std::size_t index = 0;
    const auto [end, ec] = std::from_chars(path.data() + 1, path.data() + path.size(), index);
    path.remove_prefix(static_cast<std::size_t>(end - path.data()) + 1);
    if (path.starts_with('.')) path.remove_prefix(1);
    const auto* items = std::get_if<located_json::array>(&from.value);
    return ec == std::errc{} && items != nullptr && index < items->size() ? &(*items)[index]
                                                                          : nullptr;
  }
  const auto end = std::min(path.find_first_of(".["), path.size());
  const auto* found = from.member(path.substr(0, end));
  path.remove_prefix(end);
  if (path.starts_with('.')) path.remove_prefix(1);
  return found;
}

}  // namespace

auto located_json::member(std::string_view name) const -> const located_json* {
  const auto* members = std::get_if<object>(&value);
  if (members == nullptr) return nullptr;
  const auto found = std::ranges::find(
      *members, name, [](const auto& entry) -> std::string_view { return entry.first; });
  return found != members->end() ? &found->second : nullptr;
}

auto describe_place(const text_place& place, const std::string& path, const std::string& wrong)
    -> std::string {
  return fmt::format("line {}, column {}{}: {}", place.line, place.column,
                     path.empty() ? "" : " (" + path + ")", wrong);
}

auto locate(const located_json& document, std::string_view path) -> const located_json& {
  const auto* at = &document;
  while (!path.empty()) {
    const auto* next = step_down(*at, path);
    if (next == nullptr) break;
    at = next;
  }
  return *at;
}

auto parse_located(std::string_view text, const json_limits& limits) -> located_json {
  text_place next;
  text_place last;
  if (text.size() > limits.bytes) {
    throw std::invalid_argument(
        describe_place(last, {}, fmt::format("more than {} bytes", limits.bytes)));
  }
  builder built(limits, last);
  nlohmann::json::sax_parse(counting_iterator(text.data(), &next, &last),
                            counting_iterator(text.data() + text.size(), &next, &last), &built);
  return built.take();
}

}  // namespace dmabridge

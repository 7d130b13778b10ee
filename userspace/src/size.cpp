// SPDX-License-Identifier: MIT
#include "dmabridge/size.hpp"

#include <fmt/format.h>

#include <array>
#include <charconv>

namespace dmabridge {
namespace {

constexpr std::string_view prefixes = "KMGTP";

auto lower(char letter) -> char {
  return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
}

auto same_text(std::string_view left, std::string_view right) -> bool {
  if (left.size() != right.size()) return false;
  for (std::size_t i = 0; i < left.size(); ++i) {
    if (lower(left[i]) != lower(right[i])) return false;
  }
  return true;
}

auto unit_of(std::string_view suffix) -> std::optional<std::uint64_t> {
  if (suffix.empty() || same_text(suffix, "B")) return 1;
  std::uint64_t binary = 1;
  std::uint64_t decimal = 1;
  for (const auto prefix : prefixes) {
    binary *= 1024;
    decimal *= 1000;
    if (lower(suffix.front()) != lower(prefix)) continue;
    const auto rest = suffix.substr(1);
    if (rest.empty() || same_text(rest, "iB")) return binary;
    if (same_text(rest, "B")) return decimal;
    return {};
  }
  return {};
}

}  // namespace

auto parse_size(std::string_view text) noexcept -> std::optional<std::uint64_t> {
  std::uint64_t count = 0;
  const auto [rest, ec] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (ec != std::errc{}) return {};
  const auto unit = unit_of(text.substr(static_cast<std::size_t>(rest - text.data())));
  std::uint64_t bytes = 0;
  if (!unit || __builtin_mul_overflow(count, *unit, &bytes)) return {};
  return bytes;
}

auto format_size(std::uint64_t bytes) -> std::string {
  constexpr std::array units = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  auto amount = static_cast<double>(bytes);
  while (amount >= 1024 && unit + 1 < units.size()) {
    amount /= 1024;
    ++unit;
  }
  // A whole number of units stands without decimals; nothing else is rounded to look like one.
  const auto whole = (bytes & ((std::uint64_t{1} << 10 * unit) - 1)) == 0;
  return whole ? fmt::format("{} {}", bytes >> 10 * unit, units[unit])
               : fmt::format("{:.1f} {}", amount, units[unit]);
}

}  // namespace dmabridge

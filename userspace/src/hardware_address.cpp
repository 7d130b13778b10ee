// SPDX-License-Identifier: MIT
#include "hardware_address.hpp"

#include <array>
#include <cctype>

namespace dmabridge {
namespace {

auto is_hex(char letter) -> bool {
  return std::isxdigit(static_cast<unsigned char>(letter)) != 0;
}
auto is_word(char letter) -> bool {
  return std::isalnum(static_cast<unsigned char>(letter)) != 0;
}

// How many bytes at the front of `text` are an address written in groups, "00:a0:c9:11:22:33",
// "00-a0-...", "e41d:2d03:0005:f3a0"; 0: none. No PCI address has that many.
auto grouped_length(std::string_view text) -> std::size_t {
  struct form {
    std::size_t groups;
    std::size_t digits;
  };
  // The longest first: 20 bytes of InfiniBand, EUI-64, MAC, GUID.
  for (const auto [groups, digits] : {form{20, 2}, form{8, 2}, form{6, 2}, form{4, 4}}) {
    const auto length = groups * (digits + 1) - 1;
    if (text.size() < length || (text.size() > length && is_word(text[length]))) continue;
    const auto separator = text[digits];
    if (separator != ':' && separator != '-') continue;
    auto fits = true;
    for (std::size_t at = 0; at < length && fits; ++at)
      fits = at % (digits + 1) == digits ? text[at] == separator : is_hex(text[at]);
    if (fits) return length;
  }
  return 0;
}

// The same without separators, for use after a prefix of udev's: 12 digits of a MAC address or 16
// of a GUID.
auto solid_length(std::string_view text) -> std::size_t {
  std::size_t length = 0;
  while (length < text.size() && is_hex(text[length])) ++length;
  const auto ends = length == text.size() || !is_word(text[length]);
  return ends && (length == 12 || length == 16) ? length : 0;
}

// What udev and rdma-core put before an address: kind of device, and x.
constexpr auto prefixes = std::to_array<std::string_view>(
    {"enx", "wlx", "wwx", "slx", "ibx", "iwx", "rocex", "opax", "usnicx"});

auto prefix_length(std::string_view text) -> std::size_t {
  for (const auto prefix : prefixes)
    if (text.starts_with(prefix)) return prefix.size();
  return 0;
}

}  // namespace

auto address_hider::stand_in(std::string digits) -> std::string {
  std::erase_if(digits, [](char letter) { return !is_hex(letter); });
  for (auto& letter : digits)
    letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return std::to_string(seen_.try_emplace(std::move(digits), seen_.size() + 1).first->second);
}

auto address_hider::hide(std::string_view text) -> std::string {
  std::string hidden;
  auto in_word = false;
  while (!text.empty()) {
    if (!in_word) {
      if (const auto length = grouped_length(text); length != 0) {
        hidden += stand_in(std::string(text.substr(0, length)));
        text.remove_prefix(length);
        continue;
      }
      const auto prefix = prefix_length(text);
      const auto length = prefix != 0 ? solid_length(text.substr(prefix)) : 0;
      if (length != 0) {
        hidden += text.substr(0, prefix);
        hidden += stand_in(std::string(text.substr(prefix, length)));
        text.remove_prefix(prefix + length);
        continue;
      }
    }
    in_word = is_word(text.front());
    hidden += text.front();
    text.remove_prefix(1);
  }
  return hidden;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/pci_address.hpp"

#include <algorithm>
#include <bit>
#include <charconv>

namespace dmabridge {
namespace {

// Takes 1 to `digits` hexadecimal digits and `closing` (0: the end) off the front of `text`.
auto take_hex(std::string_view& text, std::size_t digits, char closing)
    -> std::optional<std::uint32_t> {
  const auto end = closing != 0 ? text.find(closing) : text.size();
  if (end == std::string_view::npos || end == 0 || end > digits) return {};
  std::uint32_t value = 0;
  const auto [rest, ec] = std::from_chars(text.data(), text.data() + end, value, 16);
  if (ec != std::errc{} || rest != text.data() + end) return {};
  text.remove_prefix(closing != 0 ? end + 1 : end);
  return value;
}

void put_hex(std::string& text, std::uint32_t value, int digits) {
  for (auto shift = digits * 4; shift > 0;) {
    shift -= 4;
    text += "0123456789abcdef"[value >> shift & 0xf];
  }
}

}  // namespace

auto pci_address::unpack(std::uint64_t packed) noexcept -> pci_address {
  return {.domain = static_cast<std::uint32_t>(packed >> 16),
          .bus = static_cast<std::uint8_t>(packed >> 8),
          .device = static_cast<std::uint8_t>(packed >> 3 & 31),
          .function = static_cast<std::uint8_t>(packed & 7)};
}

auto pci_address::pack() const noexcept -> std::uint64_t {
  return std::uint64_t{domain} << 16 | std::uint64_t{bus} << 8 | std::uint64_t{device} << 3 |
         function;
}

auto pci_address::parse(std::string_view text) noexcept -> std::optional<pci_address> {
  std::uint32_t domain = 0;
  if (text.find(':') != text.rfind(':')) {
    const auto given = take_hex(text, 8, ':');
    if (!given) return {};
    domain = *given;
  }
  const auto bus = take_hex(text, 2, ':');
  const auto device = bus ? take_hex(text, 2, '.') : std::nullopt;
  const auto function = device ? take_hex(text, 1, 0) : std::nullopt;
  if (!function || *device > 31 || *function > 7) return {};
  return pci_address{.domain = domain,
                     .bus = static_cast<std::uint8_t>(*bus),
                     .device = static_cast<std::uint8_t>(*device),
                     .function = static_cast<std::uint8_t>(*function)};
}

// By hand, as a plan for dozens writes hundreds.
auto to_string(const pci_address& address) -> std::string {
  std::string text;
  put_hex(text, address.domain, std::max(4, (std::bit_width(address.domain) + 3) / 4));
  text += ':';
  put_hex(text, address.bus, 2);
  text += ':';
  put_hex(text, address.device, 2);
  text += '.';
  put_hex(text, address.function, 1);
  return text;
}

}  // namespace dmabridge

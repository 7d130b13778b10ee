// SPDX-License-Identifier: MIT
// The address of a PCI function.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dmabridge/api.hpp"

namespace dmabridge {

struct DMABRIDGE_API pci_address {
  std::uint32_t domain = 0;  // more than 16 bits behind VMD
  std::uint8_t bus = 0;
  std::uint8_t device = 0;    // 0 to 31
  std::uint8_t function = 0;  // 0 to 7

  // As the kernel module packs it: domain << 16 | bus << 8 | devfn.
  static auto unpack(std::uint64_t packed) noexcept -> pci_address;
  auto pack() const noexcept -> std::uint64_t;

  // "0000:03:00.0", or without the domain, which is then 0.
  static auto parse(std::string_view text) noexcept -> std::optional<pci_address>;

  auto operator<=>(const pci_address&) const = default;
};

// "0000:03:00.0"
DMABRIDGE_API auto to_string(const pci_address& address) -> std::string;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// Why a verdict is what it is: a code, what it means, the evidence, and what to do about it.
#pragma once

#include <dmabridge/uapi.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/pci_address.hpp"

namespace dmabridge {

enum class policy : std::uint32_t;  // verdict.hpp

struct DMABRIDGE_API reason {
  std::uint32_t code =
      DMABRIDGE_REASON_NONE;  // enum dmabridge_reason_code, or one of a newer module
  bool blocks_p2p = false;    // it is why P2P was not taken
  bool blocks_move = false;   // it is why the buffer could not be moved
  std::optional<pci_address> device{};
  std::uint64_t value = 0;  // meaning depends on the code
  std::string name{};

  static auto from_kernel(const dmabridge_reason& raw) -> reason;

  // Stable and machine readable: "acs_redirect"; "unknown_reason_99" for one this library lacks.
  auto id() const -> std::string;
  // One sentence. Never empty.
  auto text() const -> std::string;
  // What was read, and where. Empty if the code alone says it.
  auto evidence() const -> std::string;
  // What to do, with the command where there is one. Empty if nothing can be done. `in_force` is
  // the policy of the verdict that the reason is from: what is no change from it is not advised.
  auto remedy(std::optional<policy> in_force = {}) const -> std::string;

  auto operator==(const reason&) const -> bool = default;
};

// One line of the table of reasons. evidence and remedy are format strings over named fields:
// {device}, {name}, {value}, {hex}, {size} and those of single codes.
struct reason_description {
  std::uint32_t code;
  std::string_view id;
  std::string_view text;
  std::string_view evidence;
  std::string_view remedy;
  bool prefer_helps = false;  // where policy require is refused, prefer would not be
};

// What to do about all of them, each thing once. Bridges that redirect are in one kernel parameter,
// as it can be given once only. `in_force`: as of reason::remedy().
DMABRIDGE_API auto remedies(std::span<const reason> reasons, std::optional<policy> in_force = {})
    -> std::vector<std::string>;

// Every reason this library knows, by ascending code.
DMABRIDGE_API auto reason_table() noexcept -> std::span<const reason_description>;

}  // namespace dmabridge

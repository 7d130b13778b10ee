// SPDX-License-Identifier: MIT
// How an importer reaches a buffer, and why so.
#pragma once

#include <dmabridge/uapi.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/reason.hpp"

namespace dmabridge {

// Each enumeration may carry a value of a newer module; to_string() then names its number.

enum class route : std::uint32_t {
  none = DMABRIDGE_ROUTE_NONE,
  p2p_bus = DMABRIDGE_ROUTE_P2P_BUS,
  p2p_host_bridge = DMABRIDGE_ROUTE_P2P_HOST_BRIDGE,
  stolen = DMABRIDGE_ROUTE_STOLEN,
  system = DMABRIDGE_ROUTE_SYSTEM,
  bounce = DMABRIDGE_ROUTE_BOUNCE,
  unproved = DMABRIDGE_ROUTE_UNPROVED,
};

enum class placement : std::uint32_t {
  none = DMABRIDGE_PLACEMENT_NONE,
  device = DMABRIDGE_PLACEMENT_DEVICE,
  system = DMABRIDGE_PLACEMENT_SYSTEM,
};

enum class policy : std::uint32_t {
  require = DMABRIDGE_POLICY_REQUIRE,
  prefer = DMABRIDGE_POLICY_PREFER,
  forbid = DMABRIDGE_POLICY_FORBID,
};

enum class verdict_state {
  predicted,  // from sysfs and config space
  confirmed,  // the kernel says so
  proved,     // bytes were moved and compared
};

DMABRIDGE_API auto to_string(route value) -> std::string;
DMABRIDGE_API auto to_string(placement value) -> std::string;
DMABRIDGE_API auto to_string(policy value) -> std::string;
DMABRIDGE_API auto to_string(verdict_state value) -> std::string;

DMABRIDGE_API auto parse_placement(std::string_view text) noexcept -> std::optional<placement>;
DMABRIDGE_API auto parse_policy(std::string_view text) noexcept -> std::optional<policy>;

// A buffer's and an importer's: the stricter one. Nothing: they conflict.
DMABRIDGE_API auto combine(policy a, policy b) noexcept -> std::optional<policy>;

// Whether bytes on this route keep out of system memory that the CPU would have to copy or share:
// both P2P routes, and the stolen RAM behind a BAR.
DMABRIDGE_API auto satisfies_require(route value) noexcept -> bool;

struct DMABRIDGE_API verdict {
  verdict_state state = verdict_state::confirmed;
  dmabridge::route route = dmabridge::route::none;
  std::optional<dmabridge::policy> policy{};  // combined; nothing if those asked for conflict
  std::optional<int> distance{};  // pci_p2pdma_distance(); nothing: unreachable or not asked
  std::vector<reason> reasons{};
  std::uint32_t unreported = 0;  // reasons for which the kernel had no room

  static auto from_kernel(const dmabridge_verdict& raw) -> verdict;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>

namespace dmabridge {

// poll() counts in int, and takes -1 for "for ever".
inline auto poll_timeout(std::optional<std::chrono::milliseconds> timeout) noexcept -> int {
  if (!timeout) return -1;
  constexpr std::int64_t longest = std::numeric_limits<int>::max();
  return static_cast<int>(std::clamp<std::int64_t>(timeout->count(), 0, longest));
}

}  // namespace dmabridge

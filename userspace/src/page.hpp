// SPDX-License-Identifier: MIT
// The unit in which the kernel maps and exports memory.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <limits>
#include <optional>

namespace dmabridge {

inline auto page_size() noexcept -> std::uint64_t {
  return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

// Nothing if the result does not fit. `unit` is a power of two.
inline auto round_up(std::uint64_t value, std::uint64_t unit) noexcept
    -> std::optional<std::uint64_t> {
  if (value > std::numeric_limits<std::uint64_t>::max() - (unit - 1)) return {};
  return (value + unit - 1) & ~(unit - 1);
}

}  // namespace dmabridge

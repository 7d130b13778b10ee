// SPDX-License-Identifier: MIT
// Numbers of bytes as people write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dmabridge/api.hpp"

namespace dmabridge {

// Decimal digits and at most one suffix: K M G T P and KiB MiB … are powers of 1024, KB MB … powers
// of 1000, B is bytes. Upper and lower case are the same. Nothing if it is anything else, or if the
// result does not fit.
DMABRIDGE_API auto parse_size(std::string_view text) noexcept -> std::optional<std::uint64_t>;

// "0 B", "4 KiB", "129.3 MiB"
DMABRIDGE_API auto format_size(std::uint64_t bytes) -> std::string;

}  // namespace dmabridge

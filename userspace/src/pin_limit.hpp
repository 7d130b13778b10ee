// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <optional>

namespace dmabridge {

// How much memory this process may pin (RLIMIT_MEMLOCK), in bytes; nothing: as much as it likes.
auto pin_limit() noexcept -> std::optional<std::uint64_t>;

}  // namespace dmabridge

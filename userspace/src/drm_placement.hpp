// SPDX-License-Identifier: MIT
// Allocation by placement, which every GPU driver has calls of its own for.
#pragma once

#include <cstdint>
#include <string>

#include "dmabridge/drm_memory.hpp"

namespace dmabridge {

struct drm_creation {
  int result = 0;  // 0 or -errno
  std::uint32_t handle = 0;
};

auto can_place(const std::string& driver) -> bool;

// By a file of one of those drivers.
auto create_placed(int file, const std::string& driver, std::uint64_t size, drm_placement where)
    -> drm_creation;

}  // namespace dmabridge

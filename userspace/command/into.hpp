// SPDX-License-Identifier: MIT
// Memory of other APIs that load fills, from what its user calls it.
#pragma once

#include <cstdint>
#include <string>

#include "dmabridge/exported_memory.hpp"

namespace dmabridge::command {

// `spec`: an API, and after a colon what it needs to know: "udmabuf", "dma-heap:system",
// "drm:/dev/dri/card0", "vulkan:llvmpipe", "cuda:0", "hip:0", "level-zero:0". Throws
// dmabridge::error: of kind usage with the whole list for anything else, and what the API throws.
auto allocate_into(const std::string& spec, std::uint64_t size) -> exported_memory;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// A dma-buf of whatever exporter as exported memory.
#pragma once

#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

// All of a dma-buf, or [offset, offset + size) of it. Takes `memory`, with its fd. Copies through a
// CPU mapping, between begin and end of the access: fences of devices are waited for. Where the
// exporter gives none, copying throws dmabridge::error that says so by its rules, and importers
// are not touched by it. The CPU mapping is not taken for pinnable.
//
// A copy after the exporter has revoked the dma-buf may raise SIGBUS, as with buffer::map().
//
// Throws dmabridge::error: of kind usage if the range is empty or not in the dma-buf.
DMABRIDGE_API auto any_memory(buffer memory) -> exported_memory;
DMABRIDGE_API auto any_memory(buffer memory, std::uint64_t offset, std::uint64_t size)
    -> exported_memory;

}  // namespace dmabridge

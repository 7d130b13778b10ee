// SPDX-License-Identifier: MIT
// System memory from the kernel's dma-heaps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

// The heaps of this machine, by name: "system", "default_cma_region". Empty: it has none.
DMABRIDGE_API auto dma_heaps() -> std::vector<std::string>;

// `size` bytes, zeroed, of /dev/dma_heap/HEAP; the dma-buf is as many whole pages. There is no
// pinnable mapping: where O_DIRECT or ibv_reg_mr() is wanted, take allocate_udmabuf(). Throws
// dmabridge::error, which names what to do where that heap is missing or not permitted.
DMABRIDGE_API auto allocate_dma_heap(std::uint64_t size, const std::string& heap = "system")
    -> exported_memory;

}  // namespace dmabridge

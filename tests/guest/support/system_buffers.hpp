// SPDX-License-Identifier: MIT
//
// dma-bufs of the kernel's own exporters of system memory.
#pragma once

#include <cstdint>

#include "fd.hpp"

namespace dmabridge::test {

// From /dev/dma_heap/system. Throws std::system_error.
Fd allocate_from_heap(std::uint64_t size);

struct Udmabuf {
  Fd memory;  // the memfd
  Fd buffer;
};
// None of its pages is beside its neighbour, nor was ever written. Throws std::system_error.
Udmabuf make_udmabuf(std::uint64_t size);

}  // namespace dmabridge::test

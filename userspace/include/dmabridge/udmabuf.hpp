// SPDX-License-Identifier: MIT
// Memory of this process as a dma-buf, by /dev/udmabuf: needs no kernel module of this project.
#pragma once

#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

enum class memfd_pages {
  ordinary,
  huge,  // of 2 MiB, which the administrator reserves: vm.nr_hugepages
};

// The exported memory's pinnable() is a mapping of the memfd, which is the same pages: O_DIRECT,
// registered io_uring buffers and ibv_reg_mr() reach them there without a copy, and importers of
// the dma-buf see what arrives. (The mapping of a udmabuf itself cannot be pinned.) Nobody brackets
// such accesses: fences of the dma-buf are the caller's to wait for, see sync_file.hpp.
//
// Throw dmabridge::error, which names what to do where /dev/udmabuf is missing, is not permitted,
// or has its size limited.

// `size` bytes, zeroed; the dma-buf may be longer, by less than a page of that kind.
DMABRIDGE_API auto allocate_udmabuf(std::uint64_t size, memfd_pages pages = memfd_pages::ordinary)
    -> exported_memory;

// [offset, offset + size) of the caller's own memfd, which has to be sealed against shrinking and
// not against writing; both numbers are multiples of the page size. The caller keeps `memfd`: the
// exported memory needs it no more.
DMABRIDGE_API auto udmabuf_of(int memfd, std::uint64_t offset, std::uint64_t size)
    -> exported_memory;

}  // namespace dmabridge

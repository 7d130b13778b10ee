// SPDX-License-Identifier: MIT
// HIP's device memory as a dma-buf. The ROCm libraries libamdhip64.so and libhsa-runtime64.so are
// opened when one of these is called; nothing of AMD's is needed to build this library or a program
// that uses it.
#pragma once

#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

enum class hip_mapping {
  pcie,            // ROCm found that the GPU's memory is all in its BAR, within reach of peers
  driver_decides,  // it did not, or is too old to look; owner().name() says which
};

// What exported_memory::owner() is for memory from this header:
//   auto& gpu = dynamic_cast<hip_memory&>(memory.owner());
class DMABRIDGE_API hip_memory : public memory_owner {
 public:
  ~hip_memory() override;

  // Where the exported range begins, on this ordinal's GPU.
  virtual auto pointer() const noexcept -> void* = 0;
  virtual auto device() const noexcept -> int = 0;
  virtual auto mapping() const noexcept -> hip_mapping = 0;
};

// `size` bytes from `pointer` on, in one allocation of hipMalloc(). The caller keeps the memory,
// and frees it after the result has gone; the driver keeps its bytes for those who have the
// dma-buf.
//
// The dma-buf is the driver's whole buffer object; offset() tells where in it the range begins. It
// may hold other memory of this process too, and the owner's name says how much: give it only to
// whom that may be shown.
//
// Throws dmabridge::error: no library, no GPU, no memory of HIP's there, managed or host memory.
DMABRIDGE_API auto export_hip_memory(void* pointer, std::uint64_t size) -> exported_memory;

// New memory of a GPU, freed with the result: `size` rounded up to whole pages, of which the result
// shows `size` bytes. It is not cleared.
DMABRIDGE_API auto allocate_hip_memory(std::uint64_t size, int device = 0) -> exported_memory;

}  // namespace dmabridge

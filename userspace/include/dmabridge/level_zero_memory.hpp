// SPDX-License-Identifier: MIT
// Level Zero's device memory as a dma-buf. The loader, libze_loader.so.1, is opened when one of
// these is called; nothing of Intel's is needed to build this library or a program that uses it.
#pragma once

#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/exported_memory.hpp"

struct _ze_context_handle_t;  // a ze_context_handle_t of level_zero/ze_api.h points to it

namespace dmabridge {

// What exported_memory::owner() is for memory from this header:
//   auto& gpu = dynamic_cast<level_zero_memory&>(memory.owner());
class DMABRIDGE_API level_zero_memory : public memory_owner {
 public:
  ~level_zero_memory() override;

  // Where the exported range begins, and the context that it is of.
  virtual auto pointer() const noexcept -> void* = 0;
  virtual auto context() const noexcept -> _ze_context_handle_t* = 0;
};

// `size` bytes from `pointer` on, in one allocation of zeMemAllocDevice() that was made with a
// ze_external_memory_export_desc_t for ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF. The caller keeps
// memory and context, and frees them after the result and everybody who uses the dma-buf have gone.
//
// The dma-buf is the whole allocation; offset() tells where in it the range begins.
//
// The copies of the owner do not wait for command lists of the program's, as Level Zero has no call
// for that: synchronize them before.
//
// Throws dmabridge::error: no library, no GPU, no device memory of that context there, memory that
// was not allocated to be exported.
DMABRIDGE_API auto export_level_zero_memory(_ze_context_handle_t* context, void* pointer,
                                            std::uint64_t size) -> exported_memory;

// New memory of a GPU, in a context of its own, freed with the result: `size` rounded up to whole
// pages, of which the result shows `size` bytes. It is not cleared. `device` counts the GPUs of all
// drivers, from 0.
DMABRIDGE_API auto allocate_level_zero_memory(std::uint64_t size, int device = 0)
    -> exported_memory;

}  // namespace dmabridge

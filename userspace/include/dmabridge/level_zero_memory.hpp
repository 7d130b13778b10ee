// SPDX-License-Identifier: MIT
// Level Zero's device memory as a dma-buf, and a dma-buf as its device memory. The loader,
// libze_loader.so.1, is opened when one of these is called; nothing of Intel's is needed to build
// this library or a program that uses it.
#pragma once

#include <cstdint>
#include <memory>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/exported_memory.hpp"

// What handles of level_zero/ze_api.h point to.
struct _ze_context_handle_t;
struct _ze_device_handle_t;

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

// A dma-buf in a context of Level Zero. It ends with the object, and so does the context that was
// made for it: the GPU must have no work with it then.
class DMABRIDGE_API level_zero_import {
 public:
  struct parts;
  explicit level_zero_import(std::unique_ptr<parts> made) noexcept;
  level_zero_import(level_zero_import&&) noexcept;
  auto operator=(level_zero_import&&) noexcept -> level_zero_import&;
  ~level_zero_import();

  // Where the dma-buf begins, for the GPU. The CPU cannot follow it.
  auto pointer() const noexcept -> void*;
  auto context() const noexcept -> _ze_context_handle_t*;
  auto size() const noexcept -> std::uint64_t;  // bytes, of the dma-buf

 private:
  std::unique_ptr<parts> parts_;
};

// All of a dma-buf, of whatever exporter, in place: for command lists and kernels of `device`,
// which is in `context`. The caller keeps all three; context and device have to outlive the result.
//
// The GPU's kernel driver attaches to the dma-buf as it does: one that cannot do P2P (i915) moves a
// buffer of a dmabridge region to system memory, and what the GPU got, control::query() tells.
// Level Zero knows no fences of dma-bufs: synchronize with who else writes (sync_file.hpp).
//
// Throws dmabridge::error: no library, a GPU that imports none, a dma-buf that its driver refuses.
DMABRIDGE_API auto import_to_level_zero(_ze_context_handle_t* context, _ze_device_handle_t* device,
                                        const buffer& memory) -> level_zero_import;
// Into a new context. `device` counts the GPUs of all drivers, from 0.
DMABRIDGE_API auto import_to_level_zero(const buffer& memory, int device = 0) -> level_zero_import;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// CUDA's device memory as a dma-buf. The CUDA driver library, libcuda.so.1, is opened when one of
// these is called; nothing of NVIDIA's is needed to build this library or a program that uses it.
#pragma once

#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

// How the dma-buf leads into the GPU.
enum class cuda_mapping {
  pcie,            // through its BAR, as peers on PCIe need it
  driver_decides,  // asked for because the driver refused the one above; owner().name() says so
};

// What exported_memory::owner() is for memory from this header:
//   auto& gpu = dynamic_cast<cuda_memory&>(memory.owner());
class DMABRIDGE_API cuda_memory : public memory_owner {
 public:
  ~cuda_memory() override;

  // Where the exported range begins: a CUdeviceptr, of this ordinal's GPU.
  virtual auto pointer() const noexcept -> std::uint64_t = 0;
  virtual auto device() const noexcept -> int = 0;
  virtual auto mapping() const noexcept -> cuda_mapping = 0;
  // Whether the driver took CU_POINTER_ATTRIBUTE_SYNC_MEMOPS. Without it, which is so for memory
  // from cuMemCreate(), the program's own cuMemcpyHtoD() may return before the bytes are where an
  // importer reads them; the copies of this class wait in any case.
  virtual auto sync_memops() const noexcept -> bool = 0;
};

// `size` bytes from `pointer` on, which may be anywhere in memory of cuMemAlloc() (cudaMalloc()) or
// in mapped ranges of cuMemAddressReserve(). The caller keeps the memory, and frees it after the
// result and everybody who uses the dma-buf have gone.
//
// CUDA exports whole pages of the host. Where the range does not fill them, the dma-buf shows other
// memory of this process too, and the owner's name says how much: give it only to whom that may
// be shown.
//
// Throws dmabridge::error: no library, no driver, no CUDA memory there, managed or host memory, a
// GPU or a kernel module without dma-bufs.
DMABRIDGE_API auto export_cuda_memory(std::uint64_t pointer, std::uint64_t size) -> exported_memory;
DMABRIDGE_API auto export_cuda_memory(const void* pointer, std::uint64_t size) -> exported_memory;

// New memory in the primary context of a GPU, freed with the result: `size` rounded up to whole
// pages, of which the result shows `size` bytes. It is not cleared.
DMABRIDGE_API auto allocate_cuda_memory(std::uint64_t size, int device = 0) -> exported_memory;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
//
// vgem, the kernel's driver for a GPU that is none: a real importer of dma-bufs (a static one, with
// no PCI function), and a source of fences.
#pragma once

#include <linux/dma-buf.h>

#include <cstdint>

#include "fd.hpp"

namespace dmabridge::test {

class Vgem {
 public:
  // Loads the driver, and opens its node. Throws std::runtime_error.
  Vgem();

  // Imports a dma-buf: 0 and its handle, or -errno.
  int import(int dma_buf, std::uint32_t* handle);
  void close(std::uint32_t handle);

  // A dma-buf of vgem's own.
  Fd export_new(std::uint64_t size);

  // Puts an unsignalled write fence on a dma-buf that is of vgem's own. vgem signals it by itself
  // after 10 s.
  std::uint32_t attach_fence(int dma_buf);
  void signal_fence(std::uint32_t fence);

 private:
  Fd fd_;
};

// A sync file that is signalled when all fences of a dma-buf are.
Fd fences_of(int dma_buf);

// Puts a sync file's fence on a dma-buf, as that of a writer, or, with DMA_BUF_SYNC_READ, of a
// reader.
void put_fence(int sync_file, int dma_buf, std::uint32_t as = DMA_BUF_SYNC_WRITE);

// Puts the fences of one dma-buf on another, likewise.
void copy_fences(int from, int to, std::uint32_t as = DMA_BUF_SYNC_WRITE);

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// Parts of a BAR of a PCI function that vfio-pci has lent to this process.
#pragma once

#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

// [offset, offset + size) of BAR `bar`, both multiples of the page size, by
// VFIO_DEVICE_FEATURE_DMA_BUF (Linux 6.19). `device` is a vfio device's fd: the caller keeps it,
// and the exported memory has one of its own, without which the kernel would revoke the dma-buf.
//
// It is revoked while the function's memory is disabled (PCI_COMMAND) or it is reset, and for good
// when the last fd of the device is closed. So the kernel lets only importers attach that reach it
// by P2P and can be revoked: some RDMA devices. Drives are not among them: the BAR has no pages,
// which their requests are made of, and its dma-buf cannot be mapped by the CPU; block_attachment
// bounces. Copies go through the device's fd, by CPU: slow, as the BAR is not cached, and an error
// rather than SIGBUS while it is revoked.
//
// Throws dmabridge::error.
DMABRIDGE_API auto export_vfio(int device, std::uint32_t bar, std::uint64_t offset,
                               std::uint64_t size) -> exported_memory;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// CPU accesses to a dma-buf, between the calls that wait for devices and keep caches coherent.
#pragma once

#include "dmabridge/buffer.hpp"

namespace dmabridge {

// DMA_BUF_IOCTL_SYNC. Throw dmabridge::error.
void begin_cpu_access(int dmabuf, cpu_access access);
void end_cpu_access(int dmabuf, cpu_access access);

}  // namespace dmabridge

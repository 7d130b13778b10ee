// SPDX-License-Identifier: MIT
// CPU accesses to a dma-buf, between the calls that wait for devices and keep caches coherent.
#pragma once

#include "dmabridge/buffer.hpp"

namespace dmabridge {

// DMA_BUF_IOCTL_SYNC. Throw dmabridge::error.
void begin_cpu_access(int dmabuf, cpu_access access);
void end_cpu_access(int dmabuf, cpu_access access);

// From its construction to end(), which throws; where that is not reached the destructor ends it,
// and ignores errors.
class dmabuf_access {
 public:
  dmabuf_access(int dmabuf, cpu_access access) : dmabuf_(dmabuf), access_(access) {
    begin_cpu_access(dmabuf, access);
  }
  dmabuf_access(const dmabuf_access&) = delete;
  auto operator=(const dmabuf_access&) -> dmabuf_access& = delete;
  ~dmabuf_access();

  void end();

 private:
  int dmabuf_;
  cpu_access access_;
  bool ended_ = false;
};

}  // namespace dmabridge

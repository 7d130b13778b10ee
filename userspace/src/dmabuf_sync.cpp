// SPDX-License-Identifier: MIT
#include "dmabuf_sync.hpp"

#include <fmt/format.h>
#include <linux/dma-buf.h>

#include <cerrno>

#include "dmabridge/error.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

static_assert(static_cast<unsigned>(cpu_access::read) == DMA_BUF_SYNC_READ);
static_assert(static_cast<unsigned>(cpu_access::write) == DMA_BUF_SYNC_WRITE);

void sync(int dmabuf, cpu_access access, std::uint64_t flags, const char* what) {
  dma_buf_sync argument{.flags = static_cast<std::uint64_t>(access) | flags};
  int result = 0;
  // The kernel's documentation asks for this loop.
  do {
    result = sys().ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &argument);
  } while (result == -EINTR || result == -EAGAIN);
  if (result < 0) {
    throw error({.kind = error_kind::io,
                 .attempted = fmt::format("{} CPU access to the buffer", what),
                 .code = -result});
  }
}

}  // namespace

void begin_cpu_access(int dmabuf, cpu_access access) {
  sync(dmabuf, access, DMA_BUF_SYNC_START, "begin");
}

void end_cpu_access(int dmabuf, cpu_access access) {
  sync(dmabuf, access, DMA_BUF_SYNC_END, "end");
}

dmabuf_access::~dmabuf_access() {
  try {
    if (!ended_) end();
  } catch (const error&) {
    // What made this one end early is being told.
  }
}

void dmabuf_access::end() {
  ended_ = true;
  end_cpu_access(dmabuf_, access_);
}

}  // namespace dmabridge

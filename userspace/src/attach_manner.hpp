// SPDX-License-Identifier: MIT
// How a driver attaches to a dma-buf: what no file of the kernel's tells, but its source.
#pragma once

#include <string_view>

namespace dmabridge {

struct attach_manner {
  std::string_view driver;
  bool is_static = false;  // dma_buf_attach()
  bool peer2peer = true;   // sets allow_peer2peer
  bool revocable = true;   // has invalidate_mappings
  bool pins = false;       // keeps the placement while it is there
};

// nullptr: it is none that this library knows.
auto manner_of(std::string_view driver) noexcept -> const attach_manner*;

}  // namespace dmabridge

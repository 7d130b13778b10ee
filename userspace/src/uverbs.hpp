// SPDX-License-Identifier: MIT
// What the kernel's driver of an RDMA device is asked past libibverbs, which does not tell whether
// it or the driver has refused.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>

namespace dmabridge {

enum class driver_answer : std::uint8_t {
  has,      // it got as far as looking for the dma-buf
  lacks,    // it has no dma-buf MRs, or the kernel knows none
  unknown,  // something else went wrong
};

// Asks for a dma-buf MR of an fd that is none, so that nothing is registered. Never throws.
auto ask_driver_for_dmabuf_mr(const ibv_pd& domain) noexcept -> driver_answer;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// What a program asks for when it registers memory with an RDMA device, and what it would get.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <optional>
#include <string>

#include "dmabridge/api.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

// How a device comes by the memory.
enum class registration_method : std::uint8_t {
  dmabuf_mr,       // ibv_reg_dmabuf_mr(): its driver attaches to the dma-buf
  pinned_mapping,  // ibv_reg_mr() on a mapping of the buffer, which is held where it is
};
DMABRIDGE_API auto to_string(registration_method value) -> std::string;

struct registration_request {
  std::uint64_t offset = 0;  // of the first byte, in the buffer; need not be aligned
  std::uint64_t length = 0;  // bytes, at least 1
  // The address by which peers and work requests name the first byte. Nothing: the library chooses,
  // and memory_region::address() tells. As a byte of its page it has to be the same as `offset`,
  // which the kernel demands of dma-buf MRs (drivers/infiniband/core/uverbs_std_types_mr.c), and
  // this library of both kinds.
  std::optional<std::uint64_t> iova{};
  // IBV_ACCESS_LOCAL_WRITE, REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC, RELAXED_ORDERING. Not
  // ON_DEMAND: such a registration looks at no memory, and fails when a peer first touches it.
  int access = IBV_ACCESS_LOCAL_WRITE;
  dmabridge::policy policy = dmabridge::policy::prefer;

  auto operator==(const registration_request&) const -> bool = default;
};

// What a registration will be, and what it will cost others; known before it is made.
struct registration_outlook {
  registration_method method = registration_method::pinned_mapping;
  verdict word{.state = verdict_state::predicted};  // of route none: it would be refused
  // Nobody can tell but the exporter, which is not one of ours, when the registration is made.
  bool unknown = false;
  bool blocks_moves = false;   // the buffer stays in its placement until it is deregistered
  bool blocks_revoke = false;  // its device's driver has to wait until it is deregistered
  std::string consequence{};   // the same as a sentence for people
};

}  // namespace dmabridge

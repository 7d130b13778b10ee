// SPDX-License-Identifier: MIT
// What a registration will be, and what it will cost others, before it is made.
#pragma once

#include <optional>

#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/registration.hpp"
#include "dmabridge/topology.hpp"
#include "rdma_device.hpp"

namespace dmabridge {

// What is known of a buffer of ours.
struct known_buffer {
  buffer_info info{};
  std::optional<region_info> region{};  // nothing: it is gone
};

// Nothing: it is another exporter's, or there is no module to ask. Throws dmabridge::error.
auto ask_about(const control* module, const buffer& memory) -> std::optional<known_buffer>;

// The request has been checked. Somebody vouches for a `pinnable` mapping of the memory, or only a
// try can tell whether the buffer's own is one. Throws dmabridge::error.
auto look_ahead(const topology& machine, const rdma_device& device, const control* module,
                const buffer& memory, const registration_request& wanted, bool pinnable)
    -> registration_outlook;

}  // namespace dmabridge

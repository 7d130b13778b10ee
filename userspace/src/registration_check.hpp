// SPDX-License-Identifier: MIT
// The one place where the numbers of a registration are looked at. A wrong one would let peers
// write into memory beside the buffer.
#pragma once

#include <cstdint>
#include <string>

#include "dmabridge/registration.hpp"
#include "rdma_device.hpp"

namespace dmabridge {

// "register 4 KiB at offset 12 of the buffer with rxe0": follows "cannot".
auto describe(const registration_request& wanted, const rdma_device& device) -> std::string;

// Throws dmabridge::error of kind usage if it makes no sense for a buffer of that size.
void check(const registration_request& wanted, std::uint64_t buffer_size,
           const rdma_device& device);

}  // namespace dmabridge

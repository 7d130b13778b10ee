// SPDX-License-Identifier: MIT
// What to say of an ioctl of the kernel module that failed.
#pragma once

#include <cstdint>
#include <string>

#include "dmabridge/error.hpp"

namespace dmabridge {

// `code` is a positive errno; `abi_version` what the module speaks, 0 if it has not said so.
auto ioctl_failure(std::string attempted, int code, std::uint32_t abi_version) -> error_details;

// Takes the reasons over. A verdict without reasons says nothing about the failure.
void add_verdict(error_details& details, const dmabridge_verdict& raw);

}  // namespace dmabridge

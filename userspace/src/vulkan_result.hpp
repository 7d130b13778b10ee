// SPDX-License-Identifier: MIT
// What a Vulkan function says when it fails.
#pragma once

#include <vulkan/vulkan_core.h>

#include <string>
#include <vector>

#include "dmabridge/error.hpp"

namespace dmabridge {

// "VK_ERROR_DEVICE_LOST (-4)"
auto vulkan_result_name(VkResult result) -> std::string;

// `call` is the function that gave `result`, and `attempted` what it was called for, as of
// error_details.
auto vulkan_failure(std::string attempted, const char* call, VkResult result,
                    std::vector<std::string> remedies = {}) -> error;

// Throws that unless the call succeeded.
void vulkan_check(VkResult result, const char* call, const std::string& attempted);

}  // namespace dmabridge

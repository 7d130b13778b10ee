// SPDX-License-Identifier: MIT
// The barriers between which a device's work on shared memory stands.
#pragma once

#include "vulkan_state.hpp"

namespace dmabridge {

enum class ownership { taken, handed };

auto buffer_barrier(const vulkan_state& device, VkBuffer shared, ownership which,
                    VkAccessFlags access) -> VkBufferMemoryBarrier;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "vulkan_barrier.hpp"

#include "dmabridge/vulkan_memory.hpp"

namespace dmabridge {

auto buffer_barrier(const vulkan_state& device, VkBuffer shared, ownership which,
                    VkAccessFlags access) -> VkBufferMemoryBarrier {
  const auto own = device.handles().queue_family;
  const bool taken = which == ownership::taken;
  return {.sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_BARRIER,
          .pNext = nullptr,
          .srcAccessMask = taken ? 0 : access,
          .dstAccessMask = taken ? access : 0,
          .srcQueueFamilyIndex = taken ? device.others() : own,
          .dstQueueFamilyIndex = taken ? own : device.others(),
          .buffer = shared,
          .offset = 0,
          .size = VK_WHOLE_SIZE};
}

auto take_over(const vulkan_device& device, VkBuffer shared, VkAccessFlags access)
    -> VkBufferMemoryBarrier {
  return buffer_barrier(*device.state(), shared, ownership::taken, access);
}

auto hand_back(const vulkan_device& device, VkBuffer shared, VkAccessFlags access)
    -> VkBufferMemoryBarrier {
  return buffer_barrier(*device.state(), shared, ownership::handed, access);
}

}  // namespace dmabridge

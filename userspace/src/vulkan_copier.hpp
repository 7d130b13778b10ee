// SPDX-License-Identifier: MIT
// Copies between the CPU's memory and a Vulkan buffer, by the device's queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "vulkan_allocation.hpp"

namespace dmabridge {

// Has memory of its own that both the CPU and the device reach (staging); a copy goes by way of
// that, a piece at a time. The functions return when the bytes are there, and throw
// dmabridge::error.
class vulkan_copier {
 public:
  explicit vulkan_copier(vulkan_device_state device);
  vulkan_copier(const vulkan_copier&) = delete;
  auto operator=(const vulkan_copier&) -> vulkan_copier& = delete;

  void copy_in(VkBuffer into, std::uint64_t offset, std::span<const std::byte> from);
  void copy_out(VkBuffer from, std::uint64_t offset, std::span<std::byte> into);

 private:
  enum class way { in, out };

  void make_staging();
  void make_commands();
  void record(way which, VkBuffer shared, const VkBufferCopy& piece);
  void run();

  vulkan_device_state device_;
  vulkan_buffer::parts staging_;
  std::byte* mapped_ = nullptr;  // until the memory is freed
  vulkan_command_pool pool_;
  VkCommandBuffer commands_ = VK_NULL_HANDLE;  // the pool's
  vulkan_fence_object done_;
};

}  // namespace dmabridge

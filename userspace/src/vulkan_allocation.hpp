// SPDX-License-Identifier: MIT
// Buffers of a Vulkan device, and memory for them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "dmabridge/vulkan_memory.hpp"
#include "vulkan_state.hpp"

namespace dmabridge {

using vulkan_device_state = std::shared_ptr<const vulkan_state>;

struct vulkan_buffer::parts {
  vulkan_memory_object memory;
  vulkan_buffer_object buffer;  // goes before the memory
  std::uint64_t size = 0;
};

struct vulkan_requirements {
  VkMemoryRequirements memory{};
  bool dedicated = false;  // the memory must be this buffer's alone
};

// `shared`: its memory is a dma-buf. This and the rest throw dmabridge::error; `attempted` is for
// that.
auto make_buffer(const vulkan_device_state& device, std::uint64_t size, VkBufferUsageFlags usage,
                 bool shared, const std::string& attempted) -> vulkan_buffer_object;

auto requirements_of(const vulkan_state& device, VkBuffer buffer) -> vulkan_requirements;

// The first of the types in `bits` that has all these properties.
auto memory_type(const vulkan_state& device, std::uint32_t bits, VkMemoryPropertyFlags properties)
    -> std::optional<std::uint32_t>;

auto allocate_memory(const vulkan_device_state& device, const VkMemoryAllocateInfo& wanted,
                     const std::string& attempted) -> vulkan_memory_object;

void bind_memory(const vulkan_state& device, const vulkan_buffer::parts& made, std::uint64_t offset,
                 const std::string& attempted);

}  // namespace dmabridge

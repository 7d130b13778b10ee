// SPDX-License-Identifier: MIT
// Memory of a Vulkan device as a dma-buf, and a dma-buf as memory of a Vulkan device.
#pragma once

#include <vulkan/vulkan_core.h>

#include <cstdint>
#include <memory>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/exported_memory.hpp"
#include "dmabridge/vulkan_device.hpp"

namespace dmabridge {

inline constexpr VkBufferUsageFlags vulkan_any_use = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT |
                                                     VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                                                     VK_BUFFER_USAGE_TRANSFER_DST_BIT;

// A VkBuffer with memory bound to it. Both end with the object: the device must have no work with
// them then, as everywhere in Vulkan.
class DMABRIDGE_API vulkan_buffer {
 public:
  struct parts;
  explicit vulkan_buffer(std::unique_ptr<parts> made) noexcept;
  vulkan_buffer(vulkan_buffer&&) noexcept;
  auto operator=(vulkan_buffer&&) noexcept -> vulkan_buffer&;
  ~vulkan_buffer();

  auto handle() const noexcept -> VkBuffer;
  auto memory() const noexcept -> VkDeviceMemory;
  auto size() const noexcept -> std::uint64_t;  // bytes

 private:
  std::unique_ptr<parts> parts_;
};

struct vulkan_import {
  std::uint64_t offset = 0;  // in the dma-buf; a multiple of what the device asks for
  std::uint64_t size = 0;    // bytes; 0: to the end of the dma-buf
  VkBufferUsageFlags usage = vulkan_any_use;
};

// The memory of a dma-buf, in place. The caller keeps `memory`; the device has the dma-buf for
// itself. Throws dmabridge::error.
DMABRIDGE_API auto import_to_vulkan(const vulkan_device& device, const buffer& memory,
                                    const vulkan_import& wanted = {}) -> vulkan_buffer;

// Memory that a device has allocated and others import. The handles end with `memory`.
struct vulkan_export {
  exported_memory memory;
  VkBuffer buffer = VK_NULL_HANDLE;
  VkDeviceMemory device_memory = VK_NULL_HANDLE;
};

// Allocates `size` bytes, in the device's own memory if it lets others import that. Throws
// dmabridge::error.
DMABRIDGE_API auto export_from_vulkan(const vulkan_device& device, std::uint64_t size,
                                      VkBufferUsageFlags usage = vulkan_any_use) -> vulkan_export;

// What a program has allocated by itself, and destroys after what it is exported as. Vulkan does
// not tell whether the rules were kept, and anything may happen if they were not.
struct vulkan_allocation {
  VkDeviceMemory memory = VK_NULL_HANDLE;  // VkExportMemoryAllocateInfo: DMA_BUF_BIT_EXT
  VkBuffer buffer = VK_NULL_HANDLE;        // bound to it, VK_SHARING_MODE_EXCLUSIVE, and made with
                                           // both TRANSFER usages
  std::uint64_t offset = 0;                // where it is bound, in the memory
  std::uint64_t size = 0;                  // of the buffer, in bytes
};

DMABRIDGE_API auto export_from_vulkan(const vulkan_device& device, const vulkan_allocation& theirs)
    -> exported_memory;

// The barriers between which work on shared memory stands: one that takes the buffer over from
// others (a drive, another GPU, the CPU by way of the dma-buf), and one that hands it back.
// `access` is what the work in between does. For vkCmdPipelineBarrier(), with
// VK_PIPELINE_STAGE_ALL_COMMANDS_BIT on the side of the others.
DMABRIDGE_API auto take_over(const vulkan_device& device, VkBuffer shared, VkAccessFlags access)
    -> VkBufferMemoryBarrier;
DMABRIDGE_API auto hand_back(const vulkan_device& device, VkBuffer shared, VkAccessFlags access)
    -> VkBufferMemoryBarrier;

}  // namespace dmabridge

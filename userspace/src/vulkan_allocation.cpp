// SPDX-License-Identifier: MIT
#include "vulkan_allocation.hpp"

#include <utility>

#include "vulkan_result.hpp"

namespace dmabridge {

vulkan_buffer::vulkan_buffer(std::unique_ptr<parts> made) noexcept : parts_(std::move(made)) {}
vulkan_buffer::vulkan_buffer(vulkan_buffer&&) noexcept = default;
auto vulkan_buffer::operator=(vulkan_buffer&&) noexcept -> vulkan_buffer& = default;
vulkan_buffer::~vulkan_buffer() = default;

auto vulkan_buffer::handle() const noexcept -> VkBuffer {
  return parts_->buffer.get();
}
auto vulkan_buffer::memory() const noexcept -> VkDeviceMemory {
  return parts_->memory.get();
}
auto vulkan_buffer::size() const noexcept -> std::uint64_t {
  return parts_->size;
}

auto make_buffer(const vulkan_device_state& device, std::uint64_t size, VkBufferUsageFlags usage,
                 bool shared, const std::string& attempted) -> vulkan_buffer_object {
  const VkExternalMemoryBufferCreateInfo external{
      .sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
      .pNext = nullptr,
      .handleTypes = vulkan_dmabuf};
  VkBufferCreateInfo wanted{};
  wanted.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  wanted.pNext = shared ? &external : nullptr;
  wanted.size = size;
  wanted.usage = usage;
  wanted.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
  VkBuffer made = VK_NULL_HANDLE;
  vulkan_check(device->calls().vkCreateBuffer(device->device(), &wanted, nullptr, &made),
               "vkCreateBuffer", attempted);
  return {device, made};
}

auto requirements_of(const vulkan_state& device, VkBuffer buffer) -> vulkan_requirements {
  VkMemoryDedicatedRequirements dedicated{};
  dedicated.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_REQUIREMENTS;
  VkMemoryRequirements2 found{};
  found.sType = VK_STRUCTURE_TYPE_MEMORY_REQUIREMENTS_2;
  found.pNext = &dedicated;
  const VkBufferMemoryRequirementsInfo2 asked{
      .sType = VK_STRUCTURE_TYPE_BUFFER_MEMORY_REQUIREMENTS_INFO_2,
      .pNext = nullptr,
      .buffer = buffer};
  device.calls().vkGetBufferMemoryRequirements2(device.device(), &asked, &found);
  return {.memory = found.memoryRequirements,
          .dedicated = dedicated.requiresDedicatedAllocation == VK_TRUE};
}

auto memory_type(const vulkan_state& device, std::uint32_t bits, VkMemoryPropertyFlags properties)
    -> std::optional<std::uint32_t> {
  VkPhysicalDeviceMemoryProperties memory{};
  device.calls().vkGetPhysicalDeviceMemoryProperties(device.handles().physical_device, &memory);
  for (std::uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
    if ((bits >> i & 1) != 0 && (~memory.memoryTypes[i].propertyFlags & properties) == 0) return i;
  }
  return {};
}

auto allocate_memory(const vulkan_device_state& device, const VkMemoryAllocateInfo& wanted,
                     const std::string& attempted) -> vulkan_memory_object {
  VkDeviceMemory made = VK_NULL_HANDLE;
  vulkan_check(device->calls().vkAllocateMemory(device->device(), &wanted, nullptr, &made),
               "vkAllocateMemory", attempted);
  return {device, made};
}

void bind_memory(const vulkan_state& device, const vulkan_buffer::parts& made, std::uint64_t offset,
                 const std::string& attempted) {
  vulkan_check(device.calls().vkBindBufferMemory(device.device(), made.buffer.get(),
                                                 made.memory.get(), offset),
               "vkBindBufferMemory", attempted);
}

}  // namespace dmabridge

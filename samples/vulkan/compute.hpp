// SPDX-License-Identifier: MIT
//
// A compute shader and the buffers that it works on: plain Vulkan, but for the barriers of memory
// that others use too.
#pragma once

#include <vulkan/vulkan.h>
#include <dmabridge/vulkan_device.hpp>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sample {

// An object of a device that is destroyed with this one.
template <typename Handle, auto Destroy>
class object {
 public:
  explicit object(VkDevice device) : device_(device) {}
  object(const object&) = delete;
  auto operator=(const object&) -> object& = delete;
  ~object() { Destroy(device_, handle_, nullptr); }

  auto get() const -> Handle { return handle_; }
  auto put() -> Handle* { return &handle_; }

 private:
  VkDevice device_;
  Handle handle_ = VK_NULL_HANDLE;
};

// One dispatch, recorded once. Throws std::runtime_error.
class compute {
 public:
  // The shader's bindings are storage buffers, from 0 up; its push constant is `parameter`. All the
  // buffers are shared memory.
  compute(const dmabridge::vulkan_device& device, std::span<const std::uint32_t> shader,
          const std::vector<VkDescriptorBufferInfo>& buffers, std::uint32_t parameter,
          std::uint32_t groups);
  compute(const compute&) = delete;
  auto operator=(const compute&) -> compute& = delete;
  // Waits for what was submitted.
  ~compute();

  // Runs it, once at a time: after `before`, if it is given, and signals `after`.
  void submit(VkSemaphore before = VK_NULL_HANDLE, VkSemaphore after = VK_NULL_HANDLE);
  auto is_done() const -> bool;
  void wait();

 private:
  void make_layouts(std::size_t bindings);
  void make_pipeline(std::span<const std::uint32_t> shader);
  void bind(const std::vector<VkDescriptorBufferInfo>& buffers);
  void record(const std::vector<VkDescriptorBufferInfo>& buffers, std::uint32_t parameter,
              std::uint32_t groups);

  const dmabridge::vulkan_device device_;
  const VkDevice handle_;
  VkQueue queue_ = VK_NULL_HANDLE;
  object<VkDescriptorSetLayout, vkDestroyDescriptorSetLayout> set_layout_;
  object<VkPipelineLayout, vkDestroyPipelineLayout> layout_;
  object<VkPipeline, vkDestroyPipeline> pipeline_;
  object<VkDescriptorPool, vkDestroyDescriptorPool> descriptors_;
  object<VkCommandPool, vkDestroyCommandPool> commands_;
  object<VkFence, vkDestroyFence> done_;
  VkDescriptorSet set_ = VK_NULL_HANDLE;
  VkCommandBuffer command_ = VK_NULL_HANDLE;
  bool submitted_ = false;
};

}  // namespace sample

// SPDX-License-Identifier: MIT
// What is behind a vulkan_device, and what ends with its objects.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "dmabridge/vulkan_device.hpp"
#include "vulkan_calls.hpp"

namespace dmabridge {

inline constexpr auto vulkan_dmabuf = VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT;

struct vulkan_candidate;

class vulkan_state {
 public:
  // Each throws dmabridge::error.
  static auto adopt(const vulkan_handles& theirs) -> std::shared_ptr<const vulkan_state>;
  static auto open(const vulkan_wish& wanted) -> std::shared_ptr<const vulkan_state>;

  vulkan_state() = default;
  vulkan_state(const vulkan_state&) = delete;
  auto operator=(const vulkan_state&) -> vulkan_state& = delete;
  ~vulkan_state();

  auto handles() const noexcept -> const vulkan_handles& { return handles_; }
  auto device() const noexcept -> VkDevice { return handles_.device; }
  auto calls() const noexcept -> const vulkan_calls& { return calls_; }
  auto type() const noexcept -> VkPhysicalDeviceType { return type_; }
  auto name() const noexcept -> const std::string& { return name_; }
  auto others() const noexcept -> std::uint32_t {
    return handles_.foreign_queue_family ? VK_QUEUE_FAMILY_FOREIGN_EXT : VK_QUEUE_FAMILY_EXTERNAL;
  }

  // By one thread at a time. Throws dmabridge::error.
  void submit(const VkSubmitInfo& work, VkFence done) const;

 private:
  void make_instance(PFN_vkGetInstanceProcAddr loader);
  void find_instance_calls();
  void make_device(const vulkan_candidate& chosen);
  void find_device_calls(const vulkan_candidate& chosen);

  mutable std::mutex own_mutex_;  // for the queue, unless the caller gives one
  vulkan_handles handles_;
  vulkan_calls calls_;
  std::string name_;
  VkPhysicalDeviceType type_ = VK_PHYSICAL_DEVICE_TYPE_OTHER;
  bool ours_ = false;  // instance and device are destroyed with this
  VkQueue queue_ = VK_NULL_HANDLE;
};

// An object of a device that is destroyed with this one; `Destroy` is a member of vulkan_calls.
template <typename Handle, auto Destroy>
class vulkan_object {
 public:
  vulkan_object() noexcept = default;
  vulkan_object(std::shared_ptr<const vulkan_state> device, Handle handle) noexcept
      : device_(std::move(device)), handle_(handle) {}
  vulkan_object(vulkan_object&& other) noexcept
      : device_(std::move(other.device_)), handle_(std::exchange(other.handle_, Handle{})) {}
  auto operator=(vulkan_object&& other) noexcept -> vulkan_object& {
    std::swap(device_, other.device_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~vulkan_object() {
    if (handle_ != Handle{}) (device_->calls().*Destroy)(device_->device(), handle_, nullptr);
  }

  auto get() const noexcept -> Handle { return handle_; }

 private:
  std::shared_ptr<const vulkan_state> device_;
  Handle handle_{};
};

using vulkan_buffer_object = vulkan_object<VkBuffer, &vulkan_calls::vkDestroyBuffer>;
using vulkan_memory_object = vulkan_object<VkDeviceMemory, &vulkan_calls::vkFreeMemory>;
using vulkan_semaphore_object = vulkan_object<VkSemaphore, &vulkan_calls::vkDestroySemaphore>;
using vulkan_fence_object = vulkan_object<VkFence, &vulkan_calls::vkDestroyFence>;
using vulkan_command_pool = vulkan_object<VkCommandPool, &vulkan_calls::vkDestroyCommandPool>;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// A Vulkan device whose memory is shared by dma-buf: a program's own, or one that is opened here.
//
// The types are those of the Vulkan-Headers, which a program that includes this needs. The Vulkan
// library is not linked: its functions are found by vkGetInstanceProcAddr().
#pragma once

#include <vulkan/vulkan_core.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "dmabridge/api.hpp"

namespace dmabridge {

class vulkan_state;

// What a program has of Vulkan.
struct vulkan_handles {
  PFN_vkGetInstanceProcAddr get_instance_proc_addr = nullptr;
  VkInstance instance = VK_NULL_HANDLE;  // of Vulkan 1.1 or later
  VkPhysicalDevice physical_device = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;  // with the extensions that vulkan_device::extensions() names
  // For copies; of a family that has graphics, compute or transfer.
  std::uint32_t queue_family = 0;
  std::uint32_t queue_index = 0;
  bool foreign_queue_family = false;  // VK_EXT_queue_family_foreign is enabled
  // Vulkan lets one thread at a time use a queue. Locked here for each submission; a caller whose
  // threads use the queue too gives one. A device that is opened here has one.
  std::mutex* queue_mutex = nullptr;
};

// What a device that is opened here has to be.
struct vulkan_wish {
  std::string name{};   // part of the device's; empty: any
  bool exports = true;  // others can import its memory; else it need only import theirs
  // nullptr: that of libvulkan.so.1, which is opened, and stays open until the process ends.
  PFN_vkGetInstanceProcAddr get_instance_proc_addr = nullptr;
};

// Copies of the object are the same device. What is made with it keeps it, too.
class DMABRIDGE_API vulkan_device {
 public:
  // The extensions that the device must have been made with. VK_KHR_external_semaphore_fd is needed
  // for vulkan_semaphore only.
  static auto extensions() noexcept -> std::span<const char* const>;

  // The caller's, who destroys it after this object and all that was made with it. Throws
  // dmabridge::error, which names every function and extension that is missing.
  explicit vulkan_device(const vulkan_handles& theirs);

  // One of its own, destroyed with the last object that needs it: a discrete GPU if there is one
  // that will do, then an integrated one, then any. Throws dmabridge::error, which tells of every
  // device all that is in the way.
  static auto open(const vulkan_wish& wanted = {}) -> vulkan_device;

  auto handles() const noexcept -> const vulkan_handles&;
  auto name() const noexcept -> const std::string&;
  // Whom memory belongs to while others than this device use it: VK_QUEUE_FAMILY_FOREIGN_EXT, or
  // VK_QUEUE_FAMILY_EXTERNAL where that is not enabled.
  auto others() const noexcept -> std::uint32_t;

  // For what may last longer than this object.
  auto state() const noexcept -> const std::shared_ptr<const vulkan_state>& { return state_; }

 private:
  explicit vulkan_device(std::shared_ptr<const vulkan_state> state) noexcept;

  std::shared_ptr<const vulkan_state> state_;
};

}  // namespace dmabridge

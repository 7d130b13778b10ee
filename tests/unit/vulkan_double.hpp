// SPDX-License-Identifier: MIT
// A test double of a Vulkan driver and its loader, by a table of function pointers: it moves no
// byte and runs no work, but knows who owns what, and in which order it was called.
#pragma once

#include <vulkan/vulkan_core.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "dmabridge/vulkan_device.hpp"

namespace dmabridge::test {

// One at a time. Fails the test if an object is destroyed that does not exist, or still exists when
// the double goes.
class vulkan_double {
 public:
  struct device {
    std::string name = "GPU of the test";
    VkPhysicalDeviceType type = VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU;
    std::uint32_t version = VK_API_VERSION_1_3;
    std::vector<std::string> extensions{"VK_KHR_external_memory_fd",
                                        "VK_EXT_external_memory_dma_buf",
                                        "VK_KHR_external_semaphore_fd"};
    VkExternalMemoryFeatureFlags buffers =
        VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT | VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT;
    bool computes = true;
  };

  vulkan_double();
  vulkan_double(const vulkan_double&) = delete;
  auto operator=(const vulkan_double&) -> vulkan_double& = delete;
  ~vulkan_double();

  static auto loader() -> PFN_vkGetInstanceProcAddr;
  // Of a caller's device, the first.
  auto handles() -> vulkan_handles;

  // Whether it was called, and how often.
  auto count(const std::string& call) const -> std::ptrdiff_t;

  std::vector<device> devices{device{}};
  std::map<std::string, VkResult> results;  // of the functions that are to fail
  std::set<std::string> absent;             // functions that the loader does not find
  VkExternalSemaphoreFeatureFlags semaphores =
      VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT | VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT;
  // Memory types: 0 is the host's, coherent and cached; 1 the device's.
  std::uint32_t buffer_types = 0b11;
  std::uint32_t fd_types = 0b11;
  VkDeviceSize alignment = 256;
  bool dedicated = false;
  int exported_fd = 0;  // by vkGetMemoryFdKHR and vkGetSemaphoreFdKHR

  std::function<void()> on_submit = [] {};

  // What it was told.
  std::vector<std::string> calls;    // in order, without questions
  std::vector<std::string> enabled;  // extensions of the last device made
  std::vector<int> taken_fds;        // by imports that succeeded
  std::vector<VkBufferCopy> copies;  // by vkCmdCopyBuffer
  std::vector<VkBufferMemoryBarrier> barriers;
  VkDeviceSize allocated = 0;  // size of the last allocation
  std::uint32_t allocated_type = 0;
  VkExternalMemoryHandleTypeFlags allocated_for_export = 0;
  bool allocated_dedicated = false;
  VkDeviceSize bound_at = 0;
  std::vector<std::byte> staging;  // behind vkMapMemory

  // Inside.
  auto call(const std::string& name) -> VkResult;
  auto make(const std::string& kind) -> void*;
  void destroy(const std::string& kind, void* handle);
  static auto current() -> vulkan_double&;

 private:
  std::map<void*, std::string> live_;
  std::uintptr_t next_ = 0x1000;
};

}  // namespace dmabridge::test

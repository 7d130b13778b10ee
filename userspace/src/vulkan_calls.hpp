// SPDX-License-Identifier: MIT
// The functions of Vulkan that this library calls, as pointers: nothing of Vulkan is linked, and
// tests hand in their own.
#pragma once

#include <vulkan/vulkan_core.h>

#include <string>
#include <vector>

// Each is called with the name of a function.
#define DMABRIDGE_VULKAN_INSTANCE_CALLS(CALL)          \
  CALL(vkCreateDevice)                                 \
  CALL(vkDestroyInstance)                              \
  CALL(vkEnumerateDeviceExtensionProperties)           \
  CALL(vkEnumeratePhysicalDevices)                     \
  CALL(vkGetDeviceProcAddr)                            \
  CALL(vkGetPhysicalDeviceExternalBufferProperties)    \
  CALL(vkGetPhysicalDeviceExternalSemaphoreProperties) \
  CALL(vkGetPhysicalDeviceMemoryProperties)            \
  CALL(vkGetPhysicalDeviceProperties)                  \
  CALL(vkGetPhysicalDeviceQueueFamilyProperties)

#define DMABRIDGE_VULKAN_DEVICE_CALLS(CALL) \
  CALL(vkAllocateCommandBuffers)            \
  CALL(vkAllocateMemory)                    \
  CALL(vkBeginCommandBuffer)                \
  CALL(vkBindBufferMemory)                  \
  CALL(vkCmdCopyBuffer)                     \
  CALL(vkCmdPipelineBarrier)                \
  CALL(vkCreateBuffer)                      \
  CALL(vkCreateCommandPool)                 \
  CALL(vkCreateFence)                       \
  CALL(vkCreateSemaphore)                   \
  CALL(vkDestroyBuffer)                     \
  CALL(vkDestroyCommandPool)                \
  CALL(vkDestroyDevice)                     \
  CALL(vkDestroyFence)                      \
  CALL(vkDestroySemaphore)                  \
  CALL(vkEndCommandBuffer)                  \
  CALL(vkFreeMemory)                        \
  CALL(vkGetBufferMemoryRequirements2)      \
  CALL(vkGetDeviceQueue)                    \
  CALL(vkGetMemoryFdKHR)                    \
  CALL(vkGetMemoryFdPropertiesKHR)          \
  CALL(vkMapMemory)                         \
  CALL(vkQueueSubmit)                       \
  CALL(vkResetCommandPool)                  \
  CALL(vkResetFences)                       \
  CALL(vkWaitForFences)

// Null if VK_KHR_external_semaphore_fd is not enabled.
#define DMABRIDGE_VULKAN_SEMAPHORE_CALLS(CALL) \
  CALL(vkGetSemaphoreFdKHR)                    \
  CALL(vkImportSemaphoreFdKHR)

namespace dmabridge {

struct vulkan_calls {
#define DMABRIDGE_MEMBER(name) PFN_##name name = nullptr;
  DMABRIDGE_VULKAN_INSTANCE_CALLS(DMABRIDGE_MEMBER)
  DMABRIDGE_VULKAN_DEVICE_CALLS(DMABRIDGE_MEMBER)
  DMABRIDGE_VULKAN_SEMAPHORE_CALLS(DMABRIDGE_MEMBER)
#undef DMABRIDGE_MEMBER

  // Find the functions of the one or the other kind, and return the names of those that there are
  // not.
  auto find(PFN_vkGetInstanceProcAddr loader, VkInstance instance) -> std::vector<std::string>;
  auto find(VkDevice device) -> std::vector<std::string>;
};

// vkGetInstanceProcAddr() of the Vulkan loader, which is never closed again: drivers leave threads
// and exit handlers behind. Throws dmabridge::error.
auto open_vulkan_loader(const char* file) -> PFN_vkGetInstanceProcAddr;

}  // namespace dmabridge

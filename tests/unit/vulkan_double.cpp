// SPDX-License-Identifier: MIT
#include "vulkan_double.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace dmabridge::test {
namespace {

vulkan_double* the_double = nullptr;

auto me() -> vulkan_double& {
  return vulkan_double::current();
}

template <typename Handle>
auto make(const char* call, const char* kind, Handle* into) -> VkResult {
  const auto result = me().call(call);
  *into = result == VK_SUCCESS ? static_cast<Handle>(me().make(kind)) : Handle{};
  return result;
}

// The element of a pNext chain that has this type.
template <typename Structure>
auto in_chain(const void* chain, VkStructureType type) -> const Structure* {
  for (auto* one = static_cast<const VkBaseInStructure*>(chain); one != nullptr; one = one->pNext) {
    if (one->sType == type) return reinterpret_cast<const Structure*>(one);
  }
  return nullptr;
}

auto device_of(VkPhysicalDevice handle) -> const vulkan_double::device& {
  return me().devices.at(reinterpret_cast<std::uintptr_t>(handle) - 1);
}

// Vulkan's way to give an array: its length alone, or as much of it as there is room for.
template <typename Element, typename Fill>
auto enumerate(std::size_t size, std::uint32_t* count, Element* elements, Fill fill) -> VkResult {
  if (elements == nullptr) {
    *count = static_cast<std::uint32_t>(size);
    return VK_SUCCESS;
  }
  *count = std::min(*count, static_cast<std::uint32_t>(size));
  for (std::uint32_t i = 0; i < *count; ++i) fill(i, elements[i]);
  return *count < size ? VK_INCOMPLETE : VK_SUCCESS;
}

// --- the instance

VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo*, const VkAllocationCallbacks*,
                                    VkInstance* made) {
  return make("vkCreateInstance", "VkInstance", made);
}
void VKAPI_CALL destroy_instance(VkInstance instance, const VkAllocationCallbacks*) {
  me().destroy("VkInstance", instance);
}
VkResult VKAPI_CALL enumerate_devices(VkInstance, std::uint32_t* count, VkPhysicalDevice* devices) {
  if (const auto result = me().results["vkEnumeratePhysicalDevices"]; result != VK_SUCCESS) {
    return result;
  }
  return enumerate(me().devices.size(), count, devices, [](std::uint32_t i, auto& device) {
    device = reinterpret_cast<VkPhysicalDevice>(std::uintptr_t{i} + 1);
  });
}
VkResult VKAPI_CALL enumerate_extensions(VkPhysicalDevice device, const char*, std::uint32_t* count,
                                         VkExtensionProperties* extensions) {
  const auto& names = device_of(device).extensions;
  return enumerate(names.size(), count, extensions, [&](std::uint32_t i, auto& extension) {
    std::snprintf(extension.extensionName, sizeof(extension.extensionName), "%s", names[i].c_str());
  });
}
void VKAPI_CALL properties(VkPhysicalDevice device, VkPhysicalDeviceProperties* into) {
  const auto& it = device_of(device);
  into->apiVersion = it.version;
  into->deviceType = it.type;
  std::snprintf(into->deviceName, sizeof(into->deviceName), "%s", it.name.c_str());
}
void VKAPI_CALL queue_families(VkPhysicalDevice device, std::uint32_t* count,
                               VkQueueFamilyProperties* families) {
  // The first has no use.
  enumerate(2, count, families, [&](std::uint32_t i, auto& family) {
    family.queueFlags =
        i == 1 && device_of(device).computes ? VK_QUEUE_COMPUTE_BIT : VK_QUEUE_SPARSE_BINDING_BIT;
  });
}
void VKAPI_CALL memory_properties(VkPhysicalDevice, VkPhysicalDeviceMemoryProperties* into) {
  into->memoryTypeCount = 2;
  into->memoryTypes[0].propertyFlags = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                       VK_MEMORY_PROPERTY_HOST_COHERENT_BIT |
                                       VK_MEMORY_PROPERTY_HOST_CACHED_BIT;
  into->memoryTypes[1].propertyFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
}
void VKAPI_CALL external_buffers(VkPhysicalDevice device,
                                 const VkPhysicalDeviceExternalBufferInfo* asked,
                                 VkExternalBufferProperties* into) {
  EXPECT_EQ(asked->handleType, VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT);
  into->externalMemoryProperties.externalMemoryFeatures = device_of(device).buffers;
}
void VKAPI_CALL external_semaphores(VkPhysicalDevice, const VkPhysicalDeviceExternalSemaphoreInfo*,
                                    VkExternalSemaphoreProperties* into) {
  into->externalSemaphoreFeatures = me().semaphores;
}
VkResult VKAPI_CALL create_device(VkPhysicalDevice, const VkDeviceCreateInfo* wanted,
                                  const VkAllocationCallbacks*, VkDevice* made) {
  me().enabled.assign(wanted->ppEnabledExtensionNames,
                      wanted->ppEnabledExtensionNames + wanted->enabledExtensionCount);
  EXPECT_EQ(wanted->pQueueCreateInfos->queueFamilyIndex, 1U) << "the family that computes";
  return make("vkCreateDevice", "VkDevice", made);
}

// --- the device

void VKAPI_CALL destroy_device(VkDevice device, const VkAllocationCallbacks*) {
  me().destroy("VkDevice", device);
}
void VKAPI_CALL get_queue(VkDevice, std::uint32_t, std::uint32_t, VkQueue* queue) {
  *queue = reinterpret_cast<VkQueue>(std::uintptr_t{0x77});
}
VkResult VKAPI_CALL create_buffer(VkDevice, const VkBufferCreateInfo*, const VkAllocationCallbacks*,
                                  VkBuffer* made) {
  return make("vkCreateBuffer", "VkBuffer", made);
}
void VKAPI_CALL destroy_buffer(VkDevice, VkBuffer buffer, const VkAllocationCallbacks*) {
  me().destroy("VkBuffer", buffer);
}
void VKAPI_CALL requirements(VkDevice, const VkBufferMemoryRequirementsInfo2*,
                             VkMemoryRequirements2* into) {
  into->memoryRequirements = {
      .size = 1 << 16, .alignment = me().alignment, .memoryTypeBits = me().buffer_types};
  auto* const more = static_cast<VkMemoryDedicatedRequirements*>(into->pNext);
  more->requiresDedicatedAllocation = me().dedicated ? VK_TRUE : VK_FALSE;
}
VkResult VKAPI_CALL allocate(VkDevice, const VkMemoryAllocateInfo* wanted,
                             const VkAllocationCallbacks*, VkDeviceMemory* made) {
  auto& it = me();
  it.allocated = wanted->allocationSize;
  it.allocated_type = wanted->memoryTypeIndex;
  const auto* exported = in_chain<VkExportMemoryAllocateInfo>(
      wanted->pNext, VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO);
  it.allocated_for_export = exported != nullptr ? exported->handleTypes : 0;
  it.allocated_dedicated =
      in_chain<VkMemoryDedicatedAllocateInfo>(
          wanted->pNext, VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO) != nullptr;
  const auto result = make("vkAllocateMemory", "VkDeviceMemory", made);
  const auto* imported =
      in_chain<VkImportMemoryFdInfoKHR>(wanted->pNext, VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR);
  if (imported != nullptr && result == VK_SUCCESS) it.taken_fds.push_back(imported->fd);
  return result;
}
void VKAPI_CALL free_memory(VkDevice, VkDeviceMemory memory, const VkAllocationCallbacks*) {
  me().destroy("VkDeviceMemory", memory);
}
VkResult VKAPI_CALL bind_memory(VkDevice, VkBuffer, VkDeviceMemory, VkDeviceSize offset) {
  me().bound_at = offset;
  return me().call("vkBindBufferMemory");
}
VkResult VKAPI_CALL map_memory(VkDevice, VkDeviceMemory, VkDeviceSize, VkDeviceSize,
                               VkMemoryMapFlags, void** address) {
  me().staging.resize(std::size_t{4} << 20);
  *address = me().staging.data();
  return me().call("vkMapMemory");
}
VkResult VKAPI_CALL get_memory_fd(VkDevice, const VkMemoryGetFdInfoKHR* wanted, int* descriptor) {
  EXPECT_EQ(wanted->handleType, VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT);
  *descriptor = me().exported_fd;
  return me().call("vkGetMemoryFdKHR");
}
VkResult VKAPI_CALL fd_properties(VkDevice, VkExternalMemoryHandleTypeFlagBits, int,
                                  VkMemoryFdPropertiesKHR* into) {
  into->memoryTypeBits = me().fd_types;
  return me().call("vkGetMemoryFdPropertiesKHR");
}
VkResult VKAPI_CALL create_pool(VkDevice, const VkCommandPoolCreateInfo*,
                                const VkAllocationCallbacks*, VkCommandPool* made) {
  return make("vkCreateCommandPool", "VkCommandPool", made);
}
void VKAPI_CALL destroy_pool(VkDevice, VkCommandPool pool, const VkAllocationCallbacks*) {
  me().destroy("VkCommandPool", pool);
}
VkResult VKAPI_CALL allocate_commands(VkDevice, const VkCommandBufferAllocateInfo*,
                                      VkCommandBuffer* made) {
  *made = reinterpret_cast<VkCommandBuffer>(std::uintptr_t{0x88});
  return me().call("vkAllocateCommandBuffers");
}
VkResult VKAPI_CALL reset_pool(VkDevice, VkCommandPool, VkCommandPoolResetFlags) {
  return me().call("vkResetCommandPool");
}
VkResult VKAPI_CALL begin(VkCommandBuffer, const VkCommandBufferBeginInfo*) {
  return me().call("vkBeginCommandBuffer");
}
VkResult VKAPI_CALL end(VkCommandBuffer) {
  return me().call("vkEndCommandBuffer");
}
void VKAPI_CALL barrier(VkCommandBuffer, VkPipelineStageFlags, VkPipelineStageFlags,
                        VkDependencyFlags, std::uint32_t, const VkMemoryBarrier*,
                        std::uint32_t count, const VkBufferMemoryBarrier* barriers, std::uint32_t,
                        const VkImageMemoryBarrier*) {
  me().barriers.insert(me().barriers.end(), barriers, barriers + count);
  me().call("vkCmdPipelineBarrier");
}
void VKAPI_CALL copy(VkCommandBuffer, VkBuffer, VkBuffer, std::uint32_t count,
                     const VkBufferCopy* pieces) {
  me().copies.insert(me().copies.end(), pieces, pieces + count);
  me().call("vkCmdCopyBuffer");
}
VkResult VKAPI_CALL create_fence(VkDevice, const VkFenceCreateInfo*, const VkAllocationCallbacks*,
                                 VkFence* made) {
  return make("vkCreateFence", "VkFence", made);
}
void VKAPI_CALL destroy_fence(VkDevice, VkFence fence, const VkAllocationCallbacks*) {
  me().destroy("VkFence", fence);
}
VkResult VKAPI_CALL wait_for_fences(VkDevice, std::uint32_t, const VkFence*, VkBool32,
                                    std::uint64_t) {
  return me().call("vkWaitForFences");
}
VkResult VKAPI_CALL reset_fences(VkDevice, std::uint32_t, const VkFence*) {
  return me().call("vkResetFences");
}
VkResult VKAPI_CALL submit(VkQueue, std::uint32_t, const VkSubmitInfo*, VkFence) {
  me().on_submit();
  return me().call("vkQueueSubmit");
}
VkResult VKAPI_CALL create_semaphore(VkDevice, const VkSemaphoreCreateInfo*,
                                     const VkAllocationCallbacks*, VkSemaphore* made) {
  return make("vkCreateSemaphore", "VkSemaphore", made);
}
void VKAPI_CALL destroy_semaphore(VkDevice, VkSemaphore semaphore, const VkAllocationCallbacks*) {
  me().destroy("VkSemaphore", semaphore);
}
VkResult VKAPI_CALL get_semaphore_fd(VkDevice, const VkSemaphoreGetFdInfoKHR*, int* descriptor) {
  *descriptor = me().exported_fd;
  return me().call("vkGetSemaphoreFdKHR");
}
VkResult VKAPI_CALL import_semaphore(VkDevice, const VkImportSemaphoreFdInfoKHR* wanted) {
  EXPECT_EQ(wanted->flags, VkSemaphoreImportFlags{VK_SEMAPHORE_IMPORT_TEMPORARY_BIT});
  const auto result = me().call("vkImportSemaphoreFdKHR");
  if (result == VK_SUCCESS) me().taken_fds.push_back(wanted->fd);
  return result;
}

// --- the table

PFN_vkVoidFunction VKAPI_CALL get_device_proc(VkDevice, const char* name);

// Each function is checked against Vulkan's own type for it.
#define ENTRY(name, function) \
  {#name, reinterpret_cast<PFN_vkVoidFunction>(static_cast<PFN_##name>(function))}

auto table() -> const std::map<std::string, PFN_vkVoidFunction>& {
  static const std::map<std::string, PFN_vkVoidFunction> functions{
      ENTRY(vkAllocateCommandBuffers, allocate_commands),
      ENTRY(vkAllocateMemory, allocate),
      ENTRY(vkBeginCommandBuffer, begin),
      ENTRY(vkBindBufferMemory, bind_memory),
      ENTRY(vkCmdCopyBuffer, copy),
      ENTRY(vkCmdPipelineBarrier, barrier),
      ENTRY(vkCreateBuffer, create_buffer),
      ENTRY(vkCreateCommandPool, create_pool),
      ENTRY(vkCreateDevice, create_device),
      ENTRY(vkCreateFence, create_fence),
      ENTRY(vkCreateInstance, create_instance),
      ENTRY(vkCreateSemaphore, create_semaphore),
      ENTRY(vkDestroyBuffer, destroy_buffer),
      ENTRY(vkDestroyCommandPool, destroy_pool),
      ENTRY(vkDestroyDevice, destroy_device),
      ENTRY(vkDestroyFence, destroy_fence),
      ENTRY(vkDestroyInstance, destroy_instance),
      ENTRY(vkDestroySemaphore, destroy_semaphore),
      ENTRY(vkEndCommandBuffer, end),
      ENTRY(vkEnumerateDeviceExtensionProperties, enumerate_extensions),
      ENTRY(vkEnumeratePhysicalDevices, enumerate_devices),
      ENTRY(vkFreeMemory, free_memory),
      ENTRY(vkGetBufferMemoryRequirements2, requirements),
      ENTRY(vkGetDeviceProcAddr, get_device_proc),
      ENTRY(vkGetDeviceQueue, get_queue),
      ENTRY(vkGetMemoryFdKHR, get_memory_fd),
      ENTRY(vkGetMemoryFdPropertiesKHR, fd_properties),
      ENTRY(vkGetPhysicalDeviceExternalBufferProperties, external_buffers),
      ENTRY(vkGetPhysicalDeviceExternalSemaphoreProperties, external_semaphores),
      ENTRY(vkGetPhysicalDeviceMemoryProperties, memory_properties),
      ENTRY(vkGetPhysicalDeviceProperties, properties),
      ENTRY(vkGetPhysicalDeviceQueueFamilyProperties, queue_families),
      ENTRY(vkGetSemaphoreFdKHR, get_semaphore_fd),
      ENTRY(vkImportSemaphoreFdKHR, import_semaphore),
      ENTRY(vkMapMemory, map_memory),
      ENTRY(vkQueueSubmit, submit),
      ENTRY(vkResetCommandPool, reset_pool),
      ENTRY(vkResetFences, reset_fences),
      ENTRY(vkWaitForFences, wait_for_fences),
  };
  return functions;
}

#undef ENTRY

auto find(const char* name) -> PFN_vkVoidFunction {
  if (me().absent.contains(name)) return nullptr;
  const auto found = table().find(name);
  return found != table().end() ? found->second : nullptr;
}

PFN_vkVoidFunction VKAPI_CALL get_device_proc(VkDevice, const char* name) {
  return find(name);
}
PFN_vkVoidFunction VKAPI_CALL get_instance_proc(VkInstance, const char* name) {
  return find(name);
}

}  // namespace

vulkan_double::vulkan_double() {
  the_double = this;
}

vulkan_double::~vulkan_double() {
  for (const auto& [handle, kind] : live_) ADD_FAILURE() << "a " << kind << " is left over";
  the_double = nullptr;
}

auto vulkan_double::current() -> vulkan_double& {
  return *the_double;
}

auto vulkan_double::loader() -> PFN_vkGetInstanceProcAddr {
  return get_instance_proc;
}

auto vulkan_double::handles() -> vulkan_handles {
  vulkan_handles theirs;
  theirs.get_instance_proc_addr = loader();
  theirs.instance = reinterpret_cast<VkInstance>(std::uintptr_t{0x11});
  theirs.physical_device = reinterpret_cast<VkPhysicalDevice>(std::uintptr_t{1});
  theirs.device = reinterpret_cast<VkDevice>(std::uintptr_t{0x22});
  theirs.queue_family = 1;
  return theirs;
}

auto vulkan_double::count(const std::string& call) const -> std::ptrdiff_t {
  return std::ranges::count(calls, call);
}

auto vulkan_double::call(const std::string& name) -> VkResult {
  calls.push_back(name);
  const auto found = results.find(name);
  return found != results.end() ? found->second : VK_SUCCESS;
}

auto vulkan_double::make(const std::string& kind) -> void* {
  auto* const handle = reinterpret_cast<void*>(next_++);
  live_.emplace(handle, kind);
  return handle;
}

void vulkan_double::destroy(const std::string& kind, void* handle) {
  calls.push_back("destroy " + kind);
  const auto found = live_.find(handle);
  ASSERT_NE(found, live_.end()) << "there is no such " << kind;
  EXPECT_EQ(found->second, kind);
  live_.erase(found);
}

}  // namespace dmabridge::test

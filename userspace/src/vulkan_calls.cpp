// SPDX-License-Identifier: MIT
#include "vulkan_calls.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include "dmabridge/error.hpp"

namespace dmabridge {

auto vulkan_calls::find(PFN_vkGetInstanceProcAddr loader, VkInstance instance)
    -> std::vector<std::string> {
  std::vector<std::string> missing;
#define DMABRIDGE_FIND(name)                                    \
  name = reinterpret_cast<PFN_##name>(loader(instance, #name)); \
  if (name == nullptr) missing.emplace_back(#name);
  DMABRIDGE_VULKAN_INSTANCE_CALLS(DMABRIDGE_FIND)
#undef DMABRIDGE_FIND
  return missing;
}

auto vulkan_calls::find(VkDevice device) -> std::vector<std::string> {
  std::vector<std::string> missing;
#define DMABRIDGE_LOOK(name) \
  name = reinterpret_cast<PFN_##name>(vkGetDeviceProcAddr(device, #name));
#define DMABRIDGE_FIND(name) \
  DMABRIDGE_LOOK(name)       \
  if (name == nullptr) missing.emplace_back(#name);
  DMABRIDGE_VULKAN_DEVICE_CALLS(DMABRIDGE_FIND)
  DMABRIDGE_VULKAN_SEMAPHORE_CALLS(DMABRIDGE_LOOK)
#undef DMABRIDGE_FIND
#undef DMABRIDGE_LOOK
  return missing;
}

auto open_vulkan_loader(const char* file) -> PFN_vkGetInstanceProcAddr {
  error_details details{.kind = error_kind::system,
                        .attempted = fmt::format("open the Vulkan loader {}", file),
                        .remedies = {"install it, and a driver: on Debian the packages libvulkan1 "
                                     "and mesa-vulkan-drivers, or the GPU vendor's"}};
  void* const library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    details.detail = ::dlerror();
    throw error(std::move(details));
  }
  void* const found = ::dlsym(library, "vkGetInstanceProcAddr");
  if (found == nullptr) {
    details.detail = "it has no vkGetInstanceProcAddr";
    throw error(std::move(details));
  }
  return reinterpret_cast<PFN_vkGetInstanceProcAddr>(found);
}

}  // namespace dmabridge

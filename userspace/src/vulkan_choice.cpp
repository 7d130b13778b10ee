// SPDX-License-Identifier: MIT
#include "vulkan_choice.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/vulkan_memory.hpp"
#include "vulkan_result.hpp"
#include "vulkan_state.hpp"

namespace dmabridge {
namespace {

auto version_text(std::uint32_t version) -> std::string {
  return fmt::format("{}.{}", VK_API_VERSION_MAJOR(version), VK_API_VERSION_MINOR(version));
}

// An array that Vulkan gives: its length first, then itself, and again if it has grown meanwhile.
// `ask` has Vulkan's last two parameters for that.
template <typename Element, typename Ask>
auto all_of(Ask ask, const char* call, const char* attempted) -> std::vector<Element> {
  std::vector<Element> found;
  VkResult result = VK_INCOMPLETE;
  while (result == VK_INCOMPLETE) {
    std::uint32_t count = 0;
    result = ask(&count, static_cast<Element*>(nullptr));
    if (result != VK_SUCCESS) break;
    found.resize(count);
    result = ask(&count, found.data());
    found.resize(count);
  }
  vulkan_check(result, call, attempted);
  return found;
}

auto extensions_of(const vulkan_calls& calls, VkPhysicalDevice device) -> std::set<std::string> {
  const auto found = all_of<VkExtensionProperties>(
      [&](auto* count, auto* into) {
        return calls.vkEnumerateDeviceExtensionProperties(device, nullptr, count, into);
      },
      "vkEnumerateDeviceExtensionProperties", "ask a Vulkan device for its extensions");
  std::set<std::string> names;
  for (const auto& extension : found) names.emplace(extension.extensionName);
  return names;
}

auto computing_family(const vulkan_calls& calls, VkPhysicalDevice device)
    -> std::optional<std::uint32_t> {
  std::uint32_t count = 0;
  calls.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  calls.vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  for (std::uint32_t i = 0; i < count; ++i) {
    if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) != 0) return i;
  }
  return {};
}

auto devices_of(const vulkan_calls& calls, VkInstance instance) -> std::vector<VkPhysicalDevice> {
  return all_of<VkPhysicalDevice>(
      [&](auto* count, auto* into) {
        return calls.vkEnumeratePhysicalDevices(instance, count, into);
      },
      "vkEnumeratePhysicalDevices", "find the Vulkan devices of this machine");
}

// Lower is better.
auto rank(VkPhysicalDeviceType type) -> std::size_t {
  constexpr auto best_first =
      std::to_array({VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU, VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU,
                     VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU, VK_PHYSICAL_DEVICE_TYPE_CPU});
  return static_cast<std::size_t>(std::ranges::find(best_first, type) - best_first.begin());
}

auto unsuitability(const vulkan_candidate& device, const vulkan_wish& wanted)
    -> std::vector<std::string> {
  auto reasons = shortcomings(device);
  if (device.name.find(wanted.name) == std::string::npos) {
    reasons.push_back(fmt::format("its name does not contain \"{}\"", wanted.name));
  }
  if (!device.queue_family) reasons.emplace_back("it has no queue family that computes");
  VkExternalMemoryFeatureFlags needed = VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT;
  if (wanted.exports) needed |= VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT;
  // Without the extensions nobody was asked.
  if (const auto lacking = needed & ~device.features;
      lacking != 0 && shortcomings(device).empty()) {
    reasons.push_back(fmt::format("its buffers as dma-bufs are not {} (they are: {})",
                                  describe_features(lacking), describe_features(device.features)));
  }
  return reasons;
}

void add_remedies(const vulkan_candidate& device, const vulkan_wish& wanted,
                  std::vector<std::string>& remedies) {
  if (!wanted.exports || !shortcomings(device).empty() ||
      (device.features & VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT) != 0) {
    return;
  }
  for (auto& remedy : export_remedies(device.type)) {
    if (std::ranges::find(remedies, remedy) == remedies.end()) {
      remedies.push_back(std::move(remedy));
    }
  }
}

}  // namespace

auto look_at(const vulkan_calls& calls, VkPhysicalDevice device) -> vulkan_candidate {
  VkPhysicalDeviceProperties properties{};
  calls.vkGetPhysicalDeviceProperties(device, &properties);
  vulkan_candidate found{.handle = device,
                         .name = properties.deviceName,
                         .type = properties.deviceType,
                         .version = properties.apiVersion,
                         .extensions = extensions_of(calls, device),
                         .queue_family = computing_family(calls, device)};
  if (shortcomings(found).empty()) {
    found.features = buffer_features(calls, device, vulkan_any_use);
  }
  return found;
}

auto buffer_features(const vulkan_calls& calls, VkPhysicalDevice device, VkBufferUsageFlags usage)
    -> VkExternalMemoryFeatureFlags {
  const VkPhysicalDeviceExternalBufferInfo asked{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_BUFFER_INFO,
      .pNext = nullptr,
      .flags = 0,
      .usage = usage,
      .handleType = vulkan_dmabuf};
  VkExternalBufferProperties answer{};
  answer.sType = VK_STRUCTURE_TYPE_EXTERNAL_BUFFER_PROPERTIES;
  calls.vkGetPhysicalDeviceExternalBufferProperties(device, &asked, &answer);
  return answer.externalMemoryProperties.externalMemoryFeatures;
}

auto shortcomings(const vulkan_candidate& device) -> std::vector<std::string> {
  std::vector<std::string> reasons;
  if (device.version < VK_API_VERSION_1_1) {
    reasons.push_back(
        fmt::format("it has Vulkan {}, and 1.1 is needed", version_text(device.version)));
  }
  for (const auto* name :
       {VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME, VK_EXT_EXTERNAL_MEMORY_DMA_BUF_EXTENSION_NAME}) {
    if (!device.extensions.contains(name)) reasons.push_back(fmt::format("it lacks {}", name));
  }
  return reasons;
}

auto choose(const vulkan_calls& calls, VkInstance instance, const vulkan_wish& wanted)
    -> vulkan_candidate {
  std::optional<vulkan_candidate> best;
  std::vector<std::string> rejected, remedies;
  for (auto* const handle : devices_of(calls, instance)) {
    auto device = look_at(calls, handle);
    const auto reasons = unsuitability(device, wanted);
    if (!reasons.empty()) {
      rejected.push_back(fmt::format("\n  {}: {}", device.name, fmt::join(reasons, "; ")));
      add_remedies(device, wanted, remedies);
    } else if (!best || rank(device.type) < rank(best->type)) {
      best = std::move(device);
    }
  }
  if (best) return std::move(*best);
  if (rejected.empty()) {
    remedies.emplace_back(
        "install a driver: the GPU vendor's, or mesa-vulkan-drivers, which has "
        "one that needs no GPU");
  }
  throw error({.kind = error_kind::system,
               .attempted = fmt::format("find a Vulkan device that shares memory by dma-buf{}",
                                        wanted.exports ? ", and exports its own" : ""),
               .detail = rejected.empty() ? std::string("this machine has no Vulkan device")
                                          : fmt::format("none will do{}", fmt::join(rejected, "")),
               .remedies = std::move(remedies)});
}

auto describe_features(VkExternalMemoryFeatureFlags features) -> std::string {
  std::vector<std::string> names;
  if ((features & VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT) != 0) names.emplace_back("EXPORTABLE");
  if ((features & VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT) != 0) names.emplace_back("IMPORTABLE");
  if ((features & VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT) != 0) {
    names.emplace_back("DEDICATED_ONLY");
  }
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

auto export_remedies(VkPhysicalDeviceType type) -> std::vector<std::string> {
  std::vector<std::string> remedies;
  if (type == VK_PHYSICAL_DEVICE_TYPE_CPU) {
    remedies.emplace_back(
        "this driver computes by the CPU, and exports by way of udmabuf: modprobe "
        "udmabuf, and let this user open /dev/udmabuf (group kvm as a rule)");
  }
  remedies.emplace_back(
      "or allocate a dma-buf elsewhere (a region, udmabuf, dma-heap), and import "
      "it into the device");
  return remedies;
}

}  // namespace dmabridge

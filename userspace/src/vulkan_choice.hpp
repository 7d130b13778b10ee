// SPDX-License-Identifier: MIT
// Which of a machine's Vulkan devices will do, and why the others will not.
#pragma once

#include <vulkan/vulkan_core.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "dmabridge/vulkan_device.hpp"
#include "vulkan_calls.hpp"

namespace dmabridge {

// What a physical device says of itself.
struct vulkan_candidate {
  VkPhysicalDevice handle = VK_NULL_HANDLE;
  std::string name;
  VkPhysicalDeviceType type = VK_PHYSICAL_DEVICE_TYPE_OTHER;
  std::uint32_t version = 0;
  std::set<std::string> extensions;
  std::optional<std::uint32_t> queue_family;  // the first that computes
  // Of a buffer of vulkan_any_use as dma-buf; none if the extensions for that are missing.
  VkExternalMemoryFeatureFlags features = 0;
};

auto look_at(const vulkan_calls& calls, VkPhysicalDevice device) -> vulkan_candidate;

// What a buffer with that usage can do as a dma-buf. The device has no shortcomings.
auto buffer_features(const vulkan_calls& calls, VkPhysicalDevice device, VkBufferUsageFlags usage)
    -> VkExternalMemoryFeatureFlags;

// What is in the way of sharing memory at all; empty: nothing.
auto shortcomings(const vulkan_candidate& device) -> std::vector<std::string>;

// The best device that does as wanted. Throws dmabridge::error, which says of every device what is
// in the way.
auto choose(const vulkan_calls& calls, VkInstance instance, const vulkan_wish& wanted)
    -> vulkan_candidate;

// "EXPORTABLE, IMPORTABLE"; "none"
auto describe_features(VkExternalMemoryFeatureFlags features) -> std::string;

// What helps a device that cannot export, if anything does.
auto export_remedies(VkPhysicalDeviceType type) -> std::vector<std::string>;

}  // namespace dmabridge

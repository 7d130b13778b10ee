// SPDX-License-Identifier: MIT
#include "dmabridge/vulkan_device.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "vulkan_choice.hpp"
#include "vulkan_result.hpp"
#include "vulkan_state.hpp"

namespace dmabridge {
namespace {

constexpr std::array needed_extensions{VK_KHR_EXTERNAL_MEMORY_FD_EXTENSION_NAME,
                                       VK_EXT_EXTERNAL_MEMORY_DMA_BUF_EXTENSION_NAME,
                                       VK_KHR_EXTERNAL_SEMAPHORE_FD_EXTENSION_NAME};
constexpr auto loader_file = "libvulkan.so.1";
constexpr auto attempted_use = "use a Vulkan device";

[[noreturn]] void refuse(error_kind kind, const std::string& device,
                         const std::vector<std::string>& reasons,
                         std::vector<std::string> remedies) {
  throw error({.kind = kind,
               .attempted =
                   device.empty() ? attempted_use : fmt::format("use the Vulkan device {}", device),
               .detail = fmt::format("{}", fmt::join(reasons, "; ")),
               .remedies = std::move(remedies)});
}

void check_handles(const vulkan_handles& theirs) {
  std::vector<std::string> missing;
  if (theirs.get_instance_proc_addr == nullptr) {
    missing.emplace_back("get_instance_proc_addr is null");
  }
  if (theirs.instance == VK_NULL_HANDLE) missing.emplace_back("instance is null");
  if (theirs.physical_device == VK_NULL_HANDLE) missing.emplace_back("physical_device is null");
  if (theirs.device == VK_NULL_HANDLE) missing.emplace_back("device is null");
  if (!missing.empty()) refuse(error_kind::usage, {}, missing, {"fill in all of vulkan_handles"});
}

}  // namespace

auto vulkan_state::adopt(const vulkan_handles& theirs) -> std::shared_ptr<const vulkan_state> {
  check_handles(theirs);
  auto state = std::make_shared<vulkan_state>();
  state->handles_ = theirs;
  state->find_instance_calls();
  state->find_device_calls(look_at(state->calls_, theirs.physical_device));
  return state;
}

auto vulkan_state::open(const vulkan_wish& wanted) -> std::shared_ptr<const vulkan_state> {
  auto state = std::make_shared<vulkan_state>();
  state->ours_ = true;
  state->handles_.queue_mutex = &state->own_mutex_;
  state->make_instance(wanted.get_instance_proc_addr != nullptr ? wanted.get_instance_proc_addr
                                                                : open_vulkan_loader(loader_file));
  state->find_instance_calls();
  const auto chosen = choose(state->calls_, state->handles_.instance, wanted);
  state->make_device(chosen);
  state->find_device_calls(chosen);
  return state;
}

vulkan_state::~vulkan_state() {
  if (!ours_) return;
  if (calls_.vkDestroyDevice != nullptr && handles_.device != VK_NULL_HANDLE) {
    calls_.vkDestroyDevice(handles_.device, nullptr);
  }
  if (calls_.vkDestroyInstance != nullptr) calls_.vkDestroyInstance(handles_.instance, nullptr);
}

void vulkan_state::make_instance(PFN_vkGetInstanceProcAddr loader) {
  constexpr auto attempted = "start Vulkan";
  const auto create =
      reinterpret_cast<PFN_vkCreateInstance>(loader(VK_NULL_HANDLE, "vkCreateInstance"));
  if (create == nullptr) {
    throw error({.kind = error_kind::system,
                 .attempted = attempted,
                 .detail = "the loader has no vkCreateInstance"});
  }
  const VkApplicationInfo application{.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                      .pNext = nullptr,
                                      .pApplicationName = "libdmabridge",
                                      .applicationVersion = 0,
                                      .pEngineName = nullptr,
                                      .engineVersion = 0,
                                      .apiVersion = VK_API_VERSION_1_1};
  VkInstanceCreateInfo wanted{};
  wanted.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  wanted.pApplicationInfo = &application;
  const auto result = create(&wanted, nullptr, &handles_.instance);
  if (result != VK_SUCCESS) {
    throw vulkan_failure(attempted, "vkCreateInstance", result,
                         {"install a driver: the GPU vendor's, or mesa-vulkan-drivers, which has "
                          "one that needs no GPU; vulkaninfo --summary shows what there is"});
  }
  handles_.get_instance_proc_addr = loader;
}

void vulkan_state::find_instance_calls() {
  const auto missing = calls_.find(handles_.get_instance_proc_addr, handles_.instance);
  if (missing.empty()) return;
  refuse(error_kind::usage, {}, {fmt::format("its instance has no {}", fmt::join(missing, ", "))},
         {"make the instance with VkApplicationInfo::apiVersion 1.1 or later"});
}

void vulkan_state::make_device(const vulkan_candidate& chosen) {
  handles_.physical_device = chosen.handle;
  handles_.queue_family = *chosen.queue_family;
  handles_.foreign_queue_family =
      chosen.extensions.contains(VK_EXT_QUEUE_FAMILY_FOREIGN_EXTENSION_NAME);
  std::vector<const char*> extensions;
  for (const auto* name : needed_extensions) {
    if (chosen.extensions.contains(name)) extensions.push_back(name);
  }
  if (handles_.foreign_queue_family) {
    extensions.push_back(VK_EXT_QUEUE_FAMILY_FOREIGN_EXTENSION_NAME);
  }
  const float priority = 1;
  VkDeviceQueueCreateInfo queue{};
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = handles_.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  VkDeviceCreateInfo wanted{};
  wanted.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  wanted.queueCreateInfoCount = 1;
  wanted.pQueueCreateInfos = &queue;
  wanted.enabledExtensionCount = static_cast<std::uint32_t>(extensions.size());
  wanted.ppEnabledExtensionNames = extensions.data();
  vulkan_check(calls_.vkCreateDevice(chosen.handle, &wanted, nullptr, &handles_.device),
               "vkCreateDevice", fmt::format("open the Vulkan device {}", chosen.name));
}

void vulkan_state::find_device_calls(const vulkan_candidate& chosen) {
  name_ = chosen.name;
  type_ = chosen.type;
  auto reasons = shortcomings(chosen);
  const auto kind = reasons.empty() ? error_kind::usage : error_kind::system;
  std::vector<std::string> remedies;
  if (!reasons.empty()) {
    remedies.emplace_back("use another device, or a newer driver");
  }
  const auto missing = calls_.find(handles_.device);
  if (!missing.empty()) {
    reasons.push_back(fmt::format("there is no {}", fmt::join(missing, ", ")));
    remedies.push_back(fmt::format("make the VkDevice with {} enabled",
                                   fmt::join(std::span(needed_extensions).first(2), " and ")));
  }
  if (!reasons.empty()) refuse(kind, name_, reasons, std::move(remedies));
  calls_.vkGetDeviceQueue(handles_.device, handles_.queue_family, handles_.queue_index, &queue_);
}

void vulkan_state::submit(const VkSubmitInfo& work, VkFence done) const {
  const std::lock_guard lock(handles_.queue_mutex != nullptr ? *handles_.queue_mutex : own_mutex_);
  vulkan_check(calls_.vkQueueSubmit(queue_, 1, &work, done), "vkQueueSubmit",
               fmt::format("give work to the Vulkan device {}", name_));
}

auto vulkan_device::extensions() noexcept -> std::span<const char* const> {
  return needed_extensions;
}

vulkan_device::vulkan_device(const vulkan_handles& theirs) : state_(vulkan_state::adopt(theirs)) {}

vulkan_device::vulkan_device(std::shared_ptr<const vulkan_state> state) noexcept
    : state_(std::move(state)) {}

auto vulkan_device::open(const vulkan_wish& wanted) -> vulkan_device {
  return vulkan_device(vulkan_state::open(wanted));
}

auto vulkan_device::handles() const noexcept -> const vulkan_handles& {
  return state_->handles();
}

auto vulkan_device::name() const noexcept -> const std::string& {
  return state_->name();
}

auto vulkan_device::others() const noexcept -> std::uint32_t {
  return state_->others();
}

}  // namespace dmabridge

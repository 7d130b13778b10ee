// SPDX-License-Identifier: MIT
#include "dmabridge/vulkan_semaphore.hpp"

#include <fmt/format.h>
#include <linux/sync_file.h>

#include <string>
#include <utility>

#include "dmabridge/error.hpp"
#include "system_calls.hpp"
#include "vulkan_result.hpp"
#include "vulkan_state.hpp"

namespace dmabridge {
namespace {

constexpr auto sync_file_type = VK_EXTERNAL_SEMAPHORE_HANDLE_TYPE_SYNC_FD_BIT;

// That the device can do this with sync files, and has what it takes.
void check_can(const vulkan_state& device, VkExternalSemaphoreFeatureFlagBits what,
               const std::string& attempted) {
  if (device.calls().vkGetSemaphoreFdKHR == nullptr ||
      device.calls().vkImportSemaphoreFdKHR == nullptr) {
    throw error({.kind = error_kind::usage,
                 .attempted = attempted,
                 .detail = "the device has no vkGetSemaphoreFdKHR and vkImportSemaphoreFdKHR",
                 .remedies = {"make the VkDevice with VK_KHR_external_semaphore_fd enabled; if the "
                              "driver lacks it, wait for the fences on the CPU"}});
  }
  const VkPhysicalDeviceExternalSemaphoreInfo asked{
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_SEMAPHORE_INFO,
      .pNext = nullptr,
      .handleType = sync_file_type};
  VkExternalSemaphoreProperties answer{};
  answer.sType = VK_STRUCTURE_TYPE_EXTERNAL_SEMAPHORE_PROPERTIES;
  device.calls().vkGetPhysicalDeviceExternalSemaphoreProperties(device.handles().physical_device,
                                                                &asked, &answer);
  if ((answer.externalSemaphoreFeatures & static_cast<unsigned>(what)) != 0) return;
  throw error(
      {.kind = error_kind::system,
       .attempted = attempted,
       .detail = fmt::format(
           "its semaphores as sync files are not {}",
           what == VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT ? "EXPORTABLE" : "IMPORTABLE"),
       .remedies = {"wait on the CPU instead: for a VkFence, or by poll() for the sync file"}});
}

// Drivers need not look: Mesa's llvmpipe takes any fd, and never waits for it.
void check_is_sync_file(const fd& given, const std::string& attempted) {
  sync_file_info info{};
  const auto result = given ? sys().ioctl(given.get(), SYNC_IOC_FILE_INFO, &info) : 0;
  if (result == 0) return;
  throw error({.kind = error_kind::usage,
               .attempted = attempted,
               .code = -result,
               .detail = "it is no sync file",
               .remedies = {"give the fd that DMA_BUF_IOCTL_EXPORT_SYNC_FILE or another API's "
                            "export of a fence gave"}});
}

auto make(const std::shared_ptr<const vulkan_state>& device, const void* next,
          const std::string& attempted) -> vulkan_semaphore_object {
  const VkSemaphoreCreateInfo wanted{
      .sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = next, .flags = 0};
  VkSemaphore made = VK_NULL_HANDLE;
  vulkan_check(device->calls().vkCreateSemaphore(device->device(), &wanted, nullptr, &made),
               "vkCreateSemaphore", attempted);
  return {device, made};
}

}  // namespace

struct vulkan_semaphore::parts {
  std::shared_ptr<const vulkan_state> device;
  vulkan_semaphore_object semaphore;
};

vulkan_semaphore::vulkan_semaphore(const vulkan_device& device) {
  const auto attempted =
      fmt::format("make a semaphore of the Vulkan device {} for export", device.name());
  check_can(*device.state(), VK_EXTERNAL_SEMAPHORE_FEATURE_EXPORTABLE_BIT, attempted);
  const VkExportSemaphoreCreateInfo exported{
      .sType = VK_STRUCTURE_TYPE_EXPORT_SEMAPHORE_CREATE_INFO,
      .pNext = nullptr,
      .handleTypes = sync_file_type};
  parts_ = std::make_unique<parts>(device.state(), make(device.state(), &exported, attempted));
}

vulkan_semaphore::vulkan_semaphore(const vulkan_device& device, fd sync_file) {
  const auto attempted = fmt::format("import fd {}, a sync file, into the Vulkan device {}",
                                     sync_file.get(), device.name());
  check_can(*device.state(), VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT, attempted);
  check_is_sync_file(sync_file, attempted);
  parts_ = std::make_unique<parts>(device.state(), make(device.state(), nullptr, attempted));
  // A sync file can be imported for one wait only.
  const VkImportSemaphoreFdInfoKHR wanted{.sType = VK_STRUCTURE_TYPE_IMPORT_SEMAPHORE_FD_INFO_KHR,
                                          .pNext = nullptr,
                                          .semaphore = parts_->semaphore.get(),
                                          .flags = VK_SEMAPHORE_IMPORT_TEMPORARY_BIT,
                                          .handleType = sync_file_type,
                                          .fd = sync_file.get()};
  const auto& state = *parts_->device;
  const auto result = state.calls().vkImportSemaphoreFdKHR(state.device(), &wanted);
  if (result != VK_SUCCESS) {
    throw vulkan_failure(attempted, "vkImportSemaphoreFdKHR", result);
  }
  sync_file.release();  // an import that succeeds takes it
}

vulkan_semaphore::vulkan_semaphore(vulkan_semaphore&&) noexcept = default;
auto vulkan_semaphore::operator=(vulkan_semaphore&&) noexcept -> vulkan_semaphore& = default;
vulkan_semaphore::~vulkan_semaphore() = default;

auto vulkan_semaphore::handle() const noexcept -> VkSemaphore {
  return parts_->semaphore.get();
}

auto vulkan_semaphore::export_sync_file() const -> fd {
  const auto& state = *parts_->device;
  const VkSemaphoreGetFdInfoKHR wanted{.sType = VK_STRUCTURE_TYPE_SEMAPHORE_GET_FD_INFO_KHR,
                                       .pNext = nullptr,
                                       .semaphore = handle(),
                                       .handleType = sync_file_type};
  int descriptor = -1;
  vulkan_check(state.calls().vkGetSemaphoreFdKHR(state.device(), &wanted, &descriptor),
               "vkGetSemaphoreFdKHR",
               fmt::format("export a semaphore of the Vulkan device {}", state.name()));
  return fd(descriptor);
}

}  // namespace dmabridge

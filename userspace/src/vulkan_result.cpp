// SPDX-License-Identifier: MIT
#include "vulkan_result.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

namespace dmabridge {
namespace {

struct known_result {
  VkResult code;
  std::string_view name;
  std::string_view text;
};

#define DMABRIDGE_RESULT(name, text) \
  known_result {                     \
    name, #name, text                \
  }

// Those that the functions of vulkan_calls may give.
constexpr auto known_results = std::to_array<known_result>({
    DMABRIDGE_RESULT(VK_SUCCESS, ""),
    DMABRIDGE_RESULT(VK_NOT_READY, "not finished yet"),
    DMABRIDGE_RESULT(VK_TIMEOUT, "not finished in time"),
    DMABRIDGE_RESULT(VK_INCOMPLETE, "there was more to tell than asked for"),
    DMABRIDGE_RESULT(VK_ERROR_OUT_OF_HOST_MEMORY, "the host has no memory left"),
    DMABRIDGE_RESULT(VK_ERROR_OUT_OF_DEVICE_MEMORY, "the device has no memory left"),
    DMABRIDGE_RESULT(VK_ERROR_INITIALIZATION_FAILED, "a driver failed to start"),
    DMABRIDGE_RESULT(VK_ERROR_DEVICE_LOST, "the device has hung or is gone"),
    DMABRIDGE_RESULT(VK_ERROR_MEMORY_MAP_FAILED, "the CPU cannot map this memory"),
    DMABRIDGE_RESULT(VK_ERROR_LAYER_NOT_PRESENT, "a layer is not installed"),
    DMABRIDGE_RESULT(VK_ERROR_EXTENSION_NOT_PRESENT, "an extension is not supported"),
    DMABRIDGE_RESULT(VK_ERROR_FEATURE_NOT_PRESENT, "a feature is not supported"),
    DMABRIDGE_RESULT(VK_ERROR_INCOMPATIBLE_DRIVER, "no driver is installed that will do"),
    DMABRIDGE_RESULT(VK_ERROR_TOO_MANY_OBJECTS, "too many objects of this kind"),
    DMABRIDGE_RESULT(VK_ERROR_UNKNOWN, "the driver does not say what is wrong"),
    DMABRIDGE_RESULT(VK_ERROR_OUT_OF_POOL_MEMORY, "the pool has no memory left"),
    DMABRIDGE_RESULT(VK_ERROR_INVALID_EXTERNAL_HANDLE, "the driver does not take this fd"),
    DMABRIDGE_RESULT(VK_ERROR_INVALID_OPAQUE_CAPTURE_ADDRESS, "the address is in use"),
    DMABRIDGE_RESULT(VK_ERROR_NOT_PERMITTED, "not permitted"),
    DMABRIDGE_RESULT(VK_ERROR_VALIDATION_FAILED_EXT, "a validation layer objects"),
});

#undef DMABRIDGE_RESULT

auto find_known(VkResult result) -> const known_result* {
  const auto found = std::ranges::find(known_results, result, &known_result::code);
  return found != known_results.end() ? &*found : nullptr;
}

}  // namespace

auto vulkan_result_name(VkResult result) -> std::string {
  const auto* known = find_known(result);
  return fmt::format("{} ({})", known != nullptr ? known->name : "VkResult",
                     static_cast<int>(result));
}

auto vulkan_failure(std::string attempted, const char* call, VkResult result,
                    std::vector<std::string> remedies) -> error {
  auto detail = fmt::format("{} gave {}", call, vulkan_result_name(result));
  if (const auto* known = find_known(result); known != nullptr) {
    detail += fmt::format(", {}", known->text);
  }
  return error({.kind = result == VK_ERROR_DEVICE_LOST ? error_kind::io : error_kind::system,
                .attempted = std::move(attempted),
                .detail = std::move(detail),
                .remedies = std::move(remedies)});
}

void vulkan_check(VkResult result, const char* call, const std::string& attempted) {
  if (result != VK_SUCCESS) throw vulkan_failure(attempted, call, result);
}

}  // namespace dmabridge

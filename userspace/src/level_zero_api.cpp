// SPDX-License-Identifier: MIT
#include "level_zero_api.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace dmabridge {
namespace {

using namespace level_zero;

// The loader has no call for it that old versions have too.
struct named_result {
  ze_result_t result;
  std::string_view name;
  std::string_view remedy;
};
constexpr auto names = std::to_array<named_result>({
    {ZE_RESULT_ERROR_DEVICE_LOST, "ZE_RESULT_ERROR_DEVICE_LOST",
     "see the kernel's log for what happened to the GPU: dmesg"},
    {ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY, "ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY", ""},
    {ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY, "ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
     "ask for less; if there should be room, the driver also says this when a dma-buf cannot be "
     "made: see the kernel's log (dmesg)"},
    {ZE_RESULT_ERROR_INSUFFICIENT_PERMISSIONS, "ZE_RESULT_ERROR_INSUFFICIENT_PERMISSIONS",
     "let this user open /dev/dri/renderD*: add it to the group render"},
    {ZE_RESULT_ERROR_NOT_AVAILABLE, "ZE_RESULT_ERROR_NOT_AVAILABLE", ""},
    {ZE_RESULT_ERROR_DEPENDENCY_UNAVAILABLE, "ZE_RESULT_ERROR_DEPENDENCY_UNAVAILABLE",
     "install the packages that Intel's GPU driver for Level Zero needs"},
    {ZE_RESULT_ERROR_UNINITIALIZED, "ZE_RESULT_ERROR_UNINITIALIZED",
     "install a driver beside the loader (Intel's compute runtime, libze_intel_gpu.so.1), and let "
     "this user open /dev/dri/renderD*: add it to the group render"},
    {ZE_RESULT_ERROR_UNSUPPORTED_VERSION, "ZE_RESULT_ERROR_UNSUPPORTED_VERSION",
     "install loader and driver of about the same age"},
    {ZE_RESULT_ERROR_UNSUPPORTED_FEATURE, "ZE_RESULT_ERROR_UNSUPPORTED_FEATURE", ""},
    {ZE_RESULT_ERROR_INVALID_ARGUMENT, "ZE_RESULT_ERROR_INVALID_ARGUMENT", ""},
    {ZE_RESULT_ERROR_INVALID_NULL_HANDLE, "ZE_RESULT_ERROR_INVALID_NULL_HANDLE", ""},
    {ZE_RESULT_ERROR_INVALID_NULL_POINTER, "ZE_RESULT_ERROR_INVALID_NULL_POINTER", ""},
    {ZE_RESULT_ERROR_INVALID_SIZE, "ZE_RESULT_ERROR_INVALID_SIZE", ""},
    {ZE_RESULT_ERROR_UNSUPPORTED_SIZE, "ZE_RESULT_ERROR_UNSUPPORTED_SIZE",
     "ask for less: the driver limits single allocations (maxMemAllocSize)"},
    {ZE_RESULT_ERROR_INVALID_ENUMERATION, "ZE_RESULT_ERROR_INVALID_ENUMERATION", ""},
    {ZE_RESULT_ERROR_UNSUPPORTED_ENUMERATION, "ZE_RESULT_ERROR_UNSUPPORTED_ENUMERATION", ""},
    {ZE_RESULT_ERROR_UNKNOWN, "ZE_RESULT_ERROR_UNKNOWN", ""},
});

auto find_name(ze_result_t result) -> const named_result* {
  const auto found = std::ranges::find(names, result, &named_result::result);
  return found != names.end() ? &*found : nullptr;
}

}  // namespace

level_zero_api::level_zero_api()
    : library_({.what = "the Level Zero loader",
                .names = {"libze_loader.so.1"},
                .remedy_missing = "install the Level Zero loader (Debian: libze1) and Intel's GPU "
                                  "driver for it",
                .remedy_old = "install a newer Level Zero loader"}) {
  library_.find("zeInit", zeInit);
  library_.find("zeDriverGet", zeDriverGet);
  library_.find("zeDeviceGet", zeDeviceGet);
  library_.find("zeDeviceGetProperties", zeDeviceGetProperties);
  library_.find("zeDeviceGetExternalMemoryProperties", zeDeviceGetExternalMemoryProperties);
  library_.find("zeDeviceGetCommandQueueGroupProperties", zeDeviceGetCommandQueueGroupProperties);
  library_.find("zeContextCreate", zeContextCreate);
  library_.find("zeContextDestroy", zeContextDestroy);
  library_.find("zeMemAllocDevice", zeMemAllocDevice);
  library_.find("zeMemAllocHost", zeMemAllocHost);
  library_.find("zeMemFree", zeMemFree);
  library_.find("zeMemGetAllocProperties", zeMemGetAllocProperties);
  library_.find("zeMemGetAddressRange", zeMemGetAddressRange);
  library_.find("zeCommandListCreateImmediate", zeCommandListCreateImmediate);
  library_.find("zeCommandListDestroy", zeCommandListDestroy);
  library_.find("zeCommandListAppendMemoryCopy", zeCommandListAppendMemoryCopy);
  check("use Level Zero", "zeInit", zeInit(0));
}

auto level_zero_api::text(ze_result_t result) -> std::string {
  const auto* known = find_name(result);
  return fmt::format("{} ({:#x})", known != nullptr ? known->name : "ze_result_t", result);
}

void level_zero_api::check(const char* attempted, const char* call, ze_result_t result,
                           error_kind kind) {
  if (result == ZE_RESULT_SUCCESS) return;
  error_details details{
      .kind = kind, .attempted = attempted, .detail = fmt::format("{}: {}", call, text(result))};
  const auto* known = find_name(result);
  if (known != nullptr && !known->remedy.empty()) details.remedies.emplace_back(known->remedy);
  throw error(std::move(details));
}

}  // namespace dmabridge

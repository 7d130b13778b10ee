// SPDX-License-Identifier: MIT
#include "hip_api.hpp"

#include <fmt/format.h>

#include <utility>

namespace dmabridge {
namespace {

constexpr const char* install = "install ROCm's HIP runtime (Debian: libamdhip64-5)";

auto remedies_of(hip::hipError_t result) -> std::vector<std::string> {
  switch (result) {
    case hip::hipErrorOutOfMemory:
      return {"ask for less, or end what fills the GPU's memory: rocm-smi --showpids shows who"};
    case hip::hipErrorNoDevice:
      return {
          "see whether rocminfo lists a GPU, and what HIP_VISIBLE_DEVICES and "
          "ROCR_VISIBLE_DEVICES hide",
          "let this user open /dev/kfd and /dev/dri/renderD*: add it to the groups render and "
          "video"};
    case hip::hipErrorInvalidDevice:
      return {"name one of the GPUs that rocm-smi lists, counted from 0"};
    default:
      return {};
  }
}

}  // namespace

hip_api::hip_api()
    : hip_({.what = "the HIP runtime library",
            .names = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"},
            .remedy_missing = install,
            .remedy_old = "install ROCm 5.6 or newer: older ones export no dma-bufs"}),
      hsa_({.what = "the HSA runtime library",
            .names = {"libhsa-runtime64.so.1"},
            .remedy_missing = install,
            .remedy_old = "install ROCm 5.6 or newer: older ones export no dma-bufs"}) {
  hip_.find("hipGetErrorName", hipGetErrorName);
  hip_.find("hipGetErrorString", hipGetErrorString);
  hip_.find("hipGetDevice", hipGetDevice);
  hip_.find("hipSetDevice", hipSetDevice);
  hip_.find("hipDeviceGetName", hipDeviceGetName);
  hip_.find("hipDeviceSynchronize", hipDeviceSynchronize);
  hip_.find("hipMalloc", hipMalloc);
  hip_.find("hipFree", hipFree);
  hip_.find("hipMemcpy", hipMemcpy);
  hip_.find("hipPointerGetAttribute", hipPointerGetAttribute);
  hsa_.find("hsa_status_string", hsa_status_string);
  hsa_.find("hsa_amd_portable_export_dmabuf", hsa_amd_portable_export_dmabuf);
  hsa_.find_if_there("hsa_amd_portable_export_dmabuf_v2", hsa_amd_portable_export_dmabuf_v2);
}

auto hip_api::hip_text(hip::hipError_t result) const -> std::string {
  return fmt::format("{} ({}): {}", hipGetErrorName(result), result, hipGetErrorString(result));
}

auto hip_api::hsa_text(hip::hsa_status_t status) const -> std::string {
  const char* text = nullptr;
  if (hsa_status_string(status, &text) != hip::HSA_STATUS_SUCCESS || text == nullptr) {
    text = "unknown to this runtime";
  }
  return fmt::format("HSA status {:#x}: {}", status, text);
}

void hip_api::check(const char* attempted, const char* call, hip::hipError_t result,
                    error_kind kind) const {
  if (result == hip::hipSuccess) return;
  throw error({.kind = kind,
               .attempted = attempted,
               .detail = fmt::format("{}: {}", call, hip_text(result)),
               .remedies = remedies_of(result)});
}

}  // namespace dmabridge

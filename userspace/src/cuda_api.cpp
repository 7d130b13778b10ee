// SPDX-License-Identifier: MIT
#include "cuda_api.hpp"

#include <fmt/format.h>

#include <utility>

namespace dmabridge {
namespace {

auto remedies_of(cuda::CUresult result) -> std::vector<std::string> {
  switch (result) {
    case cuda::CUDA_ERROR_OUT_OF_MEMORY:
      return {"ask for less, or end what fills the GPU's memory: nvidia-smi shows who has it"};
    case cuda::CUDA_ERROR_NOT_INITIALIZED:
      return {
          "use CUDA in this process only: a child that is forked after its parent used CUDA "
          "cannot"};
    case cuda::CUDA_ERROR_STUB_LIBRARY:
      return {
          "take the CUDA toolkit's folder of stubs out of LD_LIBRARY_PATH: what was loaded is "
          "for linking only"};
    case cuda::CUDA_ERROR_NO_DEVICE:
      return {"see whether nvidia-smi lists a GPU, and what CUDA_VISIBLE_DEVICES hides",
              "in a container, pass the GPU's device nodes on to it"};
    case cuda::CUDA_ERROR_INVALID_DEVICE:
      return {"name one of the GPUs that nvidia-smi -L lists, counted from 0"};
    case cuda::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
      return {
          "load the kernel module of the same version as libcuda.so.1: reboot, as a rule; cat "
          "/proc/driver/nvidia/version shows which is loaded"};
    case cuda::CUDA_ERROR_UNKNOWN:
      return {"see the kernel's log: dmesg | grep NVRM",
              "if there is no /dev/nvidia-uvm, load that module: nvidia-modprobe -u -c=0"};
    default:
      return {};
  }
}

}  // namespace

cuda_api::cuda_api()
    : library_({.what = "the CUDA driver library",
                .names = {"libcuda.so.1"},
                .remedy_missing = "install NVIDIA's driver, which libcuda.so.1 is a part of (the "
                                  "CUDA toolkit is not needed)",
                .remedy_old = "install a driver of CUDA 11.7 or newer (515 or newer): older ones "
                              "export no dma-bufs"}) {
  library_.find("cuInit", cuInit);
  library_.find("cuGetErrorName", cuGetErrorName);
  library_.find("cuGetErrorString", cuGetErrorString);
  library_.find("cuDeviceGet", cuDeviceGet);
  library_.find("cuDeviceGetName", cuDeviceGetName);
  library_.find("cuDeviceGetAttribute", cuDeviceGetAttribute);
  library_.find("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain);
  library_.find("cuDevicePrimaryCtxRelease_v2", cuDevicePrimaryCtxRelease_v2);
  library_.find("cuCtxPushCurrent_v2", cuCtxPushCurrent_v2);
  library_.find("cuCtxPopCurrent_v2", cuCtxPopCurrent_v2);
  library_.find("cuCtxSynchronize", cuCtxSynchronize);
  library_.find("cuMemAlloc_v2", cuMemAlloc_v2);
  library_.find("cuMemFree_v2", cuMemFree_v2);
  library_.find("cuMemcpyHtoD_v2", cuMemcpyHtoD_v2);
  library_.find("cuMemcpyDtoH_v2", cuMemcpyDtoH_v2);
  library_.find("cuPointerGetAttribute", cuPointerGetAttribute);
  library_.find("cuPointerSetAttribute", cuPointerSetAttribute);
  library_.find("cuMemGetHandleForAddressRange", cuMemGetHandleForAddressRange);
  check("use CUDA", "cuInit", cuInit(0));
}

auto cuda_api::text(cuda::CUresult result) const -> std::string {
  const char* name = nullptr;
  const char* meaning = nullptr;
  if (cuGetErrorName(result, &name) != cuda::CUDA_SUCCESS || name == nullptr) name = "CUresult";
  if (cuGetErrorString(result, &meaning) != cuda::CUDA_SUCCESS || meaning == nullptr) {
    meaning = "unknown to this driver";
  }
  return fmt::format("{} ({}): {}", name, result, meaning);
}

auto cuda_api::failure(std::string attempted, const char* call, cuda::CUresult result,
                       error_kind kind) const -> error {
  return error({.kind = kind,
                .attempted = std::move(attempted),
                .detail = fmt::format("{}: {}", call, text(result)),
                .remedies = remedies_of(result)});
}

void cuda_api::check(const char* attempted, const char* call, cuda::CUresult result,
                     error_kind kind) const {
  if (result != cuda::CUDA_SUCCESS) throw failure(attempted, call, result, kind);
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// What this library uses of the CUDA driver API: names and values are those of NVIDIA's cuda.h, so
// that they can be looked up in the CUDA Driver API manual. Functions have the names under which
// the library exports them; cuda.h hides the _v2 behind macros.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "dmabridge/error.hpp"
#include "shared_library.hpp"

struct CUctx_st;  // of cuda.h

namespace dmabridge::cuda {

using CUresult = int;  // an enum there
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = CUctx_st*;
static_assert(sizeof(CUdeviceptr) == 8 && sizeof(void*) == 8, "as on 64-bit hosts only");

inline constexpr CUresult CUDA_SUCCESS = 0;
inline constexpr CUresult CUDA_ERROR_INVALID_VALUE = 1;
inline constexpr CUresult CUDA_ERROR_OUT_OF_MEMORY = 2;
inline constexpr CUresult CUDA_ERROR_NOT_INITIALIZED = 3;
inline constexpr CUresult CUDA_ERROR_STUB_LIBRARY = 34;
inline constexpr CUresult CUDA_ERROR_NO_DEVICE = 100;
inline constexpr CUresult CUDA_ERROR_INVALID_DEVICE = 101;
inline constexpr CUresult CUDA_ERROR_NOT_SUPPORTED = 801;
inline constexpr CUresult CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803;
inline constexpr CUresult CUDA_ERROR_UNKNOWN = 999;

// CUdevice_attribute
inline constexpr int CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED = 124;

// CUpointer_attribute
inline constexpr int CU_POINTER_ATTRIBUTE_CONTEXT = 1;         // CUcontext
inline constexpr int CU_POINTER_ATTRIBUTE_MEMORY_TYPE = 2;     // CUmemorytype
inline constexpr int CU_POINTER_ATTRIBUTE_SYNC_MEMOPS = 6;     // unsigned int
inline constexpr int CU_POINTER_ATTRIBUTE_IS_MANAGED = 8;      // unsigned int
inline constexpr int CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9;  // int

// CUmemorytype
inline constexpr unsigned int CU_MEMORYTYPE_DEVICE = 2;

// CUmemRangeHandleType, and CUmemRangeFlags (CUDA 12.8)
inline constexpr int CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD = 1;
inline constexpr unsigned long long CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE = 1;

}  // namespace dmabridge::cuda

namespace dmabridge {

// The library, loaded and initialised. Calls are made from any thread.
class cuda_api {
 public:
  // Throws dmabridge::error.
  cuda_api();

  // "CUDA_ERROR_NOT_SUPPORTED (801): operation not supported", by the driver's own words.
  auto text(cuda::CUresult result) const -> std::string;
  // `call` is the function that returned `result`.
  auto failure(std::string attempted, const char* call, cuda::CUresult result,
               error_kind kind = error_kind::system) const -> error;
  void check(const char* attempted, const char* call, cuda::CUresult result,
             error_kind kind = error_kind::system) const;

  cuda::CUresult (*cuInit)(unsigned int flags);
  cuda::CUresult (*cuGetErrorName)(cuda::CUresult, const char** name);
  cuda::CUresult (*cuGetErrorString)(cuda::CUresult, const char** text);
  cuda::CUresult (*cuDeviceGet)(cuda::CUdevice*, int ordinal);
  cuda::CUresult (*cuDeviceGetName)(char* name, int length, cuda::CUdevice);
  cuda::CUresult (*cuDeviceGetAttribute)(int* value, int attribute, cuda::CUdevice);
  cuda::CUresult (*cuDevicePrimaryCtxRetain)(cuda::CUcontext*, cuda::CUdevice);
  cuda::CUresult (*cuDevicePrimaryCtxRelease_v2)(cuda::CUdevice);
  cuda::CUresult (*cuCtxPushCurrent_v2)(cuda::CUcontext);
  cuda::CUresult (*cuCtxPopCurrent_v2)(cuda::CUcontext*);
  cuda::CUresult (*cuCtxSynchronize)();
  cuda::CUresult (*cuMemAlloc_v2)(cuda::CUdeviceptr*, std::size_t size);
  cuda::CUresult (*cuMemFree_v2)(cuda::CUdeviceptr);
  cuda::CUresult (*cuMemcpyHtoD_v2)(cuda::CUdeviceptr to, const void* from, std::size_t length);
  cuda::CUresult (*cuMemcpyDtoH_v2)(void* to, cuda::CUdeviceptr from, std::size_t length);
  cuda::CUresult (*cuPointerGetAttribute)(void* value, int attribute, cuda::CUdeviceptr);
  cuda::CUresult (*cuPointerSetAttribute)(const void* value, int attribute, cuda::CUdeviceptr);
  cuda::CUresult (*cuMemGetHandleForAddressRange)(void* handle, cuda::CUdeviceptr, std::size_t size,
                                                  int type, unsigned long long flags);

 private:
  shared_library library_;
};

}  // namespace dmabridge

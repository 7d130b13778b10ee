// SPDX-License-Identifier: MIT
// What this library uses of HIP and of the HSA runtime below it: names and values are those of
// ROCm's hip/hip_runtime_api.h, hip/driver_types.h, hsa/hsa.h and hsa/hsa_ext_amd.h. No structure
// is used, since those of HIP differ between ROCm 5 and 6 under one name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "dmabridge/error.hpp"
#include "shared_library.hpp"

namespace dmabridge::hip {

using hipError_t = int;  // enums there
using hsa_status_t = int;
using hipDevice_t = int;
using hipDeviceptr_t = void*;

inline constexpr hipError_t hipSuccess = 0;
inline constexpr hipError_t hipErrorInvalidValue = 1;
inline constexpr hipError_t hipErrorOutOfMemory = 2;
inline constexpr hipError_t hipErrorNoDevice = 100;
inline constexpr hipError_t hipErrorInvalidDevice = 101;

// hipMemcpyKind
inline constexpr int hipMemcpyHostToDevice = 1;
inline constexpr int hipMemcpyDeviceToHost = 2;

// hipPointer_attribute
inline constexpr int HIP_POINTER_ATTRIBUTE_IS_MANAGED = 8;      // unsigned int
inline constexpr int HIP_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9;  // int

inline constexpr hsa_status_t HSA_STATUS_SUCCESS = 0;
inline constexpr hsa_status_t HSA_STATUS_ERROR_INVALID_ALLOCATION = 0x1003;
inline constexpr hsa_status_t HSA_STATUS_ERROR_INVALID_AGENT = 0x1004;
inline constexpr hsa_status_t HSA_STATUS_ERROR_NOT_INITIALIZED = 0x100b;

// hsa_amd_dma_buf_mapping_type_t
inline constexpr std::uint64_t HSA_AMD_DMABUF_MAPPING_TYPE_NONE = 0;
inline constexpr std::uint64_t HSA_AMD_DMABUF_MAPPING_TYPE_PCIE = 1;

}  // namespace dmabridge::hip

namespace dmabridge {

class hip_api {
 public:
  // Throws dmabridge::error.
  hip_api();

  // "hipErrorOutOfMemory (2): out of memory", by the libraries' own words.
  auto hip_text(hip::hipError_t result) const -> std::string;
  auto hsa_text(hip::hsa_status_t status) const -> std::string;
  // Throws dmabridge::error unless `result`, which `call` returned, is hipSuccess.
  void check(const char* attempted, const char* call, hip::hipError_t result,
             error_kind kind = error_kind::system) const;

  const char* (*hipGetErrorName)(hip::hipError_t);
  const char* (*hipGetErrorString)(hip::hipError_t);
  hip::hipError_t (*hipGetDevice)(int* device);
  hip::hipError_t (*hipSetDevice)(int device);
  hip::hipError_t (*hipDeviceGetName)(char* name, int length, hip::hipDevice_t);
  hip::hipError_t (*hipDeviceSynchronize)();
  hip::hipError_t (*hipMalloc)(void** pointer, std::size_t size);
  hip::hipError_t (*hipFree)(void* pointer);
  hip::hipError_t (*hipMemcpy)(void* to, const void* from, std::size_t length, int kind);
  hip::hipError_t (*hipPointerGetAttribute)(void* value, int attribute, hip::hipDeviceptr_t);
  hip::hsa_status_t (*hsa_status_string)(hip::hsa_status_t, const char** text);
  hip::hsa_status_t (*hsa_amd_portable_export_dmabuf)(const void* pointer, std::size_t size,
                                                      int* descriptor, std::uint64_t* offset);
  // nullptr: this ROCm is older.
  hip::hsa_status_t (*hsa_amd_portable_export_dmabuf_v2)(const void* pointer, std::size_t size,
                                                         int* descriptor, std::uint64_t* offset,
                                                         std::uint64_t flags);

 private:
  shared_library hip_;
  // Of the same process-wide state as HIP, which is linked with it.
  shared_library hsa_;
};

}  // namespace dmabridge

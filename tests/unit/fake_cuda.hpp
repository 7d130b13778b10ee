// SPDX-License-Identifier: MIT
// A test double of libcuda.so.1: NVIDIA's code is no part of it. See fake_loader.hpp for what it
// can prove.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cuda_api.hpp"
#include "fake_loader.hpp"

namespace dmabridge::test {

// One GPU, ordinal 3, with one allocation of the test's in a context of the test's.
class fake_cuda : public fake_calls {
 public:
  using CUresult = cuda::CUresult;
  using CUdeviceptr = cuda::CUdeviceptr;
  using CUcontext = cuda::CUcontext;

  static constexpr int ordinal = 3;
  static constexpr cuda::CUdevice handle = 33;
  static constexpr CUdeviceptr base = 0x7f00'0000'0000;
  static inline const CUcontext theirs = reinterpret_cast<CUcontext>(0x1111);
  static inline const CUcontext primary = reinterpret_cast<CUcontext>(0x2222);
  static inline const CUcontext before = reinterpret_cast<CUcontext>(0x3333);

  struct request {
    CUdeviceptr first;
    std::size_t size;
    int type;
    unsigned long long flags;
  };

  explicit fake_cuda(std::vector<std::string>& happened, int descriptor)
      : happened_(happened), descriptor_(descriptor) {
    self = this;
  }
  fake_cuda(const fake_cuda&) = delete;
  auto operator=(const fake_cuda&) -> fake_cuda& = delete;
  ~fake_cuda() { self = nullptr; }

  static auto library() -> fake_loader::symbols {
#define ENTRY(name) {#name, symbol_of(name)}
    return {ENTRY(cuInit),
            ENTRY(cuGetErrorName),
            ENTRY(cuGetErrorString),
            ENTRY(cuDeviceGet),
            ENTRY(cuDeviceGetName),
            ENTRY(cuDeviceGetAttribute),
            ENTRY(cuDevicePrimaryCtxRetain),
            ENTRY(cuDevicePrimaryCtxRelease_v2),
            ENTRY(cuCtxPushCurrent_v2),
            ENTRY(cuCtxPopCurrent_v2),
            ENTRY(cuCtxSynchronize),
            ENTRY(cuMemAlloc_v2),
            ENTRY(cuMemFree_v2),
            ENTRY(cuMemcpyHtoD_v2),
            ENTRY(cuMemcpyDtoH_v2),
            ENTRY(cuPointerGetAttribute),
            ENTRY(cuPointerSetAttribute),
            ENTRY(cuMemGetHandleForAddressRange)};
#undef ENTRY
  }

  bool exports = true;
  unsigned int kind = cuda::CU_MEMORYTYPE_DEVICE;
  unsigned int managed = 0;
  CUcontext context_of_memory = theirs;
  // By flag of cuMemGetHandleForAddressRange().
  std::map<unsigned long long, CUresult> refused;
  std::vector<request> requests;
  std::vector<CUcontext> contexts{before};  // the thread's, the current one last
  std::vector<CUcontext> copied_in;         // what was current at each copy
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 20);  // from `base` on
  int retained = 0;
  int allocated = 0;
  std::size_t allocated_size = 0;
  CUdeviceptr allocate_at = base + 512;  // as CUDA does: aligned, but to less than a page

 private:
  static auto cuInit(unsigned int flags) -> CUresult {
    EXPECT_EQ(flags, 0U);
    return self->enter("cuInit");
  }
  static auto cuGetErrorName(CUresult result, const char** name) -> CUresult {
    if (result != cuda::CUDA_ERROR_NOT_SUPPORTED) return cuda::CUDA_ERROR_INVALID_VALUE;
    *name = "CUDA_ERROR_NOT_SUPPORTED";
    return cuda::CUDA_SUCCESS;
  }
  static auto cuGetErrorString(CUresult result, const char** text) -> CUresult {
    if (result != cuda::CUDA_ERROR_NOT_SUPPORTED) return cuda::CUDA_ERROR_INVALID_VALUE;
    *text = "operation not supported";
    return cuda::CUDA_SUCCESS;
  }
  static auto cuDeviceGet(cuda::CUdevice* device, int number) -> CUresult {
    if (const auto told = self->enter("cuDeviceGet")) return told;
    if (number != ordinal) return cuda::CUDA_ERROR_INVALID_DEVICE;
    *device = handle;
    return cuda::CUDA_SUCCESS;
  }
  static auto cuDeviceGetName(char* name, int length, cuda::CUdevice device) -> CUresult {
    if (const auto told = self->enter("cuDeviceGetName")) return told;
    EXPECT_EQ(device, handle);
    std::snprintf(name, static_cast<std::size_t>(length), "Made-up GPU");
    return cuda::CUDA_SUCCESS;
  }
  static auto cuDeviceGetAttribute(int* value, int attribute, cuda::CUdevice device) -> CUresult {
    if (const auto told = self->enter("cuDeviceGetAttribute")) return told;
    EXPECT_EQ(device, handle);
    EXPECT_EQ(attribute, 124) << "CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED";
    *value = self->exports ? 1 : 0;
    return cuda::CUDA_SUCCESS;
  }
  static auto cuDevicePrimaryCtxRetain(CUcontext* context, cuda::CUdevice device) -> CUresult {
    if (const auto told = self->enter("cuDevicePrimaryCtxRetain")) return told;
    EXPECT_EQ(device, handle);
    *context = primary;
    ++self->retained;
    return cuda::CUDA_SUCCESS;
  }
  static auto cuDevicePrimaryCtxRelease_v2(cuda::CUdevice device) -> CUresult {
    EXPECT_EQ(device, handle);
    self->happened_.emplace_back("release");
    --self->retained;
    return self->enter("cuDevicePrimaryCtxRelease_v2");
  }
  static auto cuCtxPushCurrent_v2(CUcontext context) -> CUresult {
    if (const auto told = self->enter("cuCtxPushCurrent_v2")) return told;
    self->contexts.push_back(context);
    return cuda::CUDA_SUCCESS;
  }
  static auto cuCtxPopCurrent_v2(CUcontext* context) -> CUresult {
    self->enter("cuCtxPopCurrent_v2");
    *context = self->contexts.back();
    self->contexts.pop_back();
    return cuda::CUDA_SUCCESS;
  }
  static auto cuCtxSynchronize() -> CUresult { return self->enter("cuCtxSynchronize"); }
  static auto cuMemAlloc_v2(CUdeviceptr* pointer, std::size_t size) -> CUresult {
    if (const auto told = self->enter("cuMemAlloc_v2")) return told;
    EXPECT_EQ(self->contexts.back(), primary);
    *pointer = self->allocate_at;
    self->allocated_size = size;
    ++self->allocated;
    return cuda::CUDA_SUCCESS;
  }
  static auto cuMemFree_v2(CUdeviceptr pointer) -> CUresult {
    EXPECT_EQ(pointer, self->allocate_at);
    EXPECT_EQ(self->contexts.back(), primary);
    self->happened_.emplace_back("free");
    --self->allocated;
    return self->enter("cuMemFree_v2");
  }
  static auto cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t length) -> CUresult {
    if (const auto told = self->enter("cuMemcpyHtoD_v2")) return told;
    self->copied_in.push_back(self->contexts.back());
    std::memcpy(self->bytes.data() + (to - base), from, length);
    return cuda::CUDA_SUCCESS;
  }
  static auto cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t length) -> CUresult {
    if (const auto told = self->enter("cuMemcpyDtoH_v2")) return told;
    self->copied_in.push_back(self->contexts.back());
    std::memcpy(to, self->bytes.data() + (from - base), length);
    return cuda::CUDA_SUCCESS;
  }
  static auto cuPointerGetAttribute(void* value, int attribute, CUdeviceptr) -> CUresult {
    const auto name = "cuPointerGetAttribute " + std::to_string(attribute);
    if (const auto told = self->enter(name.c_str())) return told;
    switch (attribute) {
      case 1:  // CONTEXT
        std::memcpy(value, &self->context_of_memory, sizeof(CUcontext));
        break;
      case 2:  // MEMORY_TYPE
        std::memcpy(value, &self->kind, sizeof(self->kind));
        break;
      case 8:  // IS_MANAGED
        std::memcpy(value, &self->managed, sizeof(self->managed));
        break;
      case 9:  // DEVICE_ORDINAL
        std::memcpy(value, &ordinal, sizeof(ordinal));
        break;
      default:
        ADD_FAILURE() << "attribute " << attribute << " is not known to be right";
    }
    return cuda::CUDA_SUCCESS;
  }
  static auto cuPointerSetAttribute(const void* value, int attribute, CUdeviceptr) -> CUresult {
    EXPECT_EQ(attribute, 6) << "CU_POINTER_ATTRIBUTE_SYNC_MEMOPS";
    EXPECT_EQ(*static_cast<const unsigned int*>(value), 1U);
    return self->enter("cuPointerSetAttribute");
  }
  static auto cuMemGetHandleForAddressRange(void* result, CUdeviceptr first, std::size_t size,
                                            int type, unsigned long long flags) -> CUresult {
    if (const auto told = self->enter("cuMemGetHandleForAddressRange")) return told;
    self->requests.push_back({first, size, type, flags});
    const auto told = self->refused.find(flags);
    if (told != self->refused.end()) return told->second;
    *static_cast<int*>(result) = self->descriptor_;
    return cuda::CUDA_SUCCESS;
  }

  static inline fake_cuda* self = nullptr;
  std::vector<std::string>& happened_;
  int descriptor_;
};

}  // namespace dmabridge::test

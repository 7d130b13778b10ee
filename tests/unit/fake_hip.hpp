// SPDX-License-Identifier: MIT
// A test double of libamdhip64.so and libhsa-runtime64.so.1: AMD's code is no part of it. See
// fake_loader.hpp for what it can prove.
#pragma once

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "fake_loader.hpp"
#include "hip_api.hpp"

namespace dmabridge::test {

// GPU 2, with memory of the test's; the thread's GPU is another.
class fake_hip : public fake_calls {
 public:
  static constexpr int device = 2;
  static constexpr int before = 5;

  struct request {
    const void* pointer;
    std::size_t size;
    std::uint64_t flags;
    bool v2;
  };

  explicit fake_hip(std::vector<std::string>& happened, int descriptor)
      : happened_(happened), descriptor_(descriptor) {
    self = this;
  }
  fake_hip(const fake_hip&) = delete;
  auto operator=(const fake_hip&) -> fake_hip& = delete;
  ~fake_hip() { self = nullptr; }

#define ENTRY(name) {#name, symbol_of(name)}
  static auto hip_library() -> fake_loader::symbols {
    return {ENTRY(hipGetErrorName),  ENTRY(hipGetErrorString),
            ENTRY(hipGetDevice),     ENTRY(hipSetDevice),
            ENTRY(hipDeviceGetName), ENTRY(hipDeviceSynchronize),
            ENTRY(hipMalloc),        ENTRY(hipFree),
            ENTRY(hipMemcpy),        ENTRY(hipPointerGetAttribute)};
  }
  static auto hsa_library() -> fake_loader::symbols {
    return {ENTRY(hsa_status_string), ENTRY(hsa_amd_portable_export_dmabuf),
            ENTRY(hsa_amd_portable_export_dmabuf_v2)};
  }
#undef ENTRY

  unsigned int managed = 0;
  std::uint64_t offset = 0;  // of what is exported, in its dma-buf
  std::vector<request> requests;
  int current = before;
  std::vector<int> copied_on;
  int allocated = 0;
  std::size_t allocated_size = 0;
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 20);

 private:
  static auto hipGetErrorName(int) -> const char* { return "hipErrorOfTheTest"; }
  static auto hipGetErrorString(int) -> const char* { return "as the test says"; }
  static auto hipGetDevice(int* which) -> int {
    if (const auto told = self->enter("hipGetDevice")) return told;
    *which = self->current;
    return hip::hipSuccess;
  }
  static auto hipSetDevice(int which) -> int {
    if (const auto told = self->enter("hipSetDevice")) return told;
    self->current = which;
    return hip::hipSuccess;
  }
  static auto hipDeviceGetName(char* name, int length, int which) -> int {
    if (const auto told = self->enter("hipDeviceGetName")) return told;
    EXPECT_EQ(which, device);
    std::snprintf(name, static_cast<std::size_t>(length), "Made-up GPU");
    return hip::hipSuccess;
  }
  static auto hipDeviceSynchronize() -> int { return self->enter("hipDeviceSynchronize"); }
  static auto hipMalloc(void** pointer, std::size_t size) -> int {
    if (const auto told = self->enter("hipMalloc")) return told;
    EXPECT_EQ(self->current, device);
    *pointer = self->bytes.data();
    self->allocated_size = size;
    ++self->allocated;
    return hip::hipSuccess;
  }
  static auto hipFree(void* pointer) -> int {
    EXPECT_EQ(pointer, self->bytes.data());
    self->happened_.emplace_back("free");
    --self->allocated;
    return self->enter("hipFree");
  }
  static auto hipMemcpy(void* to, const void* from, std::size_t length, int kind) -> int {
    const auto name = "hipMemcpy " + std::to_string(kind);
    if (const auto told = self->enter(name.c_str())) return told;
    self->copied_on.push_back(self->current);
    std::memcpy(to, from, length);
    return hip::hipSuccess;
  }
  static auto hipPointerGetAttribute(void* value, int attribute, void*) -> int {
    const auto name = "hipPointerGetAttribute " + std::to_string(attribute);
    if (const auto told = self->enter(name.c_str())) return told;
    if (attribute == 8) {  // IS_MANAGED
      std::memcpy(value, &self->managed, sizeof(self->managed));
    } else {
      EXPECT_EQ(attribute, 9) << "DEVICE_ORDINAL";
      std::memcpy(value, &device, sizeof(device));
    }
    return hip::hipSuccess;
  }
  static auto hsa_status_string(int status, const char** text) -> int {
    if (status == 0x1234) return 0x1001;
    *text = "HSA's words";
    return hip::HSA_STATUS_SUCCESS;
  }
  static auto hsa_amd_portable_export_dmabuf(const void* pointer, std::size_t size, int* descriptor,
                                             std::uint64_t* offset_in) -> int {
    self->requests.push_back({pointer, size, 0, false});
    return self->hand_out("hsa_amd_portable_export_dmabuf", descriptor, offset_in);
  }
  static auto hsa_amd_portable_export_dmabuf_v2(const void* pointer, std::size_t size,
                                                int* descriptor, std::uint64_t* offset_in,
                                                std::uint64_t flags) -> int {
    self->requests.push_back({pointer, size, flags, true});
    return self->hand_out("hsa_amd_portable_export_dmabuf_v2", descriptor, offset_in);
  }
  auto hand_out(const char* call, int* descriptor, std::uint64_t* offset_in) -> int {
    if (const auto told = enter(call)) return told;
    *descriptor = descriptor_;
    *offset_in = offset;
    return hip::HSA_STATUS_SUCCESS;
  }

  static inline fake_hip* self = nullptr;
  std::vector<std::string>& happened_;
  int descriptor_;
};

}  // namespace dmabridge::test

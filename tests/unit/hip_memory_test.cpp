// SPDX-License-Identifier: MIT
// With a test double of ROCm; see fake_hip.hpp.
#include "dmabridge/hip_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fake_hip.hpp"
#include "gpu_fixture.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using test::fake_hip;
using test::vendor_fd;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* hip_library = "libamdhip64.so.6";
constexpr const char* hsa_library = "libhsa-runtime64.so.1";

class hip_memory_test : public test::gpu_fixture {
 protected:
  hip_memory_test() {
    loader_.libraries[hip_library] = fake_hip::hip_library();
    loader_.libraries[hsa_library] = fake_hip::hsa_library();
  }
  // Whatever went wrong: the thread has the GPU that it had, and no memory is kept.
  ~hip_memory_test() override { expect_nothing_kept(); }

  void expect_nothing_kept() {
    EXPECT_EQ(hip_.current, fake_hip::before);
    EXPECT_EQ(hip_.allocated, 0);
  }

  static auto gpu(const exported_memory& memory) -> hip_memory& {
    return dynamic_cast<hip_memory&>(memory.owner());
  }

  const std::uint64_t page_ = page_size();
  fake_hip hip_{happened_, vendor_fd};
  void* const pointer_ = hip_.bytes.data() + 512;
};

TEST_F(hip_memory_test, range_in_a_buffer_object) {
  hip_.offset = 3 * page_ + 512;
  module_.buffer_size = static_cast<std::int64_t>(16 * page_);
  {
    const auto memory = export_hip_memory(pointer_, 2 * page_);
    ASSERT_EQ(hip_.requests.size(), 1U);
    EXPECT_TRUE(hip_.requests.front().v2);
    EXPECT_EQ(hip_.requests.front().pointer, pointer_);
    EXPECT_EQ(hip_.requests.front().size, 2 * page_);
    EXPECT_EQ(hip_.requests.front().flags, 1U) << "HSA_AMD_DMABUF_MAPPING_TYPE_PCIE";
    EXPECT_EQ(memory.memory().descriptor(), buffer_fd);
    EXPECT_EQ(memory.offset(), hip_.offset);
    EXPECT_EQ(memory.size(), 2 * page_);
    EXPECT_EQ(gpu(memory).pointer(), pointer_);
    EXPECT_EQ(gpu(memory).device(), fake_hip::device);
    EXPECT_EQ(gpu(memory).mapping(), hip_mapping::pcie);
    EXPECT_EQ(memory.owner().name(), "hip (GPU 2, Made-up GPU; its dma-buf also shows " +
                                         std::to_string(hip_.offset) + " bytes before and " +
                                         std::to_string(11 * page_ - 512) + " behind)");
    expect_closed({vendor_fd});
  }
  expect_closed({buffer_fd});
}

TEST_F(hip_memory_test, offset_that_the_dmabuf_does_not_have_is_refused) {
  for (const auto offset : {std::uint64_t{1} << 20, ~std::uint64_t{0}}) {
    hip_.offset = offset;
    const auto failure = error_of([&] { export_hip_memory(pointer_, page_); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), HasSubstr("the dma-buf has 1048576 bytes"));
    expect_closed({vendor_fd, buffer_fd});
  }
}

TEST_F(hip_memory_test, out_of_reach_of_pcie_and_not_silently) {
  hip_.fail = {{"hsa_amd_portable_export_dmabuf_v2", 0x1000}};
  const auto memory = export_hip_memory(pointer_, page_);
  ASSERT_EQ(hip_.requests.size(), 2U);
  EXPECT_FALSE(hip_.requests.back().v2);
  EXPECT_EQ(gpu(memory).mapping(), hip_mapping::driver_decides);
  EXPECT_THAT(memory.owner().name(),
              HasSubstr("not known to be in reach of PCIe: HSA status 0x1000: HSA's words"));
}

TEST_F(hip_memory_test, older_rocm_cannot_tell_and_not_silently) {
  loader_.libraries[hsa_library].erase("hsa_amd_portable_export_dmabuf_v2");
  const auto memory = export_hip_memory(pointer_, page_);
  ASSERT_EQ(hip_.requests.size(), 1U);
  EXPECT_FALSE(hip_.requests.front().v2);
  EXPECT_EQ(gpu(memory).mapping(), hip_mapping::driver_decides);
  EXPECT_THAT(memory.owner().name(), HasSubstr("this ROCm cannot tell"));
}

TEST_F(hip_memory_test, refused_both_ways_tells_both_and_what_to_do) {
  const auto refused = [&](int status) {
    hip_.fail = {{"hsa_amd_portable_export_dmabuf_v2", 0x1234},
                 {"hsa_amd_portable_export_dmabuf", status}};
    return std::string(error_of([&] { export_hip_memory(pointer_, page_); }).what());
  };
  const auto text = refused(hip::HSA_STATUS_ERROR_INVALID_ALLOCATION);
  EXPECT_THAT(text, HasSubstr("hsa_amd_portable_export_dmabuf: HSA status 0x1003: HSA's words"));
  EXPECT_THAT(text, HasSubstr("HSA status 0x1234: unknown to this runtime"));
  EXPECT_THAT(text, HasSubstr("in one allocation of hipMalloc()"));
  EXPECT_THAT(refused(hip::HSA_STATUS_ERROR_INVALID_AGENT), HasSubstr("use memory of a GPU"));
  EXPECT_THAT(refused(hip::HSA_STATUS_ERROR_NOT_INITIALIZED), HasSubstr("grep hsa-runtime"));
  EXPECT_THAT(refused(0x1008), HasSubstr("AMDKFD_IOC_EXPORT_DMABUF"));
  expect_closed({});
}

TEST_F(hip_memory_test, memory_that_is_none_or_moves) {
  hip_.managed = 1;
  auto failure = error_of([&] { export_hip_memory(pointer_, page_); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("managed memory"));
  hip_.fail = {{"hipPointerGetAttribute 9", hip::hipErrorInvalidValue}};
  failure = error_of([&] { export_hip_memory(pointer_, page_); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("no memory of HIP at address 0x"));
  EXPECT_EQ(error_of([&] { export_hip_memory(pointer_, 0); }).kind(), error_kind::usage);
  EXPECT_EQ(error_of([&] { export_hip_memory(nullptr, 1); }).kind(), error_kind::usage);
  EXPECT_EQ(error_of([] { allocate_hip_memory(0); }).kind(), error_kind::usage);
  EXPECT_TRUE(hip_.requests.empty());
}

TEST_F(hip_memory_test, copies_are_made_on_the_gpu_of_the_memory) {
  const auto memory = export_hip_memory(pointer_, 2 * page_);
  const auto wanted = pattern(page_ + 3);
  hip_.log.clear();
  memory.owner().copy_in(100, wanted);
  EXPECT_THAT(hip_.log, ElementsAre("hipGetDevice", "hipSetDevice", "hipDeviceSynchronize",
                                    "hipMemcpy 1", "hipDeviceSynchronize", "hipSetDevice"));
  EXPECT_EQ(std::memcmp(hip_.bytes.data() + 612, wanted.data(), wanted.size()), 0);
  std::vector<std::byte> got(wanted.size());
  memory.owner().copy_out(100, got);
  EXPECT_EQ(hip_.count("hipMemcpy 2"), 1U);
  EXPECT_EQ(got, wanted);
  EXPECT_THAT(hip_.copied_on, ElementsAre(fake_hip::device, fake_hip::device));
  EXPECT_EQ(hip_.current, fake_hip::before);
  EXPECT_EQ(error_of([&] { memory.owner().copy_out(2 * page_, got); }).kind(), error_kind::usage);
  EXPECT_EQ(hip_.copied_on.size(), 2U);
}

TEST_F(hip_memory_test, failed_copies_tell_and_leave_the_gpu_as_it_was) {
  const auto memory = export_hip_memory(pointer_, page_);
  std::vector<std::byte> bytes(16);
  for (const auto* call : {"hipGetDevice", "hipSetDevice", "hipDeviceSynchronize", "hipMemcpy 1"}) {
    hip_.fail = {{call, 700}};
    const auto failure = error_of([&] { memory.owner().copy_in(0, bytes); });
    EXPECT_THAT(failure.what(), HasSubstr("cannot copy into memory of HIP")) << call;
    EXPECT_THAT(failure.what(), HasSubstr("hipErrorOfTheTest (700): as the test says"));
    EXPECT_EQ(hip_.current, fake_hip::before) << call;
  }
  hip_.fail = {{"hipMemcpy 2", 700}};
  EXPECT_EQ(error_of([&] { memory.owner().copy_out(0, bytes); }).kind(), error_kind::io);
  hip_.fail.clear();
}

TEST_F(hip_memory_test, allocation_is_of_whole_pages_and_goes_after_the_descriptor) {
  module_.buffer_size = static_cast<std::int64_t>(2 * page_);
  {
    const auto memory = allocate_hip_memory(page_ + 1, fake_hip::device);
    EXPECT_EQ(hip_.allocated_size, 2 * page_);
    EXPECT_EQ(gpu(memory).pointer(), hip_.bytes.data());
    EXPECT_EQ(memory.size(), page_ + 1);
    EXPECT_EQ(memory.owner().name(), "hip (GPU 2, Made-up GPU)") << "all of it is its own";
    happened_.clear();
  }
  EXPECT_THAT(happened_, ElementsAre("close 102", "free"));
}

// Each call in turn fails: the error names it, and nothing is left behind.
TEST_F(hip_memory_test, every_failure) {
  for (const auto* call : {"hipGetDevice", "hipSetDevice", "hipMalloc", "hipDeviceGetName"}) {
    hip_.fail = {{call, 777}};
    const auto failure = error_of([] { allocate_hip_memory(4096, fake_hip::device); });
    EXPECT_THAT(failure.what(), HasSubstr(std::string(call) + ": hipErrorOfTheTest (777)"));
    expect_nothing_kept();
    expect_closed({});
  }
  for (const auto* call : {"hipPointerGetAttribute 9", "hipPointerGetAttribute 8"}) {
    hip_.fail = {{call, 777}};
    const auto failure = error_of([&] { export_hip_memory(pointer_, page_); });
    EXPECT_THAT(failure.what(), HasSubstr("(777)")) << call;
  }
  hip_.fail = {{"hipMalloc", hip::hipErrorOutOfMemory}};
  EXPECT_THAT(error_of([] { allocate_hip_memory(4096, fake_hip::device); }).what(),
              HasSubstr("rocm-smi"));
  hip_.fail = {{"hipGetDevice", hip::hipErrorNoDevice}};
  EXPECT_THAT(error_of([] { allocate_hip_memory(4096, fake_hip::device); }).what(),
              HasSubstr("/dev/kfd"));
}

TEST_F(hip_memory_test, descriptor_that_cannot_be_used_is_closed) {
  for (const auto& now : refusals()) {
    now.arrange();
    SCOPED_TRACE(now.what);
    error_of([] { allocate_hip_memory(4096, fake_hip::device); });
    expect_nothing_kept();
    const auto duplicated = std::string(now.what) != "no more descriptors";
    expect_closed(duplicated ? std::vector{vendor_fd, buffer_fd} : std::vector{vendor_fd});
  }
}

TEST_F(hip_memory_test, libraries_that_are_missing_or_old) {
  loader_.libraries[hsa_library].erase("hsa_amd_portable_export_dmabuf");
  auto failure = error_of([&] { export_hip_memory(pointer_, page_); });
  EXPECT_EQ(failure.code(), ENOSYS);
  EXPECT_THAT(failure.what(), HasSubstr("has no hsa_amd_portable_export_dmabuf"));
  EXPECT_THAT(failure.what(), HasSubstr("ROCm 5.6"));
  for (const auto* library : {hsa_library, hip_library}) {
    loader_.libraries.erase(library);
    failure = error_of([&] { export_hip_memory(pointer_, page_); });
    EXPECT_EQ(failure.code(), ELIBACC);
    EXPECT_THAT(failure.what(), HasSubstr(library));
    EXPECT_THAT(failure.what(), HasSubstr("install ROCm's HIP runtime"));
  }
}

}  // namespace
}  // namespace dmabridge

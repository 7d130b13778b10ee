// SPDX-License-Identifier: MIT
// With a test double of CUDA; see fake_cuda.hpp.
#include "dmabridge/cuda_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "fake_cuda.hpp"
#include "gpu_fixture.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using test::fake_cuda;
using test::vendor_fd;
using testing::_;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::StrEq;

constexpr const char* library = "libcuda.so.1";
constexpr const char* version_file = "/proc/driver/nvidia/version";

class cuda_memory_test : public test::gpu_fixture {
 protected:
  cuda_memory_test() { loader_.libraries[library] = fake_cuda::library(); }
  // Whatever went wrong: the thread has the context that it had, and nothing of the GPU is kept.
  ~cuda_memory_test() override { expect_nothing_kept(); }

  void expect_nothing_kept() {
    EXPECT_THAT(cuda_.contexts, ElementsAre(fake_cuda::before));
    EXPECT_EQ(cuda_.retained, 0);
    EXPECT_EQ(cuda_.allocated, 0);
  }

  void kernel_module_says(const std::string& text) {
    constexpr int version_fd = 110;
    ON_CALL(module_.calls, open(StrEq(version_file), _, _)).WillByDefault([] {
      return version_fd;
    });
    ON_CALL(module_.calls, read(version_fd, _, _))
        .WillByDefault([text, given = false](int, void* to, std::size_t) mutable {
          if (given) return std::int64_t{0};
          given = true;
          std::memcpy(to, text.data(), text.size());
          return static_cast<std::int64_t>(text.size());
        });
  }

  static auto gpu(const exported_memory& memory) -> cuda_memory& {
    return dynamic_cast<cuda_memory&>(memory.owner());
  }

  const std::uint64_t page_ = page_size();
  fake_cuda cuda_{happened_, vendor_fd};
};

TEST_F(cuda_memory_test, whole_pages) {
  {
    const auto memory = export_cuda_memory(fake_cuda::base, 4 * page_);
    ASSERT_EQ(cuda_.requests.size(), 1U);
    const auto& request = cuda_.requests.front();
    EXPECT_EQ(request.first, fake_cuda::base);
    EXPECT_EQ(request.size, 4 * page_);
    EXPECT_EQ(request.type, 1) << "CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD";
    EXPECT_EQ(request.flags, 1U) << "CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE";
    EXPECT_EQ(memory.memory().descriptor(), buffer_fd);
    EXPECT_EQ(memory.offset(), 0U);
    EXPECT_EQ(memory.size(), 4 * page_);
    EXPECT_EQ(gpu(memory).pointer(), fake_cuda::base);
    EXPECT_EQ(gpu(memory).device(), fake_cuda::ordinal);
    EXPECT_EQ(gpu(memory).mapping(), cuda_mapping::pcie);
    EXPECT_TRUE(gpu(memory).sync_memops());
    EXPECT_TRUE(memory.owner().pinnable().empty());
    expect_closed({vendor_fd});
  }
  expect_closed({buffer_fd});
}

TEST_F(cuda_memory_test, support_is_asked_for_before_anything_is_exported) {
  export_cuda_memory(fake_cuda::base, page_);
  const auto at = [&](const char* call) {
    return std::ranges::find(cuda_.log, call) - cuda_.log.begin();
  };
  EXPECT_EQ(at("cuInit"), 0);
  EXPECT_LT(at("cuDeviceGetAttribute"), at("cuPointerSetAttribute"));
  EXPECT_LT(at("cuPointerSetAttribute"), at("cuMemGetHandleForAddressRange"));
}

TEST_F(cuda_memory_test, name_of_a_plain_export_has_no_notes) {
  module_.buffer_size = static_cast<std::int64_t>(page_);
  EXPECT_EQ(export_cuda_memory(fake_cuda::base, page_).owner().name(), "cuda (GPU 3, Made-up GPU)");
}

TEST_F(cuda_memory_test, range_within_pages_is_exported_with_them_and_says_so) {
  const auto pointer = fake_cuda::base + page_ + 512;
  module_.buffer_size = static_cast<std::int64_t>(3 * page_);
  const auto memory = export_cuda_memory(pointer, 2 * page_);
  EXPECT_EQ(cuda_.requests.front().first, fake_cuda::base + page_);
  EXPECT_EQ(cuda_.requests.front().size, 3 * page_);
  EXPECT_EQ(memory.offset(), 512U);
  EXPECT_EQ(memory.size(), 2 * page_);
  EXPECT_EQ(gpu(memory).pointer(), pointer);
  EXPECT_THAT(memory.owner().name(), HasSubstr("also shows 512 bytes before and " +
                                               std::to_string(page_ - 512) + " behind"));
}

TEST_F(cuda_memory_test, one_byte_is_one_page) {
  const auto memory = export_cuda_memory(fake_cuda::base + page_ - 1, 1);
  EXPECT_EQ(cuda_.requests.front().first, fake_cuda::base);
  EXPECT_EQ(cuda_.requests.front().size, page_);
  EXPECT_EQ(memory.offset(), page_ - 1);
}

TEST_F(cuda_memory_test, without_the_mapping_for_pcie_and_not_silently) {
  for (const auto answer : {cuda::CUDA_ERROR_NOT_SUPPORTED, cuda::CUDA_ERROR_INVALID_VALUE}) {
    cuda_.requests.clear();
    cuda_.refused = {{1, answer}};
    const auto memory = export_cuda_memory(fake_cuda::base, page_);
    ASSERT_EQ(cuda_.requests.size(), 2U);
    EXPECT_EQ(cuda_.requests[0].flags, 1U);
    EXPECT_EQ(cuda_.requests[1].flags, 0U);
    EXPECT_EQ(gpu(memory).mapping(), cuda_mapping::driver_decides);
    EXPECT_THAT(memory.owner().name(), HasSubstr("not mapped for PCIe"));
    EXPECT_THAT(memory.owner().name(), HasSubstr("(" + std::to_string(answer) + ")"));
  }
}

TEST_F(cuda_memory_test, other_failures_are_not_tried_away) {
  cuda_.refused = {{1, 999}};
  const auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(cuda_.requests.size(), 1U);
  EXPECT_THAT(failure.what(), HasSubstr("cuMemGetHandleForAddressRange: CUresult (999)"));
  expect_closed({});
}

TEST_F(cuda_memory_test, refused_both_ways_tells_both_and_what_to_do) {
  kernel_module_says(
      "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14\nGCC version: 13\n");
  cuda_.refused = {{1, cuda::CUDA_ERROR_INVALID_VALUE}, {0, cuda::CUDA_ERROR_NOT_SUPPORTED}};
  const auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("CUDA_ERROR_NOT_SUPPORTED (801): operation not supported"));
  EXPECT_THAT(failure.what(), HasSubstr("with the mapping for PCIe: CUresult (1)"));
  EXPECT_THAT(failure.what(), HasSubstr("the closed one: NVRM version"));
  EXPECT_THAT(failure.what(), Not(HasSubstr("GCC")));
  EXPECT_THAT(failure.what(), HasSubstr("gpuDirectRDMACapable"));
  EXPECT_THAT(failure.what(), HasSubstr("open kernel modules"));
}

TEST_F(cuda_memory_test, gpu_that_exports_nothing) {
  cuda_.exports = false;
  const auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.code(), EOPNOTSUPP);
  EXPECT_TRUE(cuda_.requests.empty());
  EXPECT_THAT(failure.what(), HasSubstr("GPU 3 (Made-up GPU) exports no dma-bufs"));
  EXPECT_THAT(failure.what(), HasSubstr("to fix it: use NVIDIA's open kernel modules"));
  EXPECT_THAT(failure.what(), HasSubstr("CUDA 11.7"));
  EXPECT_THAT(failure.what(), Not(HasSubstr("kernel module is the")))
      << "which it is cannot be read here";

  kernel_module_says("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15\n");
  EXPECT_THAT(error_of([&] { export_cuda_memory(fake_cuda::base, page_); }).what(),
              HasSubstr("the open one: NVRM version: NVIDIA UNIX Open Kernel Module"));
}

TEST_F(cuda_memory_test, memory_that_is_none_of_cudas) {
  cuda_.fail["cuPointerGetAttribute 2"] = cuda::CUDA_ERROR_INVALID_VALUE;
  const auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("no memory of CUDA at address 0x7f0000000000"));
  EXPECT_THAT(failure.what(), HasSubstr("cudaMalloc()"));
}

TEST_F(cuda_memory_test, managed_and_host_memory) {
  cuda_.managed = 1;
  auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("managed memory"));
  cuda_.managed = 0;
  cuda_.kind = 1;  // CU_MEMORYTYPE_HOST
  failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("host memory"));
  EXPECT_THAT(failure.what(), HasSubstr("udmabuf"));
  EXPECT_TRUE(cuda_.requests.empty());
}

TEST_F(cuda_memory_test, ranges_that_are_none) {
  constexpr auto last = std::numeric_limits<std::uint64_t>::max();
  for (const auto& [pointer, size] : {std::pair<std::uint64_t, std::uint64_t>{fake_cuda::base, 0},
                                      {0, page_},
                                      {last, 1},
                                      {last - page_, 1},
                                      {fake_cuda::base, last}}) {
    const auto failure = error_of([&] { export_cuda_memory(pointer, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage) << pointer << ' ' << size;
  }
  for (const auto size : {std::uint64_t{0}, last, last - page_}) {
    EXPECT_EQ(error_of([&] { allocate_cuda_memory(size); }).kind(), error_kind::usage) << size;
  }
  EXPECT_TRUE(loader_.opened.empty());
}

TEST_F(cuda_memory_test, copies_are_made_in_the_context_of_the_memory) {
  const auto memory = export_cuda_memory(fake_cuda::base + 512, 2 * page_);
  const auto wanted = pattern(page_ + 3);
  cuda_.log.clear();
  memory.owner().copy_in(100, wanted);
  EXPECT_THAT(cuda_.log, ElementsAre("cuCtxPushCurrent_v2", "cuCtxSynchronize", "cuMemcpyHtoD_v2",
                                     "cuCtxSynchronize", "cuCtxPopCurrent_v2"));
  EXPECT_EQ(std::memcmp(cuda_.bytes.data() + 612, wanted.data(), wanted.size()), 0);
  std::vector<std::byte> got(wanted.size());
  cuda_.log.clear();
  memory.owner().copy_out(100, got);
  EXPECT_THAT(cuda_.log, ElementsAre("cuCtxPushCurrent_v2", "cuCtxSynchronize", "cuMemcpyDtoH_v2",
                                     "cuCtxPopCurrent_v2"));
  EXPECT_EQ(got, wanted);
  EXPECT_THAT(cuda_.copied_in, ElementsAre(fake_cuda::theirs, fake_cuda::theirs));
}

TEST_F(cuda_memory_test, copies_that_leave_the_range_are_refused) {
  const auto memory = export_cuda_memory(fake_cuda::base, page_);
  std::vector<std::byte> bytes(2);
  for (const auto offset : {page_ - 1, page_ + 1, std::numeric_limits<std::uint64_t>::max()}) {
    EXPECT_EQ(error_of([&] { memory.owner().copy_in(offset, bytes); }).kind(), error_kind::usage);
    EXPECT_EQ(error_of([&] { memory.owner().copy_out(offset, bytes); }).kind(), error_kind::usage);
  }
  EXPECT_TRUE(cuda_.copied_in.empty());
  memory.owner().copy_in(page_ - 2, bytes);
  EXPECT_EQ(cuda_.copied_in.size(), 1U);
}

TEST_F(cuda_memory_test, failed_copies_tell_and_leave_the_context_as_it_was) {
  const auto memory = export_cuda_memory(fake_cuda::base, page_);
  std::vector<std::byte> bytes(16);
  for (const auto* call : {"cuCtxPushCurrent_v2", "cuCtxSynchronize", "cuMemcpyHtoD_v2"}) {
    cuda_.fail = {{call, 700}};
    const auto failure = error_of([&] { memory.owner().copy_in(0, bytes); });
    EXPECT_THAT(failure.what(), HasSubstr("cannot copy into memory of CUDA"));
    EXPECT_THAT(failure.what(), HasSubstr("(700)"));
    EXPECT_THAT(cuda_.contexts, ElementsAre(fake_cuda::before)) << call;
  }
  cuda_.fail = {{"cuMemcpyDtoH_v2", 700}};
  const auto failure = error_of([&] { memory.owner().copy_out(0, bytes); });
  EXPECT_EQ(failure.kind(), error_kind::io);
  EXPECT_THAT(failure.what(), HasSubstr("cuMemcpyDtoH: CUresult (700)"));
  cuda_.fail.clear();
}

TEST_F(cuda_memory_test, memory_in_no_context_is_copied_in_the_primary_one) {
  const auto try_it = [&] {
    {
      const auto memory = export_cuda_memory(fake_cuda::base, page_);
      EXPECT_EQ(cuda_.retained, 1);
      std::vector<std::byte> bytes(16);
      memory.owner().copy_in(0, bytes);
      EXPECT_EQ(cuda_.copied_in.back(), fake_cuda::primary);
    }
    EXPECT_EQ(cuda_.retained, 0);
  };
  cuda_.context_of_memory = nullptr;
  try_it();
  cuda_.fail["cuPointerGetAttribute 1"] = cuda::CUDA_ERROR_INVALID_VALUE;
  try_it();
}

TEST_F(cuda_memory_test, without_sync_memops_and_not_silently) {
  cuda_.fail["cuPointerSetAttribute"] = cuda::CUDA_ERROR_NOT_SUPPORTED;
  const auto memory = export_cuda_memory(fake_cuda::base, page_);
  EXPECT_FALSE(gpu(memory).sync_memops());
  EXPECT_THAT(memory.owner().name(), HasSubstr("without SYNC_MEMOPS"));
}

TEST_F(cuda_memory_test, allocation_begins_at_a_page_and_goes_after_the_descriptor) {
  module_.buffer_size = static_cast<std::int64_t>(2 * page_);
  {
    const auto memory = allocate_cuda_memory(page_ + 1, fake_cuda::ordinal);
    EXPECT_EQ(gpu(memory).pointer(), fake_cuda::base + page_);
    EXPECT_EQ(memory.size(), page_ + 1);
    EXPECT_EQ(memory.offset(), 0U);
    EXPECT_EQ(cuda_.requests.front().size, 2 * page_);
    EXPECT_LE(cuda_.requests.front().first + cuda_.requests.front().size,
              cuda_.allocate_at + cuda_.allocated_size)
        << "the dma-buf shows the allocation and nothing else";
    EXPECT_EQ(cuda_.retained, 1);
    EXPECT_EQ(memory.owner().name(), "cuda (GPU 3, Made-up GPU)") << "all of it is its own";
    happened_.clear();
  }
  EXPECT_THAT(happened_, ElementsAre("close 102", "free", "release"));
}

TEST_F(cuda_memory_test, gpu_that_does_not_exist) {
  const auto failure = error_of([] { allocate_cuda_memory(4096, 9); });
  EXPECT_THAT(failure.what(), HasSubstr("cannot use GPU 9 of CUDA"));
  EXPECT_THAT(failure.what(), HasSubstr("nvidia-smi -L"));
}

// Each call in turn fails: the error names it, and nothing is left behind.
TEST_F(cuda_memory_test, every_failure_of_an_export) {
  cuda_.context_of_memory = nullptr;
  for (const auto* call :
       {"cuInit", "cuPointerGetAttribute 2", "cuPointerGetAttribute 8", "cuPointerGetAttribute 9",
        "cuDeviceGet", "cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuDeviceGetAttribute",
        "cuCtxPushCurrent_v2", "cuPointerSetAttribute", "cuMemGetHandleForAddressRange"}) {
    cuda_.fail = {{call, 777}};
    const auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
    const std::string name = call;
    EXPECT_THAT(failure.what(), HasSubstr(name.substr(0, name.find_first_of(" _"))));
    EXPECT_THAT(failure.what(), HasSubstr("(777)")) << call;
    expect_nothing_kept();
    expect_closed({});
  }
}

TEST_F(cuda_memory_test, every_failure_of_an_allocation) {
  for (const auto* call : {"cuInit", "cuDeviceGet", "cuDeviceGetName", "cuDevicePrimaryCtxRetain",
                           "cuDeviceGetAttribute", "cuCtxPushCurrent_v2", "cuMemAlloc_v2",
                           "cuPointerSetAttribute", "cuMemGetHandleForAddressRange"}) {
    cuda_.fail = {{call, 777}};
    const auto failure = error_of([] { allocate_cuda_memory(4096, fake_cuda::ordinal); });
    EXPECT_THAT(failure.what(), HasSubstr("(777)")) << call;
    expect_nothing_kept();
    expect_closed({});
  }
  cuda_.fail = {{"cuMemAlloc_v2", cuda::CUDA_ERROR_OUT_OF_MEMORY}};
  EXPECT_THAT(error_of([] { allocate_cuda_memory(4096, fake_cuda::ordinal); }).what(),
              HasSubstr("nvidia-smi shows who has it"));
}

TEST_F(cuda_memory_test, descriptor_that_cannot_be_used_is_closed) {
  for (const auto& now : refusals()) {
    now.arrange();
    SCOPED_TRACE(now.what);
    error_of([] { allocate_cuda_memory(4096, fake_cuda::ordinal); });
    expect_nothing_kept();
    const auto duplicated = std::string(now.what) != "no more descriptors";
    expect_closed(duplicated ? std::vector{vendor_fd, buffer_fd} : std::vector{vendor_fd});
  }
}

TEST_F(cuda_memory_test, drivers_that_are_missing_or_old_or_broken) {
  for (const auto& [result, remedy] :
       {std::pair{cuda::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "same version as libcuda.so.1"},
        {cuda::CUDA_ERROR_NO_DEVICE, "CUDA_VISIBLE_DEVICES"},
        {cuda::CUDA_ERROR_NOT_INITIALIZED, "forked"},
        {cuda::CUDA_ERROR_STUB_LIBRARY, "stubs"},
        {cuda::CUDA_ERROR_UNKNOWN, "nvidia-uvm"}}) {
    cuda_.fail = {{"cuInit", result}};
    EXPECT_THAT(error_of([&] { export_cuda_memory(fake_cuda::base, page_); }).what(),
                HasSubstr(remedy));
  }

  loader_.libraries[library].erase("cuMemGetHandleForAddressRange");
  auto failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.code(), ENOSYS);
  EXPECT_THAT(failure.what(), HasSubstr("libcuda.so.1 has no cuMemGetHandleForAddressRange"));
  EXPECT_THAT(failure.what(), HasSubstr("CUDA 11.7 or newer"));

  loader_.libraries.clear();
  loader_.loaded.clear();
  failure = error_of([&] { export_cuda_memory(fake_cuda::base, page_); });
  EXPECT_EQ(failure.code(), ELIBACC);
  EXPECT_THAT(failure.what(), HasSubstr("install NVIDIA's driver"));
}

}  // namespace
}  // namespace dmabridge

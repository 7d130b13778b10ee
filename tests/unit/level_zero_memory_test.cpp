// SPDX-License-Identifier: MIT
// With a test double of Level Zero; see fake_level_zero.hpp.
#include "dmabridge/level_zero_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fake_level_zero.hpp"
#include "gpu_fixture.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using test::fake_level_zero;
using test::vendor_fd;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* library = "libze_loader.so.1";
constexpr int second_gpu = 1;  // of the GPUs of all drivers

class level_zero_memory_test : public test::gpu_fixture {
 protected:
  level_zero_memory_test() {
    loader_.libraries[library] = fake_level_zero::library();
    module_.buffer_size = static_cast<std::int64_t>(zero_.bytes.size());
  }
  ~level_zero_memory_test() override { expect_nothing_kept(); }

  void expect_nothing_kept() {
    EXPECT_EQ(zero_.contexts, 0);
    EXPECT_EQ(zero_.allocations, 0);
    EXPECT_EQ(zero_.lists, 0);
  }

  auto export_theirs(std::uint64_t size) -> exported_memory {
    return export_level_zero_memory(fake_level_zero::theirs, pointer_, size);
  }

  static auto gpu(const exported_memory& memory) -> level_zero_memory& {
    return dynamic_cast<level_zero_memory&>(memory.owner());
  }

  const std::uint64_t page_ = page_size();
  fake_level_zero zero_{happened_, vendor_fd};
  void* const pointer_ = zero_.bytes.data() + 3 * page_ + 512;
};

TEST_F(level_zero_memory_test, range_in_an_allocation) {
  {
    const auto memory = export_theirs(2 * page_);
    EXPECT_EQ(memory.memory().descriptor(), buffer_fd);
    EXPECT_EQ(memory.offset(), 3 * page_ + 512);
    EXPECT_EQ(memory.size(), 2 * page_);
    EXPECT_EQ(gpu(memory).pointer(), pointer_);
    EXPECT_EQ(gpu(memory).context(), fake_level_zero::theirs);
    EXPECT_THAT(memory.owner().name(), HasSubstr("level_zero (Made-up GPU; its dma-buf also "));
    expect_closed({});
  }
  expect_closed({buffer_fd});  // the driver's own descriptor is the driver's to close
}

TEST_F(level_zero_memory_test, allocation_is_made_to_be_exported_and_goes_after_the_descriptor) {
  module_.buffer_size = static_cast<std::int64_t>(2 * page_);
  {
    const auto memory = allocate_level_zero_memory(page_ + 1, second_gpu);
    EXPECT_EQ(zero_.allocated_on, fake_level_zero::second_gpu);
    EXPECT_EQ(zero_.allocated_size, 2 * page_);
    EXPECT_EQ(gpu(memory).pointer(), zero_.bytes.data());
    EXPECT_EQ(gpu(memory).context(), fake_level_zero::ours);
    EXPECT_EQ(memory.offset(), 0U);
    EXPECT_EQ(memory.size(), page_ + 1);
    EXPECT_EQ(memory.owner().name(), "level_zero (Made-up GPU)") << "all of it is its own";
    happened_.clear();
  }
  EXPECT_THAT(happened_, ElementsAre("close 102", "free host", "free", "destroy context"));
}

TEST_F(level_zero_memory_test, copies_go_through_memory_that_the_gpu_may_touch) {
  const auto memory = export_theirs(3 << 20);
  const auto wanted = pattern((2 << 20) + 5);
  memory.owner().copy_in(100, wanted);
  EXPECT_THAT(zero_.copies, ElementsAre(1U << 20, 1U << 20, 5U));
  EXPECT_EQ(std::memcmp(static_cast<std::byte*>(pointer_) + 100, wanted.data(), wanted.size()), 0);
  zero_.copies.clear();
  std::vector<std::byte> got(wanted.size());
  memory.owner().copy_out(100, got);
  EXPECT_THAT(zero_.copies, ElementsAre(1U << 20, 1U << 20, 5U));
  EXPECT_EQ(got, wanted);
  zero_.copies.clear();
  memory.owner().copy_in(0, {});
  EXPECT_EQ(error_of([&] { memory.owner().copy_in(1 << 20, wanted); }).kind(), error_kind::usage);
  EXPECT_EQ(error_of([&] { memory.owner().copy_out(3 << 20, got); }).kind(), error_kind::usage);
  EXPECT_TRUE(zero_.copies.empty());
}

TEST_F(level_zero_memory_test, failed_copies_tell) {
  const auto memory = export_theirs(page_);
  std::vector<std::byte> bytes(16);
  zero_.fail = {{"zeCommandListAppendMemoryCopy", 0x70000001}};
  auto failure = error_of([&] { memory.owner().copy_in(0, bytes); });
  EXPECT_EQ(failure.kind(), error_kind::io);
  EXPECT_THAT(failure.what(), HasSubstr("cannot copy into memory of Level Zero"));
  EXPECT_THAT(failure.what(), HasSubstr("ZE_RESULT_ERROR_DEVICE_LOST (0x70000001)"));
  EXPECT_THAT(failure.what(), HasSubstr("dmesg"));
  zero_.fail = {{"zeCommandListAppendMemoryCopy", 0x7000'4242}};
  failure = error_of([&] { memory.owner().copy_out(0, bytes); });
  EXPECT_THAT(failure.what(), HasSubstr("ze_result_t (0x70004242)")) << "one that has no name here";
}

TEST_F(level_zero_memory_test, memory_that_cannot_be_exported) {
  for (const auto kind : {0U, 1U, 3U}) {  // unknown to the context, host, shared
    zero_.kind = kind;
    const auto failure = error_of([&] { export_theirs(page_); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), HasSubstr("no device memory at address 0x"));
  }
  zero_.kind = 2;
  zero_.descriptor = -1;
  const auto failure = error_of([&] { export_theirs(page_); });
  EXPECT_THAT(failure.what(), HasSubstr("no descriptor"));
  EXPECT_THAT(failure.what(), HasSubstr("ze_external_memory_export_desc_t"));
  EXPECT_EQ(error_of([&] { export_theirs(0); }).kind(), error_kind::usage);
  EXPECT_EQ(error_of([&] { export_level_zero_memory(nullptr, pointer_, page_); }).kind(),
            error_kind::usage);
  EXPECT_THAT(error_of([] { allocate_level_zero_memory(0); }).what(),
              HasSubstr("cannot allocate memory of Level Zero: 0 bytes are no size for it"));
  expect_closed({});
}

TEST_F(level_zero_memory_test, range_that_leaves_the_dmabuf_is_refused) {
  module_.buffer_size = static_cast<std::int64_t>(4 * page_);
  const auto failure = error_of([&] { export_theirs(page_); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("the dma-buf has " + std::to_string(4 * page_)));
  expect_closed({buffer_fd});
}

TEST_F(level_zero_memory_test, gpus_that_cannot) {
  zero_.export_types = 1;
  auto failure = error_of([&] { export_theirs(page_); });
  EXPECT_EQ(failure.code(), EOPNOTSUPP);
  EXPECT_THAT(failure.what(), HasSubstr("memoryAllocationExportTypes is 0x1"));
  zero_.export_types = 2;
  zero_.group_flags = 1;
  failure = error_of([&] { export_theirs(page_); });
  EXPECT_THAT(failure.what(), HasSubstr("none of the GPU's 2 groups of queues can copy"));
  for (const auto number : {-1, 2}) {
    failure = error_of([&] { allocate_level_zero_memory(page_, number); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), HasSubstr("there are 2, counted from 0")) << "the CPU is none";
  }
}

// Each call in turn fails: the error names it, and nothing is left behind.
TEST_F(level_zero_memory_test, every_failure) {
  for (const auto* call :
       {"zeInit", "zeDriverGet", "zeDeviceGet", "zeDeviceGetProperties",
        "zeDeviceGetExternalMemoryProperties", "zeContextCreate", "zeMemAllocDevice",
        "zeMemAllocHost", "zeDeviceGetCommandQueueGroupProperties", "zeCommandListCreateImmediate",
        "zeMemGetAddressRange", "zeMemGetAllocProperties(ze_external_memory_export_fd_t)"}) {
    zero_.fail = {{call, 0x78000003}};
    const auto failure = error_of([&] { allocate_level_zero_memory(page_, second_gpu); });
    EXPECT_THAT(failure.what(), HasSubstr(std::string(call) +
                                          ": ZE_RESULT_ERROR_UNSUPPORTED_FEATURE (0x78000003)"));
    expect_nothing_kept();
    expect_closed({});
  }
  zero_.fail = {{"zeMemGetAllocProperties", 0x78000004}};
  EXPECT_THAT(error_of([&] { export_theirs(page_); }).what(),
              HasSubstr("zeMemGetAllocProperties: ZE_RESULT_ERROR_INVALID_ARGUMENT"));
}

TEST_F(level_zero_memory_test, descriptor_of_the_driver_is_never_closed) {
  for (const auto& now : refusals()) {
    now.arrange();
    SCOPED_TRACE(now.what);
    error_of([&] { allocate_level_zero_memory(page_, second_gpu); });
    expect_nothing_kept();
    const auto duplicated = std::string(now.what) != "no more descriptors";
    expect_closed(duplicated ? std::vector{buffer_fd} : std::vector<int>{});
  }
}

TEST_F(level_zero_memory_test, loaders_that_are_missing_or_old_or_alone) {
  zero_.fail = {{"zeInit", 0x78000001}};
  EXPECT_THAT(error_of([&] { export_theirs(page_); }).what(), HasSubstr("install a driver"));
  loader_.libraries[library].erase("zeCommandListCreateImmediate");
  auto failure = error_of([&] { export_theirs(page_); });
  EXPECT_EQ(failure.code(), ENOSYS);
  EXPECT_THAT(failure.what(), HasSubstr("libze_loader.so.1 has no zeCommandListCreateImmediate"));
  loader_.libraries.clear();
  failure = error_of([&] { export_theirs(page_); });
  EXPECT_EQ(failure.code(), ELIBACC);
  EXPECT_THAT(failure.what(), HasSubstr("libze1"));
}

}  // namespace
}  // namespace dmabridge

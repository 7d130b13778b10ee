// SPDX-License-Identifier: MIT
// With a test double of Level Zero; see fake_level_zero.hpp.
#include "dmabridge/level_zero_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
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

// --- import ----------------------------------------------------------------------------------

constexpr int their_fd = 130;

class level_zero_import_test : public level_zero_memory_test {
 protected:
  level_zero_import_test() : memory_(make()) {}
  // The buffer itself is the program's, and goes after all that was imported.
  ~level_zero_import_test() override { EXPECT_EQ(memory_.descriptor(), their_fd); }

  auto import_here() -> level_zero_import { return import_to_level_zero(memory_, second_gpu); }
  auto import_to_theirs() -> level_zero_import {
    return import_to_level_zero(fake_level_zero::theirs, fake_level_zero::second_gpu, memory_);
  }

  // With a descriptor of its own; what is duplicated of it is buffer_fd.
  auto make() -> buffer {
    using testing::_;
    ON_CALL(module_.calls, seek(their_fd, 0, SEEK_END)).WillByDefault([this](auto...) {
      return module_.buffer_size;
    });
    ON_CALL(module_.calls, fstat(_, _)).WillByDefault([this](int descriptor, struct stat* result) {
      if (descriptor == buffer_fd && driver_closed_it_) return -EBADF;
      result->st_ino = module_.buffer_inode + (descriptor == buffer_fd && reused_ ? 1 : 0);
      return 0;
    });
    return buffer::from_fd(fd(their_fd));
  }

  bool driver_closed_it_ = false;
  bool reused_ = false;  // its number, for another file
  buffer memory_;
};

TEST_F(level_zero_import_test, lives_in_a_context_of_its_own_and_ends_in_order) {
  {
    const auto imported = import_here();
    EXPECT_EQ(imported.pointer(), zero_.bytes.data());
    EXPECT_EQ(imported.context(), fake_level_zero::ours);
    EXPECT_EQ(imported.size(), zero_.bytes.size());
    EXPECT_EQ(zero_.imported, buffer_fd) << "a descriptor that is not the caller's";
    EXPECT_EQ(zero_.allocated_on, fake_level_zero::second_gpu);
    EXPECT_EQ(zero_.allocated_size, zero_.bytes.size());
    expect_closed({});
  }
  EXPECT_THAT(happened_, ElementsAre("import", "free", "close 102", "destroy context"));
  expect_closed({buffer_fd});
}

TEST_F(level_zero_import_test, lives_in_a_context_of_the_callers) {
  {
    const auto imported = import_to_theirs();
    EXPECT_EQ(imported.context(), fake_level_zero::theirs);
    auto moved = import_to_theirs();
    moved = import_to_theirs();
    EXPECT_EQ(zero_.allocations, 2) << "what is overwritten is freed";
  }
  EXPECT_EQ(zero_.contexts, 0) << "none was made";
  expect_closed({buffer_fd, buffer_fd, buffer_fd});
}

// As Intel's driver did before 2023.
TEST_F(level_zero_import_test, descriptor_that_the_driver_has_closed_is_not_closed_again) {
  for (auto* const how : {&driver_closed_it_, &reused_}) {
    zero_.on_free = [how] { *how = true; };
    {
      const auto imported = import_here();
    }
    expect_closed({});
    *how = false;
  }
}

TEST_F(level_zero_import_test, gpus_that_import_none) {
  zero_.import_types = 1;
  const auto failure = error_of([&] { import_here(); });
  EXPECT_EQ(failure.code(), EOPNOTSUPP);
  EXPECT_THAT(failure.what(), HasSubstr("memoryAllocationImportTypes is 0x1"));
  EXPECT_THAT(failure.what(), HasSubstr("import fd 130, a dma-buf of 4194304 bytes of"));
  expect_nothing_kept();
  expect_closed({buffer_fd});
  EXPECT_EQ(zero_.imported, -1);
}

TEST_F(level_zero_import_test, what_the_driver_refuses_tells_what_to_look_at) {
  zero_.fail = {{"zeMemAllocDevice(ze_external_memory_import_fd_t)", 0x78000004}};
  const auto failure = error_of([&] { import_here(); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("zeMemAllocDevice(ze_external_memory_import_fd_t): "
                                        "ZE_RESULT_ERROR_INVALID_ARGUMENT (0x78000004)"));
  EXPECT_THAT(failure.what(), HasSubstr("dmabridge explain MEMORY CARD"));
  expect_nothing_kept();
  expect_closed({buffer_fd});
}

// Each call in turn fails: the error names it, and nothing is left behind or closed twice.
TEST_F(level_zero_import_test, every_failure) {
  for (const auto* call : {"zeInit", "zeDriverGet", "zeDeviceGet", "zeDeviceGetProperties",
                           "zeContextCreate", "zeDeviceGetExternalMemoryProperties",
                           "zeMemAllocDevice(ze_external_memory_import_fd_t)"}) {
    SCOPED_TRACE(call);
    zero_.fail = {{call, 0x78000003}};
    closed_.clear();
    const auto failure = error_of([&] { import_here(); });
    EXPECT_THAT(failure.what(), HasSubstr(std::string(call) +
                                          ": ZE_RESULT_ERROR_UNSUPPORTED_FEATURE (0x78000003)"));
    expect_nothing_kept();
    EXPECT_LE(closed_.size(), 1U);
    EXPECT_EQ(std::ranges::count(closed_, their_fd), 0);
  }
  closed_.clear();
  zero_.fail = {};
  ON_CALL(module_.calls, duplicate).WillByDefault(testing::Return(-EMFILE));
  EXPECT_EQ(error_of([&] { import_here(); }).code(), EMFILE);
  expect_nothing_kept();
  expect_closed({});
}

TEST_F(level_zero_import_test, what_makes_no_sense) {
  EXPECT_EQ(
      error_of([&] { import_to_level_zero(nullptr, fake_level_zero::second_gpu, memory_); }).kind(),
      error_kind::usage);
  EXPECT_EQ(
      error_of([&] { import_to_level_zero(fake_level_zero::theirs, nullptr, memory_); }).kind(),
      error_kind::usage);
  EXPECT_THAT(error_of([&] { import_to_level_zero(memory_, 2); }).what(),
              HasSubstr("there are 2, counted from 0"));
  loader_.libraries.clear();
  EXPECT_EQ(error_of([&] { import_here(); }).code(), ELIBACC);
  expect_closed({});
}

}  // namespace
}  // namespace dmabridge

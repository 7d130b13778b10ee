// SPDX-License-Identifier: MIT
// Vulkan's part is taken by a test double: these tests are about the order of calls, who owns what,
// and what is said when something is missing. That memory is really shared, tests/guest/vulkan_test
// shows with a driver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sync_file.h>
#include <poll.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dmabridge/vulkan_memory.hpp"
#include "dmabridge/vulkan_semaphore.hpp"
#include "error_of.hpp"
#include "mock_system_calls.hpp"
#include "vulkan_calls.hpp"
#include "vulkan_double.hpp"
#include "vulkan_result.hpp"

namespace dmabridge {
namespace {

using test::error_of;
using test::vulkan_double;
using testing::_;
using testing::AllOf;
using testing::AnyNumber;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Return;

constexpr int dmabuf_fd = 102;     // of the caller
constexpr int duplicate_fd = 140;  // made by the library
constexpr int sync_fd = 150;

class vulkan_test : public testing::Test {
 protected:
  vulkan_test() {
    vulkan_.exported_fd = test::buffer_fd;
    ON_CALL(module_.calls, duplicate).WillByDefault(Return(duplicate_fd));
    ON_CALL(module_.calls, ioctl(sync_fd, SYNC_IOC_FILE_INFO, _)).WillByDefault(Return(0));
    EXPECT_CALL(module_.calls, close).Times(AnyNumber());
  }

  auto open(bool exports = true) -> vulkan_device {
    return vulkan_device::open(
        {.name = {}, .exports = exports, .get_instance_proc_addr = vulkan_double::loader()});
  }
  auto refused_open(bool exports = true) -> std::string {
    return error_of([&] { open(exports); }).what();
  }
  static auto dmabuf() -> buffer { return buffer::from_fd(fd(dmabuf_fd)); }
  void expect_closed_once(int descriptor) {
    EXPECT_CALL(module_.calls, close(descriptor)).Times(1);
  }
  void expect_never_closed(int descriptor) {
    EXPECT_CALL(module_.calls, close(descriptor)).Times(0);
  }

  static constexpr std::uint64_t all = 1 << 20;  // bytes of the dma-buf
  vulkan_double vulkan_;
  test::fake_module module_;
};

// --- the loader, and results

TEST_F(vulkan_test, missing_loader_says_what_to_install) {
  const auto failure = error_of([] { open_vulkan_loader("libvulkan-that-is-not-there.so.1"); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("libvulkan-that-is-not-there.so.1"));
  EXPECT_THAT(failure.what(), HasSubstr("libvulkan1"));
}

TEST_F(vulkan_test, library_that_is_no_loader_is_refused) {
  EXPECT_THAT(error_of([] { open_vulkan_loader("libc.so.6"); }).what(),
              HasSubstr("vkGetInstanceProcAddr"));
}

TEST_F(vulkan_test, results_have_names) {
  EXPECT_EQ(vulkan_result_name(VK_ERROR_INVALID_EXTERNAL_HANDLE),
            "VK_ERROR_INVALID_EXTERNAL_HANDLE (-1000072003)");
  EXPECT_EQ(vulkan_result_name(static_cast<VkResult>(-4711)), "VkResult (-4711)");
  EXPECT_EQ(vulkan_failure("x", "vkQueueSubmit", VK_ERROR_DEVICE_LOST).kind(), error_kind::io);
}

// --- which device

TEST_F(vulkan_test, best_device_that_will_do_is_chosen) {
  vulkan_.devices = {{.name = "by CPU", .type = VK_PHYSICAL_DEVICE_TYPE_CPU},
                     {.name = "without", .extensions = {}},
                     {.name = "integrated", .type = VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU}};
  const auto device = open();
  EXPECT_EQ(device.name(), "integrated");
  EXPECT_EQ(device.handles().queue_family, 1U);
  EXPECT_THAT(vulkan_.enabled,
              ElementsAre("VK_KHR_external_memory_fd", "VK_EXT_external_memory_dma_buf",
                          "VK_KHR_external_semaphore_fd"));
  EXPECT_EQ(device.others(), VK_QUEUE_FAMILY_EXTERNAL);
}

TEST_F(vulkan_test, foreign_queue_family_is_used_where_there_is_one) {
  vulkan_.devices[0].extensions.emplace_back("VK_EXT_queue_family_foreign");
  EXPECT_EQ(open().others(), VK_QUEUE_FAMILY_FOREIGN_EXT);
}

TEST_F(vulkan_test, every_reason_of_every_device_is_told) {
  vulkan_.devices = {{.name = "old",
                      .version = VK_API_VERSION_1_0,
                      .extensions = {"VK_EXT_external_memory_dma_buf"}},
                     {.name = "import only",
                      .type = VK_PHYSICAL_DEVICE_TYPE_CPU,
                      .buffers = VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT},
                     {.name = "shows pictures", .computes = false}};
  const auto text = refused_open();
  EXPECT_THAT(text, HasSubstr("old: it has Vulkan 1.0, and 1.1 is needed; it lacks "
                              "VK_KHR_external_memory_fd\n"));
  EXPECT_THAT(text, HasSubstr("import only: its buffers as dma-bufs are not EXPORTABLE (they are: "
                              "IMPORTABLE)"));
  EXPECT_THAT(text, HasSubstr("/dev/udmabuf"));
  EXPECT_THAT(text, HasSubstr("shows pictures: it has no queue family that computes"));
}

TEST_F(vulkan_test, device_that_imports_only_will_do_for_that) {
  vulkan_.devices[0].buffers = VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT;
  EXPECT_THAT(refused_open(true), HasSubstr("not EXPORTABLE"));
  EXPECT_EQ(open(false).name(), vulkan_.devices[0].name);
}

TEST_F(vulkan_test, device_of_another_name_is_refused) {
  const auto failure = error_of([] {
    vulkan_device::open(
        {.name = "Arc", .exports = true, .get_instance_proc_addr = vulkan_double::loader()});
  });
  EXPECT_THAT(failure.what(), HasSubstr("its name does not contain \"Arc\""));
}

TEST_F(vulkan_test, machine_without_devices_needs_a_driver) {
  vulkan_.devices.clear();
  EXPECT_THAT(refused_open(), AllOf(HasSubstr("no Vulkan device"), HasSubstr("install a driver")));
  vulkan_.results["vkCreateInstance"] = VK_ERROR_INCOMPATIBLE_DRIVER;
  EXPECT_THAT(refused_open(),
              AllOf(HasSubstr("VK_ERROR_INCOMPATIBLE_DRIVER (-9)"), HasSubstr("install a driver")));
}

// The double's own check is that nothing is left over.
TEST_F(vulkan_test, failure_on_the_way_leaves_nothing_open) {
  for (const auto* call : {"vkCreateInstance", "vkEnumeratePhysicalDevices", "vkCreateDevice"}) {
    vulkan_.results = {{call, VK_ERROR_OUT_OF_HOST_MEMORY}};
    EXPECT_THAT(refused_open(), AllOf(HasSubstr(call), HasSubstr("VK_ERROR_OUT_OF_HOST_MEMORY")));
  }
  vulkan_.results.clear();
  vulkan_.absent = {"vkGetMemoryFdKHR"};
  EXPECT_THAT(refused_open(), HasSubstr("vkGetMemoryFdKHR"));
}

TEST_F(vulkan_test, callers_device_is_not_destroyed) {
  {
    const vulkan_device device(vulkan_.handles());
  }
  EXPECT_EQ(vulkan_.count("destroy VkDevice"), 0);
  EXPECT_EQ(vulkan_.count("destroy VkInstance"), 0);
}

TEST_F(vulkan_test, what_a_callers_device_lacks_is_all_told) {
  EXPECT_THAT(error_of([] { const vulkan_device device{vulkan_handles{}}; }).what(),
              AllOf(HasSubstr("get_instance_proc_addr is null"), HasSubstr("physical_device is"),
                    HasSubstr("instance is null"), HasSubstr("device is null")));
  vulkan_.devices[0].extensions = {"VK_KHR_external_memory_fd"};
  vulkan_.absent = {"vkGetMemoryFdKHR", "vkGetMemoryFdPropertiesKHR"};
  const auto failure = error_of([&] { const vulkan_device device(vulkan_.handles()); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("it lacks VK_EXT_external_memory_dma_buf"));
  EXPECT_THAT(failure.what(), HasSubstr("no vkGetMemoryFdKHR, vkGetMemoryFdPropertiesKHR"));
  EXPECT_THAT(failure.what(), HasSubstr("VK_KHR_external_memory_fd and"));
  vulkan_.absent = {"vkGetPhysicalDeviceExternalBufferProperties"};
  EXPECT_THAT(error_of([&] { const vulkan_device device(vulkan_.handles()); }).what(),
              HasSubstr("apiVersion 1.1"));
}

// --- import

TEST_F(vulkan_test, import_takes_a_duplicate_and_not_the_callers_fd) {
  expect_closed_once(dmabuf_fd);
  expect_never_closed(duplicate_fd);
  {
    const auto device = open();
    const auto memory = dmabuf();
    const auto made = import_to_vulkan(device, memory);
    EXPECT_THAT(vulkan_.taken_fds, ElementsAre(duplicate_fd));
    EXPECT_EQ(made.size(), all);
    EXPECT_EQ(vulkan_.allocated, all) << "the whole dma-buf";
    EXPECT_FALSE(vulkan_.allocated_dedicated);
  }
  // The buffer before its memory, both before the device.
  const std::vector<std::string> end(vulkan_.calls.end() - 4, vulkan_.calls.end());
  EXPECT_THAT(end, ElementsAre("destroy VkBuffer", "destroy VkDeviceMemory", "destroy VkDevice",
                               "destroy VkInstance"));
}

TEST_F(vulkan_test, import_that_fails_closes_its_duplicate_once) {
  expect_closed_once(duplicate_fd);
  vulkan_.devices[0].type = VK_PHYSICAL_DEVICE_TYPE_CPU;
  vulkan_.results["vkAllocateMemory"] = VK_ERROR_INVALID_EXTERNAL_HANDLE;
  const auto failure = error_of([&] { import_to_vulkan(open(), dmabuf()); });
  EXPECT_TRUE(vulkan_.taken_fds.empty());
  EXPECT_THAT(failure.what(), HasSubstr("vkAllocateMemory gave VK_ERROR_INVALID_EXTERNAL_HANDLE"));
  EXPECT_THAT(failure.what(), HasSubstr("that the CPU can map"));
}

// The memory has the fd by then.
TEST_F(vulkan_test, bind_that_fails_after_an_import_frees_the_memory_and_closes_no_fd) {
  expect_never_closed(duplicate_fd);
  vulkan_.results["vkBindBufferMemory"] = VK_ERROR_OUT_OF_DEVICE_MEMORY;
  EXPECT_THAT(error_of([&] { import_to_vulkan(open(), dmabuf()); }).what(),
              HasSubstr("vkBindBufferMemory"));
  EXPECT_THAT(vulkan_.taken_fds, ElementsAre(duplicate_fd));
  EXPECT_EQ(vulkan_.count("destroy VkDeviceMemory"), 1);
}

TEST_F(vulkan_test, fd_that_cannot_be_duplicated_imports_nothing) {
  const auto memory = dmabuf();
  ON_CALL(module_.calls, duplicate).WillByDefault(Return(-EMFILE));
  const auto failure = error_of([&] { import_to_vulkan(open(), memory); });
  EXPECT_EQ(failure.code(), EMFILE);
  EXPECT_EQ(vulkan_.count("vkAllocateMemory"), 0);
}

TEST_F(vulkan_test, memory_type_fits_both_the_dmabuf_and_the_buffer) {
  vulkan_.fd_types = 0b10;
  import_to_vulkan(open(), dmabuf());
  EXPECT_EQ(vulkan_.allocated_type, 1U);
  vulkan_.buffer_types = 0b01;
  const auto failure = error_of([&] { import_to_vulkan(open(), dmabuf()); });
  EXPECT_THAT(failure.what(), AllOf(HasSubstr("types 0x2"), HasSubstr("types 0x1")));
  EXPECT_EQ(vulkan_.taken_fds.size(), 1U);
}

TEST_F(vulkan_test, part_of_a_dmabuf_is_bound_where_it_begins) {
  const auto made = import_to_vulkan(open(), dmabuf(), {.offset = 4096, .size = 8192});
  EXPECT_EQ(vulkan_.bound_at, 4096U);
  EXPECT_EQ(made.size(), 8192U);
  EXPECT_EQ(vulkan_.allocated, all);
}

TEST_F(vulkan_test, ranges_that_cannot_be_are_refused) {
  const auto refusal = [&](const vulkan_import& wanted) {
    const auto failure = error_of([&] { import_to_vulkan(open(), dmabuf(), wanted); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    return std::string(failure.what());
  };
  EXPECT_THAT(refusal({.offset = all}), HasSubstr("not in it"));
  EXPECT_THAT(refusal({.offset = 4096, .size = all}), HasSubstr("not in it"));
  EXPECT_THAT(refusal({.offset = 100, .size = 4096}), HasSubstr("no multiple of 256"));
  EXPECT_THAT(refusal({.offset = all - 256}), HasSubstr("the device wants 65536"));
  vulkan_.dedicated = true;
  EXPECT_THAT(refusal({.offset = 4096}), HasSubstr("whole dma-bufs only"));
  EXPECT_TRUE(vulkan_.taken_fds.empty());
}

TEST_F(vulkan_test, device_that_does_not_import_is_refused_before_anything_is_made) {
  const vulkan_device device(vulkan_.handles());
  vulkan_.devices[0].buffers = VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT;
  EXPECT_THAT(error_of([&] { import_to_vulkan(device, dmabuf()); }).what(),
              HasSubstr("not IMPORTABLE (they are: EXPORTABLE)"));
  EXPECT_EQ(vulkan_.count("vkCreateBuffer"), 0);
}

TEST_F(vulkan_test, dedicated_memory_is_used_where_it_must_be) {
  vulkan_.devices[0].buffers |= VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT;
  const auto device = open();
  import_to_vulkan(device, dmabuf());
  EXPECT_TRUE(vulkan_.allocated_dedicated);
  EXPECT_EQ(vulkan_.allocated, 1U << 16) << "as the buffer asks for";
  vulkan_.allocated_dedicated = false;
  const auto exported = export_from_vulkan(device, 4096);
  EXPECT_TRUE(vulkan_.allocated_dedicated);
}

// --- export

TEST_F(vulkan_test, export_is_of_device_memory_and_ends_with_it) {
  expect_closed_once(test::buffer_fd);
  expect_closed_once(duplicate_fd);
  {
    auto exported = export_from_vulkan(open(), 5000);
    EXPECT_EQ(vulkan_.allocated_type, 1U) << "the device's own";
    EXPECT_EQ(vulkan_.allocated_for_export,
              VkExternalMemoryHandleTypeFlags{VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT});
    EXPECT_EQ(exported.memory.size(), 5000U);
    EXPECT_EQ(exported.memory.offset(), 0U);
    EXPECT_EQ(exported.memory.owner().name(), "vulkan (GPU of the test)");
    EXPECT_EQ(vulkan_.count("destroy VkDevice"), 0) << "the memory keeps it";
  }
  EXPECT_EQ(vulkan_.calls.back(), "destroy VkInstance");
}

TEST_F(vulkan_test, device_that_does_not_export_is_refused_with_what_helps) {
  vulkan_.devices[0] = {.name = "llvmpipe",
                        .type = VK_PHYSICAL_DEVICE_TYPE_CPU,
                        .buffers = VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT};
  const auto failure = error_of([&] { export_from_vulkan(open(false), 4096); });
  EXPECT_THAT(failure.what(), AllOf(HasSubstr("not EXPORTABLE"), HasSubstr("modprobe udmabuf")));
  EXPECT_EQ(vulkan_.count("vkCreateBuffer"), 0);
}

TEST_F(vulkan_test, export_that_fails_frees_all) {
  for (const auto* call :
       {"vkCreateBuffer", "vkAllocateMemory", "vkBindBufferMemory", "vkGetMemoryFdKHR"}) {
    vulkan_.results = {{call, VK_ERROR_OUT_OF_DEVICE_MEMORY}};
    EXPECT_THAT(error_of([&] { export_from_vulkan(open(), 4096); }).what(),
                AllOf(HasSubstr(call), HasSubstr("VK_ERROR_OUT_OF_DEVICE_MEMORY (-2)")));
  }
}

TEST_F(vulkan_test, fd_that_is_no_dmabuf_is_closed) {
  expect_closed_once(test::buffer_fd);
  ON_CALL(module_.calls, read_link).WillByDefault([](const char*, std::string& target) {
    target = "/memfd:opaque";
    return 0;
  });
  EXPECT_THAT(error_of([&] { export_from_vulkan(open(), 4096); }).what(),
              HasSubstr("no dma-buf but /memfd:opaque"));
}

TEST_F(vulkan_test, nothing_cannot_be_exported) {
  EXPECT_EQ(error_of([&] { export_from_vulkan(open(), 0); }).kind(), error_kind::usage);
}

TEST_F(vulkan_test, callers_memory_is_exported_and_stays_the_callers) {
  const vulkan_device device(vulkan_.handles());
  {
    const auto memory = export_from_vulkan(
        device, {.memory = reinterpret_cast<VkDeviceMemory>(std::uintptr_t{0x33}),
                 .buffer = reinterpret_cast<VkBuffer>(std::uintptr_t{0x44}),
                 .offset = 8192,
                 .size = 4096});
    EXPECT_EQ(memory.offset(), 8192U);
    EXPECT_EQ(memory.size(), 4096U);
  }
  EXPECT_THAT(vulkan_.calls, ElementsAre("vkGetMemoryFdKHR"));
}

// --- copies

class vulkan_copy_test : public vulkan_test {
 protected:
  static constexpr std::uint64_t size = 10 << 20;
  void SetUp() override {
    module_.buffer_size = size;
    ON_CALL(module_.calls, poll).WillByDefault(Return(1));
    made_.emplace(export_from_vulkan(open(), size));
    vulkan_.calls.clear();
  }
  auto owner() -> memory_owner& { return made_->memory.owner(); }

  std::optional<vulkan_export> made_;
};

TEST_F(vulkan_copy_test, fences_of_others_are_waited_for_before_the_queue_is_used) {
  std::vector<std::byte> bytes(4096);
  EXPECT_CALL(module_.calls, poll(duplicate_fd, POLLOUT, -1, _)).WillOnce([&](auto...) {
    EXPECT_EQ(vulkan_.count("vkQueueSubmit"), 0);
    return 1;
  });
  owner().copy_in(0, bytes);
  EXPECT_CALL(module_.calls, poll(duplicate_fd, POLLIN, -1, _))
      .WillOnce(Return(-EINTR))
      .WillOnce(Return(1));
  owner().copy_out(0, bytes);
  EXPECT_EQ(vulkan_.count("vkQueueSubmit"), 2);
}

TEST_F(vulkan_copy_test, long_range_goes_piece_by_piece) {
  std::vector<std::byte> bytes(9 << 20, std::byte{7});
  owner().copy_in(100, bytes);
  ASSERT_EQ(vulkan_.copies.size(), 3U);
  EXPECT_EQ(vulkan_.copies[0].dstOffset, 100U);
  EXPECT_EQ(vulkan_.copies[1].dstOffset, (4U << 20) + 100);
  EXPECT_EQ(vulkan_.copies[2].size, 1U << 20);
  EXPECT_EQ(vulkan_.staging.front(), std::byte{7});
  EXPECT_EQ(vulkan_.count("vkQueueSubmit"), 3);
  EXPECT_EQ(vulkan_.count("vkWaitForFences"), 3);
}

TEST_F(vulkan_copy_test, copied_out_is_what_is_in_the_staging_buffer) {
  std::vector<std::byte> bytes(16);
  owner().copy_out(0, bytes);
  std::ranges::fill(vulkan_.staging, std::byte{9});
  owner().copy_out(size - 16, bytes);
  EXPECT_EQ(vulkan_.copies.back().srcOffset, size - 16);
  EXPECT_EQ(bytes, std::vector<std::byte>(16, std::byte{9}));
}

TEST_F(vulkan_copy_test, memory_is_taken_over_for_the_copy_and_handed_back) {
  std::vector<std::byte> bytes(16);
  owner().copy_in(0, bytes);
  ASSERT_EQ(vulkan_.barriers.size(), 2U);
  EXPECT_EQ(vulkan_.barriers[0].srcQueueFamilyIndex, VK_QUEUE_FAMILY_EXTERNAL);
  EXPECT_EQ(vulkan_.barriers[0].dstQueueFamilyIndex, 1U);
  EXPECT_EQ(vulkan_.barriers[1].srcQueueFamilyIndex, 1U);
  EXPECT_EQ(vulkan_.barriers[1].dstQueueFamilyIndex, VK_QUEUE_FAMILY_EXTERNAL);
  EXPECT_EQ(vulkan_.barriers[1].buffer, made_->buffer);
}

TEST_F(vulkan_copy_test, range_that_leaves_the_memory_is_refused) {
  std::vector<std::byte> bytes(16);
  EXPECT_EQ(error_of([&] { owner().copy_in(size - 15, bytes); }).kind(), error_kind::usage);
  EXPECT_EQ(error_of([&] { owner().copy_out(~std::uint64_t{0}, bytes); }).kind(),
            error_kind::usage);
  EXPECT_TRUE(vulkan_.calls.empty());
}

TEST_F(vulkan_copy_test, lost_device_is_an_io_error) {
  std::vector<std::byte> bytes(16);
  vulkan_.results["vkWaitForFences"] = VK_ERROR_DEVICE_LOST;
  const auto failure = error_of([&] { owner().copy_in(0, bytes); });
  EXPECT_EQ(failure.kind(), error_kind::io);
  EXPECT_THAT(failure.what(), HasSubstr("VK_ERROR_DEVICE_LOST (-4)"));
}

TEST_F(vulkan_copy_test, tools_that_cannot_be_made_leave_nothing_and_are_tried_again) {
  std::vector<std::byte> bytes(16);
  for (const auto* call :
       {"vkCreateBuffer", "vkAllocateMemory", "vkBindBufferMemory", "vkMapMemory",
        "vkCreateCommandPool", "vkAllocateCommandBuffers", "vkCreateFence"}) {
    vulkan_.results = {{call, VK_ERROR_OUT_OF_HOST_MEMORY}};
    EXPECT_THAT(error_of([&] { owner().copy_in(0, bytes); }).what(), HasSubstr(call));
  }
  vulkan_.results.clear();
  owner().copy_in(0, bytes);
  EXPECT_EQ(vulkan_.count("vkQueueSubmit"), 1);
}

// Vulkan lets one thread at a time use a queue.
class vulkan_queue_test : public vulkan_test {
 protected:
  // What a copy does to a mutex while it submits.
  void expect_held_by_copies(const vulkan_device& device, std::mutex& mutex) {
    ON_CALL(module_.calls, poll).WillByDefault(Return(1));
    const auto made = export_from_vulkan(device, 4096);
    std::vector<std::byte> bytes(16);
    // Another thread's question, as one that has it must not ask.
    vulkan_.on_submit = [&] { std::thread([&] { EXPECT_FALSE(mutex.try_lock()); }).join(); };
    made.memory.owner().copy_in(0, bytes);
    EXPECT_EQ(vulkan_.count("vkQueueSubmit"), 1);
    EXPECT_TRUE(mutex.try_lock());
    mutex.unlock();
  }
};

TEST_F(vulkan_queue_test, callers_mutex_is_held_while_the_queue_is_used) {
  std::mutex mutex;
  auto handles = vulkan_.handles();
  handles.queue_mutex = &mutex;
  expect_held_by_copies(vulkan_device(handles), mutex);
}

TEST_F(vulkan_queue_test, device_that_is_opened_here_has_a_mutex) {
  const auto device = open();
  ASSERT_NE(device.handles().queue_mutex, nullptr);
  expect_held_by_copies(device, *device.handles().queue_mutex);
}

// --- semaphores

TEST_F(vulkan_test, import_of_a_sync_file_takes_the_fd) {
  expect_never_closed(sync_fd);
  {
    const vulkan_semaphore made(open(), fd(sync_fd));
  }
  EXPECT_THAT(vulkan_.taken_fds, ElementsAre(sync_fd));
  EXPECT_EQ(vulkan_.count("destroy VkSemaphore"), 1);
}

TEST_F(vulkan_test, import_of_a_sync_file_that_fails_closes_the_fd_once) {
  expect_closed_once(sync_fd);
  vulkan_.results["vkImportSemaphoreFdKHR"] = VK_ERROR_INVALID_EXTERNAL_HANDLE;
  EXPECT_THAT(error_of([&] { const vulkan_semaphore made(open(), fd(sync_fd)); }).what(),
              AllOf(HasSubstr("fd 150"), HasSubstr("VK_ERROR_INVALID_EXTERNAL_HANDLE")));
}

TEST_F(vulkan_test, fd_that_is_no_sync_file_is_not_shown_to_the_driver) {
  expect_closed_once(sync_fd);
  ON_CALL(module_.calls, ioctl(sync_fd, SYNC_IOC_FILE_INFO, _)).WillByDefault(Return(-ENOTTY));
  const auto failure = error_of([&] { const vulkan_semaphore made(open(), fd(sync_fd)); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(),
              AllOf(HasSubstr("no sync file"), HasSubstr("DMA_BUF_IOCTL_EXPORT_SYNC_FILE")));
  EXPECT_EQ(vulkan_.count("vkImportSemaphoreFdKHR"), 0);
}

TEST_F(vulkan_test, empty_sync_file_is_one_that_was_signalled) {
  const vulkan_semaphore made(open(), fd());
  EXPECT_THAT(vulkan_.taken_fds, ElementsAre(-1));
}

TEST_F(vulkan_test, exported_sync_file_is_the_callers) {
  expect_closed_once(test::buffer_fd);
  const vulkan_semaphore made(open());
  EXPECT_EQ(made.export_sync_file().get(), test::buffer_fd);
}

TEST_F(vulkan_test, export_that_was_signalled_is_empty) {
  expect_never_closed(-1);
  vulkan_.exported_fd = -1;
  const vulkan_semaphore made(open());
  EXPECT_FALSE(made.export_sync_file());
}

TEST_F(vulkan_test, semaphores_need_the_extension_and_the_driver) {
  expect_closed_once(sync_fd);
  vulkan_.semaphores = VK_EXTERNAL_SEMAPHORE_FEATURE_IMPORTABLE_BIT;
  const auto device = open();
  EXPECT_THAT(error_of([&] { const vulkan_semaphore made(device); }).what(),
              HasSubstr("not EXPORTABLE"));
  vulkan_.semaphores = 0;
  EXPECT_THAT(error_of([&] { const vulkan_semaphore made(device, fd(sync_fd)); }).what(),
              AllOf(HasSubstr("not IMPORTABLE"), HasSubstr("poll()")));
  vulkan_.absent = {"vkGetSemaphoreFdKHR", "vkImportSemaphoreFdKHR"};
  const auto without = open();
  EXPECT_THAT(error_of([&] { const vulkan_semaphore made(without); }).what(),
              HasSubstr("VK_KHR_external_semaphore_fd"));
}

}  // namespace
}  // namespace dmabridge

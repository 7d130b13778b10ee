// SPDX-License-Identifier: MIT
// A test double of libze_loader.so.1 with a driver below it: Intel's code is no part of it. See
// fake_loader.hpp for what it can prove.
#pragma once

#include <cstdio>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "fake_loader.hpp"
#include "level_zero_api.hpp"

namespace dmabridge::test {

// Two drivers: the first has a CPU and a GPU, the second a GPU. The second GPU's queues copy in
// group 1.
class fake_level_zero : public fake_calls {
 public:
  using result = level_zero::ze_result_t;
  using driver = level_zero::ze_driver_handle_t;
  using device = level_zero::ze_device_handle_t;
  using context = level_zero::ze_context_handle_t;
  using list = level_zero::ze_command_list_handle_t;

  static inline const driver first_driver = reinterpret_cast<driver>(0x10);
  static inline const driver second_driver = reinterpret_cast<driver>(0x20);
  static inline const device cpu = reinterpret_cast<device>(0x11);
  static inline const device first_gpu = reinterpret_cast<device>(0x12);
  static inline const device second_gpu = reinterpret_cast<device>(0x21);
  static inline const context theirs = reinterpret_cast<context>(0x31);
  static inline const context ours = reinterpret_cast<context>(0x32);
  static inline const list only_list = reinterpret_cast<list>(0x41);

  explicit fake_level_zero(std::vector<std::string>& happened, int to_hand_out)
      : descriptor(to_hand_out), happened_(happened) {
    self = this;
  }
  fake_level_zero(const fake_level_zero&) = delete;
  auto operator=(const fake_level_zero&) -> fake_level_zero& = delete;
  ~fake_level_zero() { self = nullptr; }

  static auto library() -> fake_loader::symbols {
#define ENTRY(name) {#name, symbol_of(name)}
    return {ENTRY(zeInit),
            ENTRY(zeDriverGet),
            ENTRY(zeDeviceGet),
            ENTRY(zeDeviceGetProperties),
            ENTRY(zeDeviceGetExternalMemoryProperties),
            ENTRY(zeDeviceGetCommandQueueGroupProperties),
            ENTRY(zeContextCreate),
            ENTRY(zeContextDestroy),
            ENTRY(zeMemAllocDevice),
            ENTRY(zeMemAllocHost),
            ENTRY(zeMemFree),
            ENTRY(zeMemGetAllocProperties),
            ENTRY(zeMemGetAddressRange),
            ENTRY(zeCommandListCreateImmediate),
            ENTRY(zeCommandListDestroy),
            ENTRY(zeCommandListAppendMemoryCopy)};
#undef ENTRY
  }

  int descriptor;                  // -1: the driver gives none
  std::uint32_t export_types = 3;  // of every GPU: opaque, and dma-bufs
  std::uint32_t import_types = 3;  // likewise
  int imported = -1;               // the descriptor that was given last
  std::function<void()> on_free = [] {};
  std::uint32_t group_flags = 2;  // of the last group of queues
  std::uint32_t kind = 2;         // of what the test's pointers point to
  std::vector<std::byte> bytes = std::vector<std::byte>(4 << 20);  // device memory
  std::vector<std::byte> host = std::vector<std::byte>(1 << 20);
  int contexts = 0;
  int allocations = 0;
  int lists = 0;
  device allocated_on = nullptr;
  std::size_t allocated_size = 0;
  std::vector<std::size_t> copies;  // their lengths

 private:
  // Answers like all calls that are made twice.
  template <typename Item>
  static void give(std::uint32_t* count, Item* to, const std::vector<Item>& items) {
    if (to == nullptr) {
      *count = static_cast<std::uint32_t>(items.size());
      return;
    }
    *count = std::min(*count, static_cast<std::uint32_t>(items.size()));
    std::copy_n(items.begin(), *count, to);
  }

  static auto zeInit(std::uint32_t flags) -> result {
    EXPECT_EQ(flags, 0U);
    return self->told("zeInit");
  }
  static auto zeDriverGet(std::uint32_t* count, driver* to) -> result {
    give(count, to, std::vector<driver>{first_driver, second_driver});
    return self->told("zeDriverGet");
  }
  static auto zeDeviceGet(driver of, std::uint32_t* count, device* to) -> result {
    give(
        count, to,
        of == first_driver ? std::vector<device>{cpu, first_gpu} : std::vector<device>{second_gpu});
    return self->told("zeDeviceGet");
  }
  static auto zeDeviceGetProperties(device of, level_zero::ze_device_properties_t* to) -> result {
    EXPECT_EQ(to->stype, 0x3U);
    to->type = of == cpu ? 2 : 1;
    std::snprintf(to->name, sizeof(to->name), "Made-up GPU");
    return self->told("zeDeviceGetProperties");
  }
  static auto zeDeviceGetExternalMemoryProperties(
      device of, level_zero::ze_device_external_memory_properties_t* to) -> result {
    EXPECT_EQ(of, second_gpu);
    EXPECT_EQ(to->stype, 0xcU);
    to->memoryAllocationExportTypes = self->export_types;
    to->memoryAllocationImportTypes = self->import_types;
    return self->told("zeDeviceGetExternalMemoryProperties");
  }
  static auto zeDeviceGetCommandQueueGroupProperties(
      device of, std::uint32_t* count, level_zero::ze_command_queue_group_properties_t* to)
      -> result {
    EXPECT_EQ(of, second_gpu);
    if (to != nullptr) EXPECT_EQ(to->stype, 0x6U);
    std::vector<level_zero::ze_command_queue_group_properties_t> groups(2);
    groups[0].flags = 1;
    groups[1].flags = self->group_flags;
    give(count, to, groups);
    return self->told("zeDeviceGetCommandQueueGroupProperties");
  }
  static auto zeContextCreate(driver of, const level_zero::ze_context_desc_t* wanted, context* to)
      -> result {
    EXPECT_EQ(of, second_driver);
    EXPECT_EQ(wanted->stype, 0xdU);
    if (const auto refused = self->told("zeContextCreate")) return refused;
    *to = ours;
    ++self->contexts;
    return level_zero::ZE_RESULT_SUCCESS;
  }
  static auto zeContextDestroy(context which) -> result {
    EXPECT_EQ(which, ours);
    --self->contexts;
    self->happened_.emplace_back("destroy context");
    return self->told("zeContextDestroy");
  }
  static auto zeMemAllocDevice(context in, const level_zero::ze_device_mem_alloc_desc_t* wanted,
                               std::size_t size, std::size_t, device on, void** to) -> result {
    EXPECT_EQ(wanted->stype, 0x15U);
    // All extensions begin alike.
    const auto* extension =
        static_cast<const level_zero::ze_external_memory_export_desc_t*>(wanted->pNext);
    EXPECT_EQ(extension->flags, 2U) << "ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF";
    if (extension->stype == 0x19U) {
      self->imported =
          static_cast<const level_zero::ze_external_memory_import_fd_t*>(wanted->pNext)->fd;
      self->happened_.emplace_back("import");
      if (const auto refused = self->told("zeMemAllocDevice(ze_external_memory_import_fd_t)")) {
        return refused;
      }
    } else {
      EXPECT_EQ(in, ours);
      EXPECT_EQ(extension->stype, 0x18U);
      if (const auto refused = self->told("zeMemAllocDevice")) return refused;
    }
    *to = self->bytes.data();
    self->allocated_on = on;
    self->allocated_size = size;
    ++self->allocations;
    return level_zero::ZE_RESULT_SUCCESS;
  }
  static auto zeMemAllocHost(context, const level_zero::ze_host_mem_alloc_desc_t* wanted,
                             std::size_t size, std::size_t, void** to) -> result {
    EXPECT_EQ(wanted->stype, 0x16U);
    if (const auto refused = self->told("zeMemAllocHost")) return refused;
    EXPECT_LE(size, self->host.size());
    *to = self->host.data();
    ++self->allocations;
    return level_zero::ZE_RESULT_SUCCESS;
  }
  static auto zeMemFree(context, void* pointer) -> result {
    --self->allocations;
    self->happened_.emplace_back(pointer == self->host.data() ? "free host" : "free");
    self->on_free();
    return self->told("zeMemFree");
  }
  static auto zeMemGetAllocProperties(context, const void*,
                                      level_zero::ze_memory_allocation_properties_t* to, device* on)
      -> result {
    EXPECT_EQ(to->stype, 0x17U);
    if (to->pNext == nullptr) {
      to->type = self->kind;
      if (on != nullptr) *on = second_gpu;
      return self->told("zeMemGetAllocProperties");
    }
    auto* const exported = static_cast<level_zero::ze_external_memory_export_fd_t*>(to->pNext);
    EXPECT_EQ(exported->stype, 0x1aU);
    EXPECT_EQ(exported->flags, 2U) << "ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF";
    exported->fd = self->descriptor;
    return self->told("zeMemGetAllocProperties(ze_external_memory_export_fd_t)");
  }
  static auto zeMemGetAddressRange(context, const void*, void** base, std::size_t* size) -> result {
    *base = self->bytes.data();
    *size = self->bytes.size();
    return self->told("zeMemGetAddressRange");
  }
  static auto zeCommandListCreateImmediate(context, device on,
                                           const level_zero::ze_command_queue_desc_t* wanted,
                                           list* to) -> result {
    EXPECT_EQ(on, second_gpu);
    EXPECT_EQ(wanted->stype, 0xeU);
    EXPECT_EQ(wanted->ordinal, 1U) << "the group that copies";
    EXPECT_EQ(wanted->mode, 1U) << "ZE_COMMAND_QUEUE_MODE_SYNCHRONOUS";
    if (const auto refused = self->told("zeCommandListCreateImmediate")) return refused;
    *to = only_list;
    ++self->lists;
    return level_zero::ZE_RESULT_SUCCESS;
  }
  static auto zeCommandListDestroy(list which) -> result {
    EXPECT_EQ(which, only_list);
    --self->lists;
    return self->told("zeCommandListDestroy");
  }
  static auto zeCommandListAppendMemoryCopy(list in, void* to, const void* from, std::size_t length,
                                            level_zero::ze_event_handle_t signal,
                                            std::uint32_t waits, level_zero::ze_event_handle_t*)
      -> result {
    EXPECT_EQ(in, only_list);
    EXPECT_EQ(signal, nullptr);
    EXPECT_EQ(waits, 0U);
    EXPECT_TRUE(to == self->host.data() || from == self->host.data())
        << "other memory of the host's is not for a GPU";
    if (const auto refused = self->told("zeCommandListAppendMemoryCopy")) return refused;
    std::memcpy(to, from, length);
    self->copies.push_back(length);
    return level_zero::ZE_RESULT_SUCCESS;
  }

  auto told(const char* call) -> result { return static_cast<result>(enter(call)); }

  static inline fake_level_zero* self = nullptr;
  std::vector<std::string>& happened_;
};

}  // namespace dmabridge::test

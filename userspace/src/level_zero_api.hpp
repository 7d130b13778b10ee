// SPDX-License-Identifier: MIT
// What this library uses of Level Zero: names, values and layouts are those of oneAPI's
// level_zero/ze_api.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "dmabridge/error.hpp"
#include "shared_library.hpp"

struct _ze_driver_handle_t;
struct _ze_device_handle_t;
struct _ze_context_handle_t;
struct _ze_command_list_handle_t;
struct _ze_event_handle_t;

namespace dmabridge::level_zero {

using ze_result_t = std::uint32_t;  // an enum there
using ze_driver_handle_t = _ze_driver_handle_t*;
using ze_device_handle_t = _ze_device_handle_t*;
using ze_context_handle_t = _ze_context_handle_t*;
using ze_command_list_handle_t = _ze_command_list_handle_t*;
using ze_event_handle_t = _ze_event_handle_t*;

inline constexpr ze_result_t ZE_RESULT_SUCCESS = 0;
inline constexpr ze_result_t ZE_RESULT_ERROR_DEVICE_LOST = 0x70000001;
inline constexpr ze_result_t ZE_RESULT_ERROR_OUT_OF_HOST_MEMORY = 0x70000002;
inline constexpr ze_result_t ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY = 0x70000003;
inline constexpr ze_result_t ZE_RESULT_ERROR_INSUFFICIENT_PERMISSIONS = 0x70010000;
inline constexpr ze_result_t ZE_RESULT_ERROR_NOT_AVAILABLE = 0x70010001;
inline constexpr ze_result_t ZE_RESULT_ERROR_DEPENDENCY_UNAVAILABLE = 0x70020000;
inline constexpr ze_result_t ZE_RESULT_ERROR_UNINITIALIZED = 0x78000001;
inline constexpr ze_result_t ZE_RESULT_ERROR_UNSUPPORTED_VERSION = 0x78000002;
inline constexpr ze_result_t ZE_RESULT_ERROR_UNSUPPORTED_FEATURE = 0x78000003;
inline constexpr ze_result_t ZE_RESULT_ERROR_INVALID_ARGUMENT = 0x78000004;
inline constexpr ze_result_t ZE_RESULT_ERROR_INVALID_NULL_HANDLE = 0x78000005;
inline constexpr ze_result_t ZE_RESULT_ERROR_INVALID_NULL_POINTER = 0x78000007;
inline constexpr ze_result_t ZE_RESULT_ERROR_INVALID_SIZE = 0x78000008;
inline constexpr ze_result_t ZE_RESULT_ERROR_UNSUPPORTED_SIZE = 0x78000009;
inline constexpr ze_result_t ZE_RESULT_ERROR_INVALID_ENUMERATION = 0x7800000c;
inline constexpr ze_result_t ZE_RESULT_ERROR_UNSUPPORTED_ENUMERATION = 0x7800000d;
inline constexpr ze_result_t ZE_RESULT_ERROR_UNKNOWN = 0x7ffffffe;

// ze_structure_type_t
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES = 0x3;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_COMMAND_QUEUE_GROUP_PROPERTIES = 0x6;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_DEVICE_EXTERNAL_MEMORY_PROPERTIES = 0xc;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_CONTEXT_DESC = 0xd;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC = 0xe;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_DEVICE_MEM_ALLOC_DESC = 0x15;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC = 0x16;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_MEMORY_ALLOCATION_PROPERTIES = 0x17;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_EXTERNAL_MEMORY_EXPORT_DESC = 0x18;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMPORT_FD = 0x19;
inline constexpr std::uint32_t ZE_STRUCTURE_TYPE_EXTERNAL_MEMORY_EXPORT_FD = 0x1a;

inline constexpr std::uint32_t ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF = 1U << 1;
inline constexpr std::uint32_t ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY = 1U << 1;
inline constexpr std::uint32_t ZE_COMMAND_QUEUE_MODE_SYNCHRONOUS = 1;
inline constexpr std::uint32_t ZE_DEVICE_TYPE_GPU = 1;
inline constexpr std::uint32_t ZE_MEMORY_TYPE_DEVICE = 2;

// Enums and flags are 32 bits there.
struct ze_device_properties_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_DEVICE_PROPERTIES;
  void* pNext = nullptr;
  std::uint32_t type = 0;
  std::uint32_t vendorId = 0;
  std::uint32_t deviceId = 0;
  std::uint32_t flags = 0;
  std::uint32_t subdeviceId = 0;
  std::uint32_t coreClockRate = 0;
  std::uint64_t maxMemAllocSize = 0;
  std::uint32_t maxHardwareContexts = 0;
  std::uint32_t maxCommandQueuePriority = 0;
  std::uint32_t numThreadsPerEU = 0;
  std::uint32_t physicalEUSimdWidth = 0;
  std::uint32_t numEUsPerSubslice = 0;
  std::uint32_t numSubslicesPerSlice = 0;
  std::uint32_t numSlices = 0;
  std::uint64_t timerResolution = 0;
  std::uint32_t timestampValidBits = 0;
  std::uint32_t kernelTimestampValidBits = 0;
  std::uint8_t uuid[16] = {};
  char name[256] = {};
};
static_assert(sizeof(ze_device_properties_t) == 368);
static_assert(offsetof(ze_device_properties_t, name) == 112);

struct ze_command_queue_group_properties_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_GROUP_PROPERTIES;
  void* pNext = nullptr;
  std::uint32_t flags = 0;
  std::size_t maxMemoryFillPatternSize = 0;
  std::uint32_t numQueues = 0;
};
static_assert(sizeof(ze_command_queue_group_properties_t) == 40);

struct ze_device_external_memory_properties_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_DEVICE_EXTERNAL_MEMORY_PROPERTIES;
  void* pNext = nullptr;
  std::uint32_t memoryAllocationImportTypes = 0;
  std::uint32_t memoryAllocationExportTypes = 0;
  std::uint32_t imageImportTypes = 0;
  std::uint32_t imageExportTypes = 0;
};
static_assert(sizeof(ze_device_external_memory_properties_t) == 32);

struct ze_context_desc_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_CONTEXT_DESC;
  const void* pNext = nullptr;
  std::uint32_t flags = 0;
};
static_assert(sizeof(ze_context_desc_t) == 24);

struct ze_command_queue_desc_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_COMMAND_QUEUE_DESC;
  const void* pNext = nullptr;
  std::uint32_t ordinal = 0;
  std::uint32_t index = 0;
  std::uint32_t flags = 0;
  std::uint32_t mode = 0;
  std::uint32_t priority = 0;
};
static_assert(sizeof(ze_command_queue_desc_t) == 40);

struct ze_device_mem_alloc_desc_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_DEVICE_MEM_ALLOC_DESC;
  const void* pNext = nullptr;
  std::uint32_t flags = 0;
  std::uint32_t ordinal = 0;
};
static_assert(sizeof(ze_device_mem_alloc_desc_t) == 24);

struct ze_host_mem_alloc_desc_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_HOST_MEM_ALLOC_DESC;
  const void* pNext = nullptr;
  std::uint32_t flags = 0;
};
static_assert(sizeof(ze_host_mem_alloc_desc_t) == 24);

struct ze_memory_allocation_properties_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_MEMORY_ALLOCATION_PROPERTIES;
  void* pNext = nullptr;
  std::uint32_t type = 0;
  std::uint64_t id = 0;
  std::uint64_t pageSize = 0;
};
static_assert(sizeof(ze_memory_allocation_properties_t) == 40);

struct ze_external_memory_export_desc_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_EXTERNAL_MEMORY_EXPORT_DESC;
  const void* pNext = nullptr;
  std::uint32_t flags = 0;
};
static_assert(sizeof(ze_external_memory_export_desc_t) == 24);

struct ze_external_memory_export_fd_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_EXTERNAL_MEMORY_EXPORT_FD;
  const void* pNext = nullptr;
  std::uint32_t flags = 0;
  int fd = -1;
};
static_assert(sizeof(ze_external_memory_export_fd_t) == 24);

struct ze_external_memory_import_fd_t {
  std::uint32_t stype = ZE_STRUCTURE_TYPE_EXTERNAL_MEMORY_IMPORT_FD;
  const void* pNext = nullptr;
  std::uint32_t flags = 0;
  int fd = -1;
};
static_assert(sizeof(ze_external_memory_import_fd_t) == 24);

}  // namespace dmabridge::level_zero

namespace dmabridge {

// The loader, loaded and initialised. Calls are made from any thread.
class level_zero_api {
 public:
  // Throws dmabridge::error.
  level_zero_api();

  // "ZE_RESULT_ERROR_OUT_OF_DEVICE_MEMORY (0x70000003)"
  static auto text(level_zero::ze_result_t result) -> std::string;
  // Throws dmabridge::error unless `result`, which `call` returned, is ZE_RESULT_SUCCESS.
  static void check(const char* attempted, const char* call, level_zero::ze_result_t result,
                    error_kind kind = error_kind::system);

  level_zero::ze_result_t (*zeInit)(std::uint32_t flags);
  level_zero::ze_result_t (*zeDriverGet)(std::uint32_t* count, level_zero::ze_driver_handle_t*);
  level_zero::ze_result_t (*zeDeviceGet)(level_zero::ze_driver_handle_t, std::uint32_t* count,
                                         level_zero::ze_device_handle_t*);
  level_zero::ze_result_t (*zeDeviceGetProperties)(level_zero::ze_device_handle_t,
                                                   level_zero::ze_device_properties_t*);
  level_zero::ze_result_t (*zeDeviceGetExternalMemoryProperties)(
      level_zero::ze_device_handle_t, level_zero::ze_device_external_memory_properties_t*);
  level_zero::ze_result_t (*zeDeviceGetCommandQueueGroupProperties)(
      level_zero::ze_device_handle_t, std::uint32_t* count,
      level_zero::ze_command_queue_group_properties_t*);
  level_zero::ze_result_t (*zeContextCreate)(level_zero::ze_driver_handle_t,
                                             const level_zero::ze_context_desc_t*,
                                             level_zero::ze_context_handle_t*);
  level_zero::ze_result_t (*zeContextDestroy)(level_zero::ze_context_handle_t);
  level_zero::ze_result_t (*zeMemAllocDevice)(level_zero::ze_context_handle_t,
                                              const level_zero::ze_device_mem_alloc_desc_t*,
                                              std::size_t size, std::size_t alignment,
                                              level_zero::ze_device_handle_t, void** pointer);
  level_zero::ze_result_t (*zeMemAllocHost)(level_zero::ze_context_handle_t,
                                            const level_zero::ze_host_mem_alloc_desc_t*,
                                            std::size_t size, std::size_t alignment,
                                            void** pointer);
  level_zero::ze_result_t (*zeMemFree)(level_zero::ze_context_handle_t, void* pointer);
  level_zero::ze_result_t (*zeMemGetAllocProperties)(level_zero::ze_context_handle_t,
                                                     const void* pointer,
                                                     level_zero::ze_memory_allocation_properties_t*,
                                                     level_zero::ze_device_handle_t*);
  level_zero::ze_result_t (*zeMemGetAddressRange)(level_zero::ze_context_handle_t,
                                                  const void* pointer, void** base,
                                                  std::size_t* size);
  level_zero::ze_result_t (*zeCommandListCreateImmediate)(
      level_zero::ze_context_handle_t, level_zero::ze_device_handle_t,
      const level_zero::ze_command_queue_desc_t*, level_zero::ze_command_list_handle_t*);
  level_zero::ze_result_t (*zeCommandListDestroy)(level_zero::ze_command_list_handle_t);
  level_zero::ze_result_t (*zeCommandListAppendMemoryCopy)(level_zero::ze_command_list_handle_t,
                                                           void* to, const void* from,
                                                           std::size_t length,
                                                           level_zero::ze_event_handle_t signal,
                                                           std::uint32_t wait_count,
                                                           level_zero::ze_event_handle_t* wait_for);

 private:
  shared_library library_;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/level_zero_memory.hpp"
#include "level_zero_api.hpp"
#include "level_zero_gpu.hpp"
#include "memory_range.hpp"
#include "page.hpp"
#include "system_calls.hpp"

namespace dmabridge {

using namespace level_zero;

// Intel's driver leaves the descriptor open and to the caller, as long as the memory is there;
// before 2023 it closed it together with the memory. So it has one of its own.
struct level_zero_import::parts {
  parts(shared_api by, const buffer& from)
      : api(std::move(by)), memory(buffer::duplicate(from.descriptor())) {}
  parts(const parts&) = delete;
  auto operator=(const parts&) -> parts& = delete;
  ~parts() {
    if (pointer == nullptr) return;
    api->zeMemFree(context, pointer);
    if (!is_open()) memory.release();
  }

  auto is_open() const -> bool {
    struct stat now{};
    return sys().fstat(memory.descriptor(), &now) == 0 && now.st_ino == memory.inode();
  }

  shared_api api;
  std::unique_ptr<own_context> held{};  // empty: the context is the caller's
  ze_context_handle_t context = nullptr;
  buffer memory;
  void* pointer = nullptr;
};

namespace {

auto attempt_to_import(const buffer& memory) -> std::string {
  const auto exporter = memory.exporter();
  return fmt::format("import fd {}, a dma-buf of {} bytes of {}, into Level Zero",
                     memory.descriptor(), memory.size(),
                     exporter.empty() ? "an unknown exporter" : exporter);
}

void check_imports(const level_zero_api& api, ze_device_handle_t device,
                   const std::string& attempted) {
  ze_device_external_memory_properties_t properties;
  level_zero_api::check(attempted.c_str(), "zeDeviceGetExternalMemoryProperties",
                        api.zeDeviceGetExternalMemoryProperties(device, &properties));
  if ((properties.memoryAllocationImportTypes & ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF) != 0) return;
  throw error({.kind = error_kind::system,
               .attempted = attempted,
               .code = EOPNOTSUPP,
               .detail = fmt::format("the driver imports no dma-bufs into memory of this GPU "
                                     "(memoryAllocationImportTypes is {:#x})",
                                     properties.memoryAllocationImportTypes),
               .remedies = {"use a newer version of Intel's GPU driver for Level Zero"}});
}

[[noreturn]] void fail_import(const std::string& attempted, ze_result_t result) {
  constexpr auto* call = "zeMemAllocDevice(ze_external_memory_import_fd_t)";
  try {
    level_zero_api::check(attempted.c_str(), call, result);
  } catch (const error& failure) {
    auto details = failure.details();
    details.remedies.emplace_back(
        "see whether the GPU's kernel driver can attach to it: dmabridge explain MEMORY CARD, and "
        "the kernel's log (dmesg)");
    throw error(std::move(details));
  }
  throw error({.attempted = attempted, .detail = fmt::format("{} gave no address", call)});
}

void take(level_zero_import::parts& made, ze_device_handle_t device, const std::string& attempted) {
  check_imports(*made.api, device, attempted);
  const ze_external_memory_import_fd_t import{.flags = ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF,
                                              .fd = made.memory.descriptor()};
  const ze_device_mem_alloc_desc_t wanted{.pNext = &import};
  void* pointer = nullptr;
  const auto result = made.api->zeMemAllocDevice(made.context, &wanted, made.memory.size(),
                                                 page_size(), device, &pointer);
  if (result != ZE_RESULT_SUCCESS || pointer == nullptr) fail_import(attempted, result);
  made.pointer = pointer;
}

}  // namespace

level_zero_import::level_zero_import(std::unique_ptr<parts> made) noexcept
    : parts_(std::move(made)) {}
level_zero_import::level_zero_import(level_zero_import&&) noexcept = default;
auto level_zero_import::operator=(level_zero_import&&) noexcept -> level_zero_import& = default;
level_zero_import::~level_zero_import() = default;

auto level_zero_import::pointer() const noexcept -> void* {
  return parts_->pointer;
}

auto level_zero_import::context() const noexcept -> _ze_context_handle_t* {
  return parts_->context;
}

auto level_zero_import::size() const noexcept -> std::uint64_t {
  return parts_->memory.size();
}

auto import_to_level_zero(_ze_context_handle_t* context, _ze_device_handle_t* device,
                          const buffer& memory) -> level_zero_import {
  const auto attempted = attempt_to_import(memory);
  if (context == nullptr || device == nullptr) {  // the loader would follow them
    throw error({.kind = error_kind::usage,
                 .attempted = attempted,
                 .detail = context == nullptr ? "there is no context" : "there is no device",
                 .remedies = {"pass the context to import it into, and a GPU that is in it"}});
  }
  auto made =
      std::make_unique<level_zero_import::parts>(std::make_shared<const level_zero_api>(), memory);
  made->context = context;
  take(*made, device, attempted);
  return level_zero_import(std::move(made));
}

auto import_to_level_zero(const buffer& memory, int device) -> level_zero_import {
  const auto attempted = attempt_to_import(memory);
  const auto api = std::make_shared<const level_zero_api>();
  const auto where = find_gpu(*api, device);
  auto made = std::make_unique<level_zero_import::parts>(api, memory);
  made->held = std::make_unique<own_context>(api, where.driver, attempted.c_str());
  made->context = made->held->get();
  take(*made, where.device, attempted);
  return level_zero_import(std::move(made));
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/level_zero_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "level_zero_api.hpp"
#include "level_zero_gpu.hpp"
#include "memory_range.hpp"
#include "page.hpp"

namespace dmabridge {

level_zero_memory::~level_zero_memory() = default;

namespace {

using namespace level_zero;

constexpr const char* exporting = "export memory of Level Zero as a dma-buf";
constexpr const char* allocating = "allocate memory of Level Zero";

// Memory that is freed with this, from zeMemAllocDevice() or zeMemAllocHost().
class own_memory {
 public:
  static auto on_device(shared_api api, ze_context_handle_t context, ze_device_handle_t device,
                        std::uint64_t size) -> std::unique_ptr<own_memory> {
    const ze_external_memory_export_desc_t to_export{.flags = ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF};
    const ze_device_mem_alloc_desc_t wanted{.pNext = &to_export};
    void* pointer = nullptr;
    level_zero_api::check(
        allocating, "zeMemAllocDevice",
        api->zeMemAllocDevice(context, &wanted, size, page_size(), device, &pointer));
    return std::make_unique<own_memory>(std::move(api), context, pointer);
  }

  static auto on_host(shared_api api, ze_context_handle_t context, std::uint64_t size)
      -> std::unique_ptr<own_memory> {
    const ze_host_mem_alloc_desc_t wanted;
    void* pointer = nullptr;
    level_zero_api::check(allocating, "zeMemAllocHost",
                          api->zeMemAllocHost(context, &wanted, size, page_size(), &pointer));
    return std::make_unique<own_memory>(std::move(api), context, pointer);
  }

  own_memory(shared_api api, ze_context_handle_t context, void* pointer)
      : api_(std::move(api)), context_(context), pointer_(pointer) {}
  own_memory(const own_memory&) = delete;
  auto operator=(const own_memory&) -> own_memory& = delete;
  ~own_memory() { api_->zeMemFree(context_, pointer_); }

  auto pointer() const noexcept -> void* { return pointer_; }

 private:
  shared_api api_;
  ze_context_handle_t context_;
  void* pointer_;
};

// The number of a group of queues that can copy.
auto copy_group(const level_zero_api& api, ze_device_handle_t device) -> std::uint32_t {
  const auto of_device = [&](std::uint32_t* count, ze_command_queue_group_properties_t* groups) {
    return api.zeDeviceGetCommandQueueGroupProperties(device, count, groups);
  };
  const auto groups = list<ze_command_queue_group_properties_t>(
      "zeDeviceGetCommandQueueGroupProperties", of_device);
  const auto able = std::ranges::find_if(groups, [](const auto& group) {
    return (group.flags & ZE_COMMAND_QUEUE_GROUP_PROPERTY_FLAG_COPY) != 0;
  });
  if (able != groups.end()) return static_cast<std::uint32_t>(able - groups.begin());
  throw error(
      {.kind = error_kind::system,
       .attempted = exporting,
       .code = EOPNOTSUPP,
       .detail = fmt::format("none of the GPU's {} groups of queues can copy", groups.size())});
}

// Copies by a command list that is carried out at once. What the GPU touches has to be memory of
// Level Zero; ordinary memory is on the way copied through a piece of it.
class copier {
 public:
  copier(shared_api api, ze_context_handle_t context, ze_device_handle_t device)
      : api_(std::move(api)), between_(own_memory::on_host(api_, context, piece)) {
    const ze_command_queue_desc_t wanted{.ordinal = copy_group(*api_, device),
                                         .mode = ZE_COMMAND_QUEUE_MODE_SYNCHRONOUS};
    level_zero_api::check(exporting, "zeCommandListCreateImmediate",
                          api_->zeCommandListCreateImmediate(context, device, &wanted, &list_));
  }
  copier(const copier&) = delete;
  auto operator=(const copier&) -> copier& = delete;
  ~copier() { api_->zeCommandListDestroy(list_); }

  void copy_in(std::byte* to, std::span<const std::byte> from) {
    while (!from.empty()) {
      const auto length = std::min(from.size(), piece);
      std::memcpy(between_->pointer(), from.data(), length);
      run("copy into memory of Level Zero", to, between_->pointer(), length);
      from = from.subspan(length);
      to += length;
    }
  }

  void copy_out(const std::byte* from, std::span<std::byte> into) {
    while (!into.empty()) {
      const auto length = std::min(into.size(), piece);
      run("copy from memory of Level Zero", between_->pointer(), from, length);
      std::memcpy(into.data(), between_->pointer(), length);
      into = into.subspan(length);
      from += length;
    }
  }

 private:
  static constexpr std::size_t piece = std::size_t{1} << 20;

  void run(const char* attempted, void* to, const void* from, std::size_t length) {
    level_zero_api::check(
        attempted, "zeCommandListAppendMemoryCopy",
        api_->zeCommandListAppendMemoryCopy(list_, to, from, length, nullptr, 0, nullptr),
        error_kind::io);
  }

  shared_api api_;
  std::unique_ptr<own_memory> between_;
  ze_command_list_handle_t list_ = nullptr;
};

// Where memory is. Without `held` and `allocation`, it is the caller's, context and all.
struct home {
  gpu where;
  ze_context_handle_t context = nullptr;
  std::unique_ptr<own_context> held{};
  std::unique_ptr<own_memory> allocation{};  // goes before the context
};

class owner final : public level_zero_memory {
 public:
  owner(home where, std::unique_ptr<copier> by, void* pointer, std::uint64_t size, std::string name)
      : home_(std::move(where)),
        copier_(std::move(by)),
        pointer_(static_cast<std::byte*>(pointer)),
        size_(size),
        name_(std::move(name)) {}

  auto name() const -> std::string override { return name_; }
  auto pointer() const noexcept -> void* override { return pointer_; }
  auto context() const noexcept -> _ze_context_handle_t* override { return home_.context; }

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    check_copy(*this, size_, offset, from.size());
    copier_->copy_in(pointer_ + offset, from);
  }

  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    check_copy(*this, size_, offset, into.size());
    copier_->copy_out(pointer_ + offset, into);
  }

 private:
  home home_;
  std::unique_ptr<copier> copier_;  // goes before the context
  std::byte* pointer_;
  std::uint64_t size_;
  std::string name_;
};

void check_exports(const level_zero_api& api, ze_device_handle_t device) {
  ze_device_external_memory_properties_t properties;
  level_zero_api::check(exporting, "zeDeviceGetExternalMemoryProperties",
                        api.zeDeviceGetExternalMemoryProperties(device, &properties));
  if ((properties.memoryAllocationExportTypes & ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF) != 0) return;
  throw error({.kind = error_kind::system,
               .attempted = exporting,
               .code = EOPNOTSUPP,
               .detail = fmt::format("the driver exports no dma-bufs of this GPU "
                                     "(memoryAllocationExportTypes is {:#x})",
                                     properties.memoryAllocationExportTypes),
               .remedies = {"use a newer version of Intel's GPU driver for Level Zero"}});
}

auto no_memory_to_export(const void* pointer, const std::string& what, std::string remedy)
    -> error {
  return error({.kind = error_kind::usage,
                .attempted = exporting,
                .detail = fmt::format("{} at address {}", what, fmt::ptr(pointer)),
                .remedies = {std::move(remedy)}});
}

// The GPU that has the memory.
auto locate(const level_zero_api& api, ze_context_handle_t context, const void* pointer) -> gpu {
  ze_memory_allocation_properties_t properties;
  gpu found;
  level_zero_api::check(exporting, "zeMemGetAllocProperties",
                        api.zeMemGetAllocProperties(context, pointer, &properties, &found.device));
  if (properties.type != ZE_MEMORY_TYPE_DEVICE || found.device == nullptr) {
    throw no_memory_to_export(pointer, "this context has no device memory",
                              "pass an address from zeMemAllocDevice() and the context that it was "
                              "allocated in; host and shared memory is not for this");
  }
  return found;
}

struct export_result {
  int descriptor = -1;  // the driver's, which closes it when the memory is freed
  std::uint64_t offset = 0;
};

auto get_handle(const level_zero_api& api, ze_context_handle_t context, const void* pointer)
    -> export_result {
  void* base = nullptr;
  std::size_t length = 0;
  level_zero_api::check(exporting, "zeMemGetAddressRange",
                        api.zeMemGetAddressRange(context, pointer, &base, &length));
  ze_external_memory_export_fd_t exported{.flags = ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF};
  ze_memory_allocation_properties_t properties{.pNext = &exported};
  level_zero_api::check(exporting, "zeMemGetAllocProperties(ze_external_memory_export_fd_t)",
                        api.zeMemGetAllocProperties(context, base, &properties, nullptr));
  if (exported.fd < 0) {
    throw no_memory_to_export(pointer, "the driver gave no descriptor for the memory",
                              "let zeMemAllocDevice() have a ze_external_memory_export_desc_t with "
                              "ZE_EXTERNAL_MEMORY_TYPE_FLAG_DMA_BUF");
  }
  const auto offset = static_cast<const std::byte*>(pointer) - static_cast<const std::byte*>(base);
  return {.descriptor = exported.fd, .offset = static_cast<std::uint64_t>(offset)};
}

auto make(const shared_api& api, home where, void* pointer, std::uint64_t size) -> exported_memory {
  const std::string device_name = properties_of(*api, where.where.device).name;
  auto by = std::make_unique<copier>(api, where.context, where.where.device);
  const auto handle = get_handle(*api, where.context, pointer);
  auto memory = buffer::duplicate(handle.descriptor);
  // An allocation of ours has its last page for itself.
  const auto ours = where.allocation ? round_to_pages(size) : size;
  auto name = owner_name("level_zero", device_name, {surroundings(memory, handle.offset, ours)});
  auto kept =
      std::make_unique<owner>(std::move(where), std::move(by), pointer, size, std::move(name));
  return {std::move(memory), handle.offset, size, std::move(kept)};
}

}  // namespace

auto export_level_zero_memory(_ze_context_handle_t* context, void* pointer, std::uint64_t size)
    -> exported_memory {
  check_address_range(exporting, reinterpret_cast<std::uintptr_t>(pointer), size);
  if (context == nullptr) {  // the loader would follow it
    throw no_memory_to_export(pointer, "without a context there is no memory",
                              "pass the context that it was allocated in");
  }
  const auto api = std::make_shared<const level_zero_api>();
  home where{.where = locate(*api, context, pointer), .context = context};
  check_exports(*api, where.where.device);
  return make(api, std::move(where), pointer, size);
}

auto allocate_level_zero_memory(std::uint64_t size, int device) -> exported_memory {
  check_new_size(allocating, size);
  const auto api = std::make_shared<const level_zero_api>();
  home where{.where = find_gpu(*api, device)};
  check_exports(*api, where.where.device);
  where.held = std::make_unique<own_context>(api, where.where.driver, allocating);
  where.context = where.held->get();
  where.allocation =
      own_memory::on_device(api, where.context, where.where.device, round_to_pages(size));
  auto* const pointer = where.allocation->pointer();
  return make(api, std::move(where), pointer, size);
}

}  // namespace dmabridge

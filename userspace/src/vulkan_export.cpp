// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <optional>
#include <string>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/vulkan_memory.hpp"
#include "memory_range.hpp"
#include "system_calls.hpp"
#include "vulkan_allocation.hpp"
#include "vulkan_choice.hpp"
#include "vulkan_copier.hpp"
#include "vulkan_result.hpp"

namespace dmabridge {
namespace {

// A VkBuffer whose memory is a dma-buf.
class owner final : public memory_owner {
 public:
  // `allocated` is empty if the buffer is the caller's. `dmabuf` is to ask for fences.
  owner(vulkan_device_state device, std::optional<vulkan_buffer> allocated, VkBuffer buffer,
        std::uint64_t size, fd dmabuf)
      : device_(std::move(device)),
        allocated_(std::move(allocated)),
        buffer_(buffer),
        size_(size),
        dmabuf_(std::move(dmabuf)) {}

  auto name() const -> std::string override { return fmt::format("vulkan ({})", device_->name()); }

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    check_copy(*this, size_, offset, from.size());
    wait_for_others(POLLOUT);
    copier().copy_in(buffer_, offset, from);
  }

  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    check_copy(*this, size_, offset, into.size());
    wait_for_others(POLLIN);
    copier().copy_out(buffer_, offset, into);
  }

 private:
  // Vulkan looks at no fence that others have put on the dma-buf. POLLIN: of writers; POLLOUT: all.
  void wait_for_others(short events) const;
  auto copier() -> vulkan_copier& { return copier_ ? *copier_ : copier_.emplace(device_); }

  vulkan_device_state device_;
  std::optional<vulkan_buffer> allocated_;
  VkBuffer buffer_;
  std::uint64_t size_;
  fd dmabuf_;
  std::optional<vulkan_copier> copier_{};  // from the first copy on
};

void owner::wait_for_others(short events) const {
  short seen = 0;
  int result = 0;
  do {
    result = sys().poll(dmabuf_.get(), events, -1, seen);
  } while (result == -EINTR);
  if (result < 0) {
    throw error({.kind = error_kind::io,
                 .attempted = fmt::format("wait for those who use the memory of {}", name()),
                 .code = -result});
  }
}

auto export_fd(const vulkan_state& device, VkDeviceMemory memory, const std::string& attempted)
    -> fd {
  const VkMemoryGetFdInfoKHR wanted{.sType = VK_STRUCTURE_TYPE_MEMORY_GET_FD_INFO_KHR,
                                    .pNext = nullptr,
                                    .memory = memory,
                                    .handleType = vulkan_dmabuf};
  int descriptor = -1;
  vulkan_check(device.calls().vkGetMemoryFdKHR(device.device(), &wanted, &descriptor),
               "vkGetMemoryFdKHR", attempted);
  return fd(descriptor);
}

auto join(const vulkan_device_state& device, std::optional<vulkan_buffer> allocated,
          const vulkan_allocation& what, const std::string& attempted) -> exported_memory {
  auto memory = buffer::from_fd(export_fd(*device, what.memory, attempted));
  std::error_code ec;
  auto second = fd::duplicate(memory.descriptor(), ec);
  if (ec) throw error({.attempted = attempted, .code = ec.value()});
  return {std::move(memory), what.offset, what.size,
          std::make_unique<owner>(device, std::move(allocated), what.buffer, what.size,
                                  std::move(second))};
}

// Whether the memory must be one buffer's alone.
auto check_features(const vulkan_state& device, VkBufferUsageFlags usage,
                    const std::string& attempted) -> bool {
  const auto features = buffer_features(device.calls(), device.handles().physical_device, usage);
  if ((features & VK_EXTERNAL_MEMORY_FEATURE_EXPORTABLE_BIT) == 0) {
    throw error({.kind = error_kind::system,
                 .attempted = attempted,
                 .detail = fmt::format(
                     "its buffers with usage {:#x} as dma-bufs are not EXPORTABLE (they are: "
                     "{})",
                     usage, describe_features(features)),
                 .remedies = export_remedies(device.type())});
  }
  return (features & VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT) != 0;
}

auto allocate_exportable(const vulkan_device_state& device, const vulkan_requirements& needs,
                         VkBuffer buffer, const std::string& attempted) -> vulkan_memory_object {
  auto type =
      memory_type(*device, needs.memory.memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
  if (!type) type = memory_type(*device, needs.memory.memoryTypeBits, 0);
  if (!type) {
    throw error({.attempted = attempted,
                 .detail = fmt::format("the device has none of the memory types {:#x} that it "
                                       "asks for",
                                       needs.memory.memoryTypeBits)});
  }
  const VkMemoryDedicatedAllocateInfo dedicated{
      .sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
      .pNext = nullptr,
      .image = VK_NULL_HANDLE,
      .buffer = buffer};
  const VkExportMemoryAllocateInfo exported{.sType = VK_STRUCTURE_TYPE_EXPORT_MEMORY_ALLOCATE_INFO,
                                            .pNext = needs.dedicated ? &dedicated : nullptr,
                                            .handleTypes = vulkan_dmabuf};
  const VkMemoryAllocateInfo wanted{.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                    .pNext = &exported,
                                    .allocationSize = needs.memory.size,
                                    .memoryTypeIndex = *type};
  return allocate_memory(device, wanted, attempted);
}

}  // namespace

auto export_from_vulkan(const vulkan_device& device, std::uint64_t size, VkBufferUsageFlags usage)
    -> vulkan_export {
  const auto& state = device.state();
  const auto attempted =
      fmt::format("export {} bytes of the Vulkan device {}", size, device.name());
  if (size == 0) {
    throw error({.kind = error_kind::usage, .attempted = attempted, .detail = "that is nothing"});
  }
  const auto dedicated_only = check_features(*state, usage, attempted);
  auto made = std::make_unique<vulkan_buffer::parts>();
  made->size = size;
  made->buffer = make_buffer(state, size, usage, true, attempted);
  auto needs = requirements_of(*state, made->buffer.get());
  needs.dedicated = needs.dedicated || dedicated_only;
  made->memory = allocate_exportable(state, needs, made->buffer.get(), attempted);
  bind_memory(*state, *made, 0, attempted);
  const vulkan_allocation what{
      .memory = made->memory.get(), .buffer = made->buffer.get(), .offset = 0, .size = size};
  return {.memory = join(state, vulkan_buffer(std::move(made)), what, attempted),
          .buffer = what.buffer,
          .device_memory = what.memory};
}

auto export_from_vulkan(const vulkan_device& device, const vulkan_allocation& theirs)
    -> exported_memory {
  return join(device.state(), {}, theirs,
              fmt::format("export memory of the caller's of the Vulkan device {}", device.name()));
}

}  // namespace dmabridge

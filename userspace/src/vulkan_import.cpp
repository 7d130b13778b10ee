// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <string>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/vulkan_memory.hpp"
#include "vulkan_allocation.hpp"
#include "vulkan_choice.hpp"
#include "vulkan_result.hpp"

namespace dmabridge {
namespace {

// One dma-buf on its way into one device.
class importer {
 public:
  importer(const vulkan_device_state& device, const buffer& memory, const vulkan_import& wanted)
      : device_(device),
        memory_(memory),
        wanted_(wanted),
        attempted_(
            fmt::format("import fd {}, a dma-buf of {} bytes of {}, into the Vulkan device {}",
                        memory.descriptor(), memory.size(), exporter_of(memory), device->name())) {}

  auto operator()() -> vulkan_buffer;

 private:
  static auto exporter_of(const buffer& memory) -> std::string {
    auto name = memory.exporter();
    return name.empty() ? "an unknown exporter" : name;
  }

  [[noreturn]] void refuse(error_kind kind, std::string detail,
                           std::vector<std::string> remedies = {}) const {
    throw error({.kind = kind,
                 .attempted = attempted_,
                 .detail = std::move(detail),
                 .remedies = std::move(remedies)});
  }

  auto range() const -> std::uint64_t;
  // Whether the memory must be one buffer's alone.
  auto check_features() const -> bool;
  void check_fit(const vulkan_requirements& needs, std::uint64_t size) const;
  auto type_for(const vulkan_requirements& needs) const -> std::uint32_t;
  auto take_fd(const vulkan_requirements& needs, VkBuffer buffer) const -> vulkan_memory_object;

  const vulkan_device_state& device_;
  const buffer& memory_;
  const vulkan_import& wanted_;
  std::string attempted_;
};

auto importer::range() const -> std::uint64_t {
  const auto rest = memory_.size() - std::min(memory_.size(), wanted_.offset);
  if (rest == 0 || wanted_.size > rest) {
    refuse(error_kind::usage,
           fmt::format("{} bytes from {} are not in it", wanted_.size, wanted_.offset));
  }
  return wanted_.size != 0 ? wanted_.size : rest;
}

auto importer::check_features() const -> bool {
  const auto features =
      buffer_features(device_->calls(), device_->handles().physical_device, wanted_.usage);
  if ((features & VK_EXTERNAL_MEMORY_FEATURE_IMPORTABLE_BIT) == 0) {
    refuse(error_kind::system,
           fmt::format("its buffers with usage {:#x} as dma-bufs are not IMPORTABLE (they are: {})",
                       wanted_.usage, describe_features(features)),
           {"ask for less usage, or use another device"});
  }
  return (features & VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT) != 0;
}

void importer::check_fit(const vulkan_requirements& needs, std::uint64_t size) const {
  const auto alignment = needs.memory.alignment;
  if (wanted_.offset % alignment != 0 || (needs.dedicated && wanted_.offset != 0)) {
    refuse(error_kind::usage,
           needs.dedicated
               ? fmt::format("offset {}: the device takes whole dma-bufs only", wanted_.offset)
               : fmt::format("offset {} is no multiple of {}, which the device asks for",
                             wanted_.offset, alignment),
           {"import all of it, and use an offset where the buffer is bound to a descriptor"});
  }
  if (needs.memory.size > memory_.size() - wanted_.offset) {
    refuse(error_kind::usage,
           fmt::format("for {} bytes the device wants {}, and from {} on there are {}", size,
                       needs.memory.size, wanted_.offset, memory_.size() - wanted_.offset),
           {fmt::format("make the buffer a multiple of {} bytes", alignment)});
  }
}

auto importer::type_for(const vulkan_requirements& needs) const -> std::uint32_t {
  VkMemoryFdPropertiesKHR properties{};
  properties.sType = VK_STRUCTURE_TYPE_MEMORY_FD_PROPERTIES_KHR;
  const auto result = device_->calls().vkGetMemoryFdPropertiesKHR(
      device_->device(), vulkan_dmabuf, memory_.descriptor(), &properties);
  if (result != VK_SUCCESS) {
    throw vulkan_failure(attempted_, "vkGetMemoryFdPropertiesKHR", result,
                         {"use a device that reaches the memory of this exporter"});
  }
  const auto type =
      memory_type(*device_, properties.memoryTypeBits & needs.memory.memoryTypeBits, 0);
  if (!type) {
    refuse(error_kind::system,
           fmt::format("no memory type will do: the dma-buf can be of types {:#x}, the buffer "
                       "of types {:#x}",
                       properties.memoryTypeBits, needs.memory.memoryTypeBits),
           {"ask for less usage, or use another device"});
  }
  return *type;
}

// An import that succeeds takes the fd, and one that fails does not.
auto importer::take_fd(const vulkan_requirements& needs, VkBuffer buffer) const
    -> vulkan_memory_object {
  std::error_code ec;
  auto own = fd::duplicate(memory_.descriptor(), ec);
  if (ec) throw error({.attempted = attempted_, .code = ec.value()});
  const VkMemoryDedicatedAllocateInfo dedicated{
      .sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
      .pNext = nullptr,
      .image = VK_NULL_HANDLE,
      .buffer = buffer};
  const VkImportMemoryFdInfoKHR import{.sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR,
                                       .pNext = needs.dedicated ? &dedicated : nullptr,
                                       .handleType = vulkan_dmabuf,
                                       .fd = own.get()};
  const VkMemoryAllocateInfo wanted{
      .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
      .pNext = &import,
      .allocationSize = needs.dedicated ? needs.memory.size : memory_.size(),
      .memoryTypeIndex = type_for(needs)};
  VkDeviceMemory made = VK_NULL_HANDLE;
  const auto result = device_->calls().vkAllocateMemory(device_->device(), &wanted, nullptr, &made);
  if (result != VK_SUCCESS) {
    std::vector<std::string> remedies;
    if (device_->type() == VK_PHYSICAL_DEVICE_TYPE_CPU) {
      remedies.emplace_back(
          "this driver computes by the CPU: it takes dma-bufs only that the CPU "
          "can map, and those of vfio-pci, for one, it cannot");
    }
    throw vulkan_failure(attempted_, "vkAllocateMemory", result, std::move(remedies));
  }
  own.release();
  return {device_, made};
}

auto importer::operator()() -> vulkan_buffer {
  const auto size = range();
  const auto dedicated_only = check_features();
  auto made = std::make_unique<vulkan_buffer::parts>();
  made->size = size;
  made->buffer = make_buffer(device_, size, wanted_.usage, true, attempted_);
  auto needs = requirements_of(*device_, made->buffer.get());
  needs.dedicated = needs.dedicated || dedicated_only;
  check_fit(needs, size);
  made->memory = take_fd(needs, made->buffer.get());
  bind_memory(*device_, *made, wanted_.offset, attempted_);
  return vulkan_buffer(std::move(made));
}

}  // namespace

auto import_to_vulkan(const vulkan_device& device, const buffer& memory,
                      const vulkan_import& wanted) -> vulkan_buffer {
  return importer(device.state(), memory, wanted)();
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "vulkan_copier.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "vulkan_barrier.hpp"
#include "vulkan_result.hpp"

namespace dmabridge {
namespace {

constexpr std::uint64_t staging_size = std::uint64_t{4} << 20;

auto attempt(const vulkan_state& device) -> std::string {
  return fmt::format("copy by the queue of the Vulkan device {}", device.name());
}

}  // namespace

vulkan_copier::vulkan_copier(vulkan_device_state device) : device_(std::move(device)) {
  make_staging();
  make_commands();
}

void vulkan_copier::make_staging() {
  const auto attempted = attempt(*device_);
  staging_.buffer = make_buffer(device_, staging_size,
                                VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
                                false, attempted);
  const auto needs = requirements_of(*device_, staging_.buffer.get()).memory;
  constexpr VkMemoryPropertyFlags coherent =
      VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  // Reads by the CPU are slow from memory that it does not cache.
  auto type =
      memory_type(*device_, needs.memoryTypeBits, coherent | VK_MEMORY_PROPERTY_HOST_CACHED_BIT);
  if (!type) type = memory_type(*device_, needs.memoryTypeBits, coherent);
  if (!type) {
    throw error({.attempted = attempted,
                 .detail = "it has no memory that the CPU reaches, which Vulkan asks for"});
  }
  const VkMemoryAllocateInfo wanted{.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                    .pNext = nullptr,
                                    .allocationSize = needs.size,
                                    .memoryTypeIndex = *type};
  staging_.memory = allocate_memory(device_, wanted, attempted);
  bind_memory(*device_, staging_, 0, attempted);
  void* address = nullptr;
  vulkan_check(device_->calls().vkMapMemory(device_->device(), staging_.memory.get(), 0,
                                            VK_WHOLE_SIZE, 0, &address),
               "vkMapMemory", attempted);
  mapped_ = static_cast<std::byte*>(address);
}

void vulkan_copier::make_commands() {
  const auto attempted = attempt(*device_);
  const auto& calls = device_->calls();
  const VkCommandPoolCreateInfo pool_wanted{.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                            .pNext = nullptr,
                                            .flags = VK_COMMAND_POOL_CREATE_TRANSIENT_BIT,
                                            .queueFamilyIndex = device_->handles().queue_family};
  VkCommandPool pool = VK_NULL_HANDLE;
  vulkan_check(calls.vkCreateCommandPool(device_->device(), &pool_wanted, nullptr, &pool),
               "vkCreateCommandPool", attempted);
  pool_ = {device_, pool};
  const VkCommandBufferAllocateInfo wanted{.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                           .pNext = nullptr,
                                           .commandPool = pool,
                                           .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                           .commandBufferCount = 1};
  vulkan_check(calls.vkAllocateCommandBuffers(device_->device(), &wanted, &commands_),
               "vkAllocateCommandBuffers", attempted);
  const VkFenceCreateInfo fence_wanted{
      .sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO, .pNext = nullptr, .flags = 0};
  VkFence fence = VK_NULL_HANDLE;
  vulkan_check(calls.vkCreateFence(device_->device(), &fence_wanted, nullptr, &fence),
               "vkCreateFence", attempted);
  done_ = {device_, fence};
}

void vulkan_copier::record(way which, VkBuffer shared, const VkBufferCopy& piece) {
  const auto attempted = attempt(*device_);
  const auto& calls = device_->calls();
  vulkan_check(calls.vkResetCommandPool(device_->device(), pool_.get(), 0), "vkResetCommandPool",
               attempted);
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  vulkan_check(calls.vkBeginCommandBuffer(commands_, &begin), "vkBeginCommandBuffer", attempted);

  const auto access = which == way::in ? VK_ACCESS_TRANSFER_WRITE_BIT : VK_ACCESS_TRANSFER_READ_BIT;
  const auto taken = buffer_barrier(*device_, shared, ownership::taken, access);
  const auto handed = buffer_barrier(*device_, shared, ownership::handed, access);
  // The queue's earlier work, and what it has written.
  VkMemoryBarrier earlier{};
  earlier.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  earlier.srcAccessMask = VK_ACCESS_MEMORY_WRITE_BIT;
  earlier.dstAccessMask = VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  calls.vkCmdPipelineBarrier(commands_, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                             VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 1, &earlier, 1, &taken, 0, nullptr);
  if (which == way::in) {
    calls.vkCmdCopyBuffer(commands_, staging_.buffer.get(), shared, 1, &piece);
  } else {
    calls.vkCmdCopyBuffer(commands_, shared, staging_.buffer.get(), 1, &piece);
  }
  // The CPU, and the queue's later work.
  VkMemoryBarrier later{};
  later.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  later.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
  later.dstAccessMask =
      VK_ACCESS_HOST_READ_BIT | VK_ACCESS_MEMORY_READ_BIT | VK_ACCESS_MEMORY_WRITE_BIT;
  calls.vkCmdPipelineBarrier(commands_, VK_PIPELINE_STAGE_TRANSFER_BIT,
                             VK_PIPELINE_STAGE_HOST_BIT | VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0, 1,
                             &later, 1, &handed, 0, nullptr);
  vulkan_check(calls.vkEndCommandBuffer(commands_), "vkEndCommandBuffer", attempted);
}

void vulkan_copier::run() {
  const auto attempted = attempt(*device_);
  const auto& calls = device_->calls();
  VkSubmitInfo work{};
  work.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  work.commandBufferCount = 1;
  work.pCommandBuffers = &commands_;
  const auto fence = done_.get();
  device_->submit(work, fence);
  vulkan_check(calls.vkWaitForFences(device_->device(), 1, &fence, VK_TRUE,
                                     std::numeric_limits<std::uint64_t>::max()),
               "vkWaitForFences", attempted);
  vulkan_check(calls.vkResetFences(device_->device(), 1, &fence), "vkResetFences", attempted);
}

void vulkan_copier::copy_in(VkBuffer into, std::uint64_t offset, std::span<const std::byte> from) {
  while (!from.empty()) {
    const auto piece = from.first(std::min<std::size_t>(from.size(), staging_size));
    std::memcpy(mapped_, piece.data(), piece.size());
    record(way::in, into, {.srcOffset = 0, .dstOffset = offset, .size = piece.size()});
    run();
    offset += piece.size();
    from = from.subspan(piece.size());
  }
}

void vulkan_copier::copy_out(VkBuffer from, std::uint64_t offset, std::span<std::byte> into) {
  while (!into.empty()) {
    const auto piece = into.first(std::min<std::size_t>(into.size(), staging_size));
    record(way::out, from, {.srcOffset = offset, .dstOffset = 0, .size = piece.size()});
    run();
    std::memcpy(piece.data(), mapped_, piece.size());
    offset += piece.size();
    into = into.subspan(piece.size());
  }
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "compute.hpp"

#include <fmt/format.h>
#include <dmabridge/vulkan_memory.hpp>

#include <algorithm>
#include <stdexcept>

namespace sample {
namespace {

void check(VkResult result, const char* call) {
  if (result != VK_SUCCESS) {
    throw std::runtime_error(fmt::format("{} gave VkResult {}", call, static_cast<int>(result)));
  }
}

}  // namespace

compute::compute(const dmabridge::vulkan_device& device, std::span<const std::uint32_t> shader,
                 const std::vector<VkDescriptorBufferInfo>& buffers, std::uint32_t parameter,
                 std::uint32_t groups)
    : device_(device),
      handle_(device.handles().device),
      set_layout_(handle_),
      layout_(handle_),
      pipeline_(handle_),
      descriptors_(handle_),
      commands_(handle_),
      done_(handle_) {
  const auto& own = device.handles();
  vkGetDeviceQueue(handle_, own.queue_family, own.queue_index, &queue_);
  make_layouts(buffers.size());
  make_pipeline(shader);
  bind(buffers);
  record(buffers, parameter, groups);
  const VkFenceCreateInfo fence{VK_STRUCTURE_TYPE_FENCE_CREATE_INFO, nullptr, 0};
  check(vkCreateFence(handle_, &fence, nullptr, done_.put()), "vkCreateFence");
}

compute::~compute() {
  if (!submitted_) return;
  const auto fence = done_.get();
  vkWaitForFences(handle_, 1, &fence, VK_TRUE, UINT64_MAX);
}

void compute::make_layouts(std::size_t bindings) {
  std::vector<VkDescriptorSetLayoutBinding> all(bindings);
  for (std::uint32_t i = 0; i < bindings; ++i) {
    all[i] = {.binding = i,
              .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
              .descriptorCount = 1,
              .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
              .pImmutableSamplers = nullptr};
  }
  VkDescriptorSetLayoutCreateInfo set{};
  set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
  set.bindingCount = static_cast<std::uint32_t>(bindings);
  set.pBindings = all.data();
  check(vkCreateDescriptorSetLayout(handle_, &set, nullptr, set_layout_.put()),
        "vkCreateDescriptorSetLayout");

  const VkPushConstantRange constant{VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof(std::uint32_t)};
  const auto set_layout = set_layout_.get();
  VkPipelineLayoutCreateInfo layout{};
  layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  layout.setLayoutCount = 1;
  layout.pSetLayouts = &set_layout;
  layout.pushConstantRangeCount = 1;
  layout.pPushConstantRanges = &constant;
  check(vkCreatePipelineLayout(handle_, &layout, nullptr, layout_.put()), "vkCreatePipelineLayout");
}

void compute::make_pipeline(std::span<const std::uint32_t> shader) {
  VkShaderModuleCreateInfo code{};
  code.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  code.codeSize = shader.size_bytes();
  code.pCode = shader.data();
  object<VkShaderModule, vkDestroyShaderModule> module(handle_);
  check(vkCreateShaderModule(handle_, &code, nullptr, module.put()), "vkCreateShaderModule");

  VkComputePipelineCreateInfo wanted{};
  wanted.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  wanted.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  wanted.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  wanted.stage.module = module.get();
  wanted.stage.pName = "main";
  wanted.layout = layout_.get();
  check(vkCreateComputePipelines(handle_, VK_NULL_HANDLE, 1, &wanted, nullptr, pipeline_.put()),
        "vkCreateComputePipelines");
}

void compute::bind(const std::vector<VkDescriptorBufferInfo>& buffers) {
  const auto count = static_cast<std::uint32_t>(buffers.size());
  const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, count};
  VkDescriptorPoolCreateInfo pool{};
  pool.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
  pool.maxSets = 1;
  pool.poolSizeCount = 1;
  pool.pPoolSizes = &size;
  check(vkCreateDescriptorPool(handle_, &pool, nullptr, descriptors_.put()),
        "vkCreateDescriptorPool");

  const auto layout = set_layout_.get();
  VkDescriptorSetAllocateInfo set{};
  set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
  set.descriptorPool = descriptors_.get();
  set.descriptorSetCount = 1;
  set.pSetLayouts = &layout;
  check(vkAllocateDescriptorSets(handle_, &set, &set_), "vkAllocateDescriptorSets");

  VkWriteDescriptorSet write{};
  write.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
  write.dstSet = set_;
  write.descriptorCount = count;
  write.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
  write.pBufferInfo = buffers.data();
  vkUpdateDescriptorSets(handle_, 1, &write, 0, nullptr);
}

void compute::record(const std::vector<VkDescriptorBufferInfo>& buffers, std::uint32_t parameter,
                     std::uint32_t groups) {
  VkCommandPoolCreateInfo pool{};
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.queueFamilyIndex = device_.handles().queue_family;
  check(vkCreateCommandPool(handle_, &pool, nullptr, commands_.put()), "vkCreateCommandPool");
  VkCommandBufferAllocateInfo wanted{};
  wanted.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  wanted.commandPool = commands_.get();
  wanted.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  wanted.commandBufferCount = 1;
  check(vkAllocateCommandBuffers(handle_, &wanted, &command_), "vkAllocateCommandBuffers");

  // Between the barriers the memory is this device's, before and after that anybody's.
  constexpr auto access = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
  std::vector<VkBufferMemoryBarrier> taken, handed;
  std::vector<VkBuffer> seen;
  for (const auto& [buffer, offset, range] : buffers) {
    if (std::ranges::find(seen, buffer) != seen.end()) continue;
    seen.push_back(buffer);
    taken.push_back(dmabridge::take_over(device_, buffer, access));
    handed.push_back(dmabridge::hand_back(device_, buffer, access));
  }
  const auto count = static_cast<std::uint32_t>(taken.size());
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  check(vkBeginCommandBuffer(command_, &begin), "vkBeginCommandBuffer");
  vkCmdPipelineBarrier(command_, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT,
                       VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 0, nullptr, count, taken.data(), 0,
                       nullptr);
  vkCmdBindPipeline(command_, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline_.get());
  vkCmdBindDescriptorSets(command_, VK_PIPELINE_BIND_POINT_COMPUTE, layout_.get(), 0, 1, &set_, 0,
                          nullptr);
  vkCmdPushConstants(command_, layout_.get(), VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof(parameter),
                     &parameter);
  vkCmdDispatch(command_, groups, 1, 1);
  vkCmdPipelineBarrier(command_, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                       VK_PIPELINE_STAGE_ALL_COMMANDS_BIT, 0, 0, nullptr, count, handed.data(), 0,
                       nullptr);
  check(vkEndCommandBuffer(command_), "vkEndCommandBuffer");
}

void compute::submit(VkSemaphore before, VkSemaphore after) {
  const VkPipelineStageFlags stage = VK_PIPELINE_STAGE_ALL_COMMANDS_BIT;
  VkSubmitInfo work{};
  work.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  work.waitSemaphoreCount = before != VK_NULL_HANDLE ? 1 : 0;
  work.pWaitSemaphores = &before;
  work.pWaitDstStageMask = &stage;
  work.commandBufferCount = 1;
  work.pCommandBuffers = &command_;
  work.signalSemaphoreCount = after != VK_NULL_HANDLE ? 1 : 0;
  work.pSignalSemaphores = &after;
  check(vkQueueSubmit(queue_, 1, &work, done_.get()), "vkQueueSubmit");
  submitted_ = true;
}

auto compute::is_done() const -> bool {
  return vkGetFenceStatus(handle_, done_.get()) == VK_SUCCESS;
}

void compute::wait() {
  const auto fence = done_.get();
  check(vkWaitForFences(handle_, 1, &fence, VK_TRUE, UINT64_MAX), "vkWaitForFences");
  check(vkResetFences(handle_, 1, &fence), "vkResetFences");
  submitted_ = false;
}

}  // namespace sample

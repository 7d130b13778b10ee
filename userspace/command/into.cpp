// SPDX-License-Identifier: MIT
#include "into.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <utility>

#include "dmabridge/cuda_memory.hpp"
#include "dmabridge/dma_heap.hpp"
#include "dmabridge/drm_memory.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/hip_memory.hpp"
#include "dmabridge/level_zero_memory.hpp"
#include "dmabridge/udmabuf.hpp"
#include "dmabridge/vulkan_device.hpp"
#include "dmabridge/vulkan_memory.hpp"

namespace dmabridge::command {
namespace {

struct api {
  std::string_view name;
  std::string_view argument;  // how it is called in the list; empty: there is none
  exported_memory (*allocate)(std::uint64_t size, const std::string& argument);
};

[[noreturn]] void misuse(const std::string& spec, std::string detail, std::string remedy) {
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("allocate memory in \"{}\"", spec),
               .detail = std::move(detail),
               .remedies = {std::move(remedy)}});
}

// Number of a GPU of that API; the first one if nothing is said.
auto device_number(const char* name, const std::string& text) -> int {
  int number = 0;
  if (text.empty()) return number;
  const auto* const end = text.data() + text.size();
  const auto [rest, ec] = std::from_chars(text.data(), end, number);
  if (ec != std::errc{} || rest != end || number < 0) {
    misuse(fmt::format("{}:{}", name, text), fmt::format("\"{}\" is no number of a GPU", text),
           "write a whole number from 0 up");
  }
  return number;
}

auto in_udmabuf(std::uint64_t size, const std::string&) -> exported_memory {
  return allocate_udmabuf(size);
}

auto in_dma_heap(std::uint64_t size, const std::string& heap) -> exported_memory {
  return heap.empty() ? allocate_dma_heap(size) : allocate_dma_heap(size, heap);
}

auto in_drm(std::uint64_t size, const std::string& node) -> exported_memory {
  if (node.empty()) misuse("drm", "it is not said in which device", "write drm:/dev/dri/card0");
  const auto device = drm_device::open(node);
  constexpr auto with_placement = std::to_array<std::string_view>({"amdgpu", "i915", "xe"});
  return std::ranges::find(with_placement, device.driver()) == with_placement.end()
             ? allocate_dumb(device, size)
             : allocate_drm(device, size, drm_placement::device);
}

auto in_vulkan(std::uint64_t size, const std::string& name) -> exported_memory {
  return export_from_vulkan(vulkan_device::open({.name = name}), size).memory;
}

auto in_cuda(std::uint64_t size, const std::string& device) -> exported_memory {
  return allocate_cuda_memory(size, device_number("cuda", device));
}

auto in_hip(std::uint64_t size, const std::string& device) -> exported_memory {
  return allocate_hip_memory(size, device_number("hip", device));
}

auto in_level_zero(std::uint64_t size, const std::string& device) -> exported_memory {
  return allocate_level_zero_memory(size, device_number("level-zero", device));
}

constexpr auto apis = std::to_array<api>({
    {"cuda", "[:GPU]", in_cuda},
    {"dma-heap", "[:HEAP]", in_dma_heap},
    {"drm", ":NODE", in_drm},
    {"hip", "[:GPU]", in_hip},
    {"level-zero", "[:GPU]", in_level_zero},
    {"udmabuf", "", in_udmabuf},
    {"vulkan", "[:NAME]", in_vulkan},
});

auto all_of_them() -> std::string {
  std::string text;
  for (const auto& one : apis) {
    text += fmt::format("{}{}{}", text.empty() ? "" : ", ", one.name, one.argument);
  }
  return text;
}

}  // namespace

auto allocate_into(const std::string& spec, std::uint64_t size) -> exported_memory {
  const auto colon = spec.find(':');
  const auto name = spec.substr(0, colon);
  const auto argument = colon == std::string::npos ? std::string() : spec.substr(colon + 1);
  const auto found = std::ranges::find(apis, name, &api::name);
  const auto list = fmt::format("use one of {}", all_of_them());
  if (found == apis.end()) misuse(spec, fmt::format("there is no API \"{}\"", name), list);
  if (found->argument.empty() && colon != std::string::npos) {
    misuse(spec, fmt::format("{} takes nothing after it", name), list);
  }
  return found->allocate(size, argument);
}

}  // namespace dmabridge::command

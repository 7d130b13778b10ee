// SPDX-License-Identifier: MIT
#include "drm_placement.hpp"

#include <drm/amdgpu_drm.h>
#include <drm/i915_drm.h>
#include <drm/xe_drm.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "drm_ioctl.hpp"
#include "page.hpp"

namespace dmabridge {
namespace {

auto create_amdgpu(int file, std::uint64_t size, drm_placement where) -> drm_creation {
  drm_amdgpu_gem_create argument{};
  argument.in.bo_size = size;
  argument.in.domains =
      where == drm_placement::device ? AMDGPU_GEM_DOMAIN_VRAM : AMDGPU_GEM_DOMAIN_GTT;
  argument.in.domain_flags = AMDGPU_GEM_CREATE_CPU_ACCESS_REQUIRED;
  const auto result = drm_ioctl(file, DRM_IOCTL_AMDGPU_GEM_CREATE, &argument);
  return {result, argument.out.handle};
}

// i915 wants system memory as a second choice for all that the CPU is to reach.
auto create_i915(int file, std::uint64_t size, drm_placement where) -> drm_creation {
  std::array<drm_i915_gem_memory_class_instance, 2> regions{
      {{I915_MEMORY_CLASS_DEVICE, 0}, {I915_MEMORY_CLASS_SYSTEM, 0}}};
  const bool in_device = where == drm_placement::device;
  const auto wanted = std::span(regions).subspan(in_device ? 0 : 1);
  drm_i915_gem_create_ext_memory_regions places{};
  places.base.name = I915_GEM_CREATE_EXT_MEMORY_REGIONS;
  places.num_regions = static_cast<std::uint32_t>(wanted.size());
  places.regions = reinterpret_cast<std::uintptr_t>(wanted.data());
  drm_i915_gem_create_ext argument{};
  argument.size = size;
  argument.flags = in_device ? I915_GEM_CREATE_EXT_FLAG_NEEDS_CPU_ACCESS : 0;
  argument.extensions = reinterpret_cast<std::uintptr_t>(&places);
  const auto result = drm_ioctl(file, DRM_IOCTL_I915_GEM_CREATE_EXT, &argument);
  return {result, argument.handle};
}

// The answer to a query, of 8-byte words as its structures want it.
auto query_xe(int file, std::uint32_t what, std::vector<std::uint64_t>& answer) -> int {
  drm_xe_device_query argument{};
  argument.query = what;
  auto result = drm_ioctl(file, DRM_IOCTL_XE_DEVICE_QUERY, &argument);
  if (result < 0) return result;
  answer.assign((argument.size + 7) / 8, 0);
  argument.data = reinterpret_cast<std::uintptr_t>(answer.data());
  return drm_ioctl(file, DRM_IOCTL_XE_DEVICE_QUERY, &argument);
}

auto regions_in(const std::vector<std::uint64_t>& answer) -> std::vector<drm_xe_mem_region> {
  const auto bytes = std::as_bytes(std::span(answer));
  constexpr auto head = offsetof(drm_xe_query_mem_regions, mem_regions);
  if (bytes.size() < head) return {};
  std::uint32_t count = 0;
  std::memcpy(&count, bytes.data() + offsetof(drm_xe_query_mem_regions, num_mem_regions),
              sizeof(count));
  const auto room = (bytes.size() - head) / sizeof(drm_xe_mem_region);
  std::vector<drm_xe_mem_region> regions(std::min<std::size_t>(count, room));
  if (!regions.empty())
    std::memcpy(regions.data(), bytes.data() + head, regions.size() * sizeof(drm_xe_mem_region));
  return regions;
}

auto create_xe(int file, std::uint64_t size, drm_placement where) -> drm_creation {
  const bool in_device = where == drm_placement::device;
  std::vector<std::uint64_t> answer;
  const auto asked = query_xe(file, DRM_XE_DEVICE_QUERY_MEM_REGIONS, answer);
  if (asked < 0) return {.result = asked};
  const auto regions = regions_in(answer);
  const auto wanted = std::ranges::find(
      regions, in_device ? DRM_XE_MEM_REGION_CLASS_VRAM : DRM_XE_MEM_REGION_CLASS_SYSMEM,
      &drm_xe_mem_region::mem_class);
  if (wanted == regions.end()) return {.result = -ENODEV};
  const auto whole = round_up(size, wanted->min_page_size);
  if (!whole) return {.result = -ENOMEM};
  drm_xe_gem_create argument{};
  argument.size = *whole;
  argument.placement = 1U << wanted->instance;
  argument.flags = in_device ? DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM : 0;
  argument.cpu_caching = in_device ? DRM_XE_GEM_CPU_CACHING_WC : DRM_XE_GEM_CPU_CACHING_WB;
  const auto result = drm_ioctl(file, DRM_IOCTL_XE_GEM_CREATE, &argument);
  return {result, argument.handle};
}

using creator = drm_creation (*)(int file, std::uint64_t size, drm_placement where);
constexpr auto creators = std::to_array<std::pair<const char*, creator>>({
    {"amdgpu", create_amdgpu},
    {"i915", create_i915},
    {"xe", create_xe},
});

auto creator_of(const std::string& driver) -> creator {
  for (const auto& [name, function] : creators) {
    if (driver == name) return function;
  }
  return nullptr;
}

}  // namespace

auto can_place(const std::string& driver) -> bool {
  return creator_of(driver) != nullptr;
}

auto create_placed(int file, const std::string& driver, std::uint64_t size, drm_placement where)
    -> drm_creation {
  return creator_of(driver)(file, size, where);
}

}  // namespace dmabridge

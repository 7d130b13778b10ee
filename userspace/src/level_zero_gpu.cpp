// SPDX-License-Identifier: MIT
#include "level_zero_gpu.hpp"

#include <fmt/format.h>

#include <utility>

#include "dmabridge/error.hpp"

namespace dmabridge::level_zero {
namespace {

auto gpus(const level_zero_api& api) -> std::vector<gpu> {
  std::vector<gpu> found;
  for (auto* const driver : list<ze_driver_handle_t>("zeDriverGet", api.zeDriverGet)) {
    const auto of_driver = [&](std::uint32_t* count, ze_device_handle_t* devices) {
      return api.zeDeviceGet(driver, count, devices);
    };
    for (auto* const device : list<ze_device_handle_t>("zeDeviceGet", of_driver)) {
      if (properties_of(api, device).type != ZE_DEVICE_TYPE_GPU) continue;
      found.push_back({.driver = driver, .device = device});
    }
  }
  return found;
}

}  // namespace

auto properties_of(const level_zero_api& api, ze_device_handle_t device) -> ze_device_properties_t {
  ze_device_properties_t properties;
  level_zero_api::check("use a GPU of Level Zero", "zeDeviceGetProperties",
                        api.zeDeviceGetProperties(device, &properties));
  return properties;
}

auto find_gpu(const level_zero_api& api, int number) -> gpu {
  const auto all = gpus(api);
  if (number >= 0 && static_cast<std::size_t>(number) < all.size()) {
    return all[static_cast<std::size_t>(number)];
  }
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("use GPU {} of Level Zero", number),
               .detail = fmt::format("there are {}, counted from 0", all.size()),
               .remedies = {"see what ZE_AFFINITY_MASK hides, and whether this user may open "
                            "/dev/dri/renderD*"}});
}

own_context::own_context(shared_api api, ze_driver_handle_t driver, const char* attempted)
    : api_(std::move(api)) {
  const ze_context_desc_t wanted;
  level_zero_api::check(attempted, "zeContextCreate",
                        api_->zeContextCreate(driver, &wanted, &context_));
}

own_context::~own_context() {
  api_->zeContextDestroy(context_);
}

}  // namespace dmabridge::level_zero

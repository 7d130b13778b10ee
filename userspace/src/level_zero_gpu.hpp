// SPDX-License-Identifier: MIT
// The GPUs of Level Zero's drivers, and contexts on them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "level_zero_api.hpp"

namespace dmabridge::level_zero {

using shared_api = std::shared_ptr<const level_zero_api>;

struct gpu {
  ze_driver_handle_t driver = nullptr;  // nullptr: of no interest, as the context is the caller's
  ze_device_handle_t device = nullptr;
};

// Level Zero's lists are asked for twice: how many, and which.
template <typename Item, typename Call>
auto list(const char* call_name, Call call) -> std::vector<Item> {
  constexpr auto* looking = "use a GPU of Level Zero";
  std::uint32_t count = 0;
  level_zero_api::check(looking, call_name, call(&count, static_cast<Item*>(nullptr)));
  std::vector<Item> items(count);
  level_zero_api::check(looking, call_name, call(&count, items.data()));
  items.resize(count);
  return items;
}

auto properties_of(const level_zero_api& api, ze_device_handle_t device) -> ze_device_properties_t;

// GPUs of all drivers, counted from 0. Throws dmabridge::error of kind usage if there is none of
// that number.
auto find_gpu(const level_zero_api& api, int number) -> gpu;

class own_context {
 public:
  // `attempted`: as in error_details, what it is for.
  own_context(shared_api api, ze_driver_handle_t driver, const char* attempted);
  own_context(const own_context&) = delete;
  auto operator=(const own_context&) -> own_context& = delete;
  ~own_context();

  auto get() const noexcept -> ze_context_handle_t { return context_; }

 private:
  shared_api api_;
  ze_context_handle_t context_ = nullptr;
};

}  // namespace dmabridge::level_zero

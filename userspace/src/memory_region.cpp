// SPDX-License-Identifier: MIT
#include "dmabridge/memory_region.hpp"

#include <chrono>
#include <utility>

#include "dmabridge/error.hpp"
#include "memory_region_state.hpp"

namespace dmabridge {

memory_region::memory_region(std::unique_ptr<state> all) noexcept : state_(std::move(all)) {}
memory_region::memory_region(memory_region&& other) noexcept = default;
auto memory_region::operator=(memory_region&& other) noexcept -> memory_region& = default;
memory_region::~memory_region() = default;

auto memory_region::lkey() const noexcept -> std::uint32_t {
  return state_->region.get()->lkey;
}
auto memory_region::rkey() const noexcept -> std::uint32_t {
  return state_->region.get()->rkey;
}
auto memory_region::address() const noexcept -> std::uint64_t {
  return state_->address;
}
auto memory_region::length() const noexcept -> std::uint64_t {
  return state_->length;
}
auto memory_region::native() const noexcept -> ibv_mr* {
  return state_->region.get();
}
auto memory_region::method() const noexcept -> registration_method {
  return state_->method;
}
auto memory_region::verdict() const noexcept -> const dmabridge::verdict& {
  return state_->word;
}
auto memory_region::generation() const noexcept -> std::uint64_t {
  return state_->watching ? state_->watching->generation() : 0;
}

auto memory_region::current() const -> bool {
  if (!state_->region.is_own()) return false;
  return !state_->watching || !state_->watching->wait(std::chrono::milliseconds(0));
}

void memory_region::deregister() {
  if (state_ == nullptr) return;
  if (const auto code = state_->region.release(); code != 0) {
    throw error({.kind = error_kind::system,
                 .attempted = "deregister memory",
                 .code = code,
                 .detail = "the device does not let go of it"});
  }
  state_.reset();
}

}  // namespace dmabridge

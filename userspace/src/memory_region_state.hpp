// SPDX-License-Identifier: MIT
// What an MR is made of. The order of its members is that of their ends, last first: the MR goes
// before the mapping that it lies in, and that before the hold that keeps the buffer in its place.
#pragma once

#include <infiniband/verbs.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <optional>

#include "dmabridge/buffer.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/memory_region.hpp"
#include "dmabridge/watch.hpp"
#include "verbs.hpp"

namespace dmabridge {

// Owns an MR. What is told of a forked child holds here: the child has the parent's device file,
// and would take the MR from the parent.
class registered_mr {
 public:
  registered_mr() = default;
  registered_mr(const registered_mr&) = delete;
  auto operator=(const registered_mr&) -> registered_mr& = delete;
  ~registered_mr() { release(); }

  void reset(ibv_mr* region) noexcept {
    release();
    region_ = region;
  }
  auto get() const noexcept -> ibv_mr* { return region_; }
  auto is_own() const noexcept -> bool { return owner_ == ::getpid(); }

  // 0 or a positive errno; with one it is as before.
  auto release() noexcept -> int {
    if (region_ == nullptr) return 0;
    const auto code = is_own() ? verbs().dereg_mr(region_) : 0;
    if (code == 0) region_ = nullptr;
    return code;
  }

 private:
  ibv_mr* region_ = nullptr;
  pid_t owner_ = ::getpid();
};

struct memory_region::state {
  fd hold{};
  std::optional<mapping> map{};
  registered_mr region{};
  std::optional<watch> watching{};
  registration_method method = registration_method::pinned_mapping;
  dmabridge::verdict word{};
  std::uint64_t address = 0;
  std::uint64_t length = 0;
};

}  // namespace dmabridge

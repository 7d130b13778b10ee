// SPDX-License-Identifier: MIT
// The calls of libibverbs that this library makes, so that tests can take a provider's part.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>

namespace dmabridge {

class verbs_calls {
 public:
  virtual ~verbs_calls() = default;

  // Each returns 0 or a positive errno.
  virtual auto query_vendor(ibv_context* context, std::uint32_t& vendor) -> int = 0;
  virtual auto dereg_mr(ibv_mr* region) -> int = 0;

  // Each returns nullptr if it fails, and sets `error` to a positive errno; else to 0.
  virtual auto reg_dmabuf_mr(ibv_pd* domain, std::uint64_t offset, std::size_t length,
                             std::uint64_t iova, int descriptor, int access, int& error)
      -> ibv_mr* = 0;
  virtual auto reg_mr(ibv_pd* domain, void* address, std::size_t length, std::uint64_t iova,
                      int access, int& error) -> ibv_mr* = 0;
};

// The real ones, unless a test says otherwise.
auto verbs() noexcept -> verbs_calls&;

// While it lives, verbs() is `calls`. Not to be used while other threads are in the library.
class verbs_override {
 public:
  explicit verbs_override(verbs_calls& calls) noexcept;
  verbs_override(const verbs_override&) = delete;
  auto operator=(const verbs_override&) -> verbs_override& = delete;
  ~verbs_override();

 private:
  verbs_calls* previous_;
};

}  // namespace dmabridge

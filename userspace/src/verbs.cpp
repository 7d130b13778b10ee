// SPDX-License-Identifier: MIT
#include "verbs.hpp"

#include <cerrno>
#include <utility>

namespace dmabridge {
namespace {

// Some providers leave errno alone when they fail.
auto failure() noexcept -> int {
  return errno != 0 ? errno : EIO;
}

class native_verbs final : public verbs_calls {
 public:
  auto query_vendor(ibv_context* context, std::uint32_t& vendor) -> int override {
    ibv_device_attr attributes{};
    const auto code = ::ibv_query_device(context, &attributes);
    vendor = attributes.vendor_id;
    return code;
  }

  auto dereg_mr(ibv_mr* region) -> int override { return ::ibv_dereg_mr(region); }

  auto reg_dmabuf_mr(ibv_pd* domain, std::uint64_t offset, std::size_t length, std::uint64_t iova,
                     int descriptor, int access, int& error) -> ibv_mr* override {
    errno = 0;
    auto* const region = ::ibv_reg_dmabuf_mr(domain, offset, length, iova, descriptor, access);
    error = region != nullptr ? 0 : failure();
    return region;
  }

  auto reg_mr(ibv_pd* domain, void* address, std::size_t length, std::uint64_t iova, int access,
              int& error) -> ibv_mr* override {
    errno = 0;
    auto* const region = ibv_reg_mr_iova(domain, address, length, iova, access);
    error = region != nullptr ? 0 : failure();
    return region;
  }
};

auto native() noexcept -> verbs_calls& {
  static native_verbs calls;
  return calls;
}

verbs_calls* overriding = nullptr;

}  // namespace

auto verbs() noexcept -> verbs_calls& {
  return overriding != nullptr ? *overriding : native();
}

verbs_override::verbs_override(verbs_calls& calls) noexcept
    : previous_(std::exchange(overriding, &calls)) {}

verbs_override::~verbs_override() {
  overriding = previous_;
}

}  // namespace dmabridge

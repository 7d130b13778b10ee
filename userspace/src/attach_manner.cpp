// SPDX-License-Identifier: MIT
#include "attach_manner.hpp"

#include <algorithm>
#include <array>

namespace dmabridge {
namespace {

// Linux 7.2, where importers' operations are in its source.
constexpr auto manners = std::to_array<attach_manner>({
    // GPUs: those that have a drm_driver.gem_prime_import of their own with allow_peer2peer.
    {.driver = "amdgpu"},
    {.driver = "xe"},
    // The others import by dma_buf_attach().
    {.driver = "i915", .is_static = true, .peer2peer = false, .revocable = false},
    {.driver = "nouveau", .is_static = true, .peer2peer = false, .revocable = false},
    {.driver = "radeon", .is_static = true, .peer2peer = false, .revocable = false},
    {.driver = "nvidia", .is_static = true, .peer2peer = false, .revocable = false},
    {.driver = "ast", .is_static = true, .peer2peer = false, .revocable = false},
    {.driver = "mgag200", .is_static = true, .peer2peer = false, .revocable = false},
    {.driver = "bochs-drm", .is_static = true, .peer2peer = false, .revocable = false},
    // RDMA: all that register a dma-buf set allow_peer2peer. mlx5 follows moves by on-demand
    // paging; the others pin, and of those only irdma lets itself be stopped. The driver of an RDMA
    // device's PCI function is as a rule the one of its network device: i40e, ice and idpf are
    // irdma's.
    {.driver = "mlx5_core"},
    {.driver = "irdma", .pins = true},
    {.driver = "i40e", .pins = true},
    {.driver = "ice", .pins = true},
    {.driver = "idpf", .pins = true},
    {.driver = "efa", .revocable = false, .pins = true},
    {.driver = "bnxt_en", .revocable = false, .pins = true},
    {.driver = "bnxt_re", .revocable = false, .pins = true},
    {.driver = "mana", .revocable = false, .pins = true},
    {.driver = "ionic", .revocable = false, .pins = true},
});

}  // namespace

auto manner_of(std::string_view driver) noexcept -> const attach_manner* {
  const auto* const found = std::ranges::find(manners, driver, &attach_manner::driver);
  return found != manners.end() ? found : nullptr;
}

}  // namespace dmabridge

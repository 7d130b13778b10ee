// SPDX-License-Identifier: MIT
// What an RDMA device is, as far as it decides how it comes by a buffer's memory.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/pci_address.hpp"
#include "dmabridge/reason.hpp"

namespace dmabridge {

// Whom it is that there are no dma-buf MRs for want of.
enum class dmabuf_mr_gap : std::uint8_t { unknown, driver, provider_library };

struct rdma_device {
  std::string name{};                     // "mlx5_0", "rxe0"
  std::optional<pci_address> function{};  // that does its DMA; nothing: none, or not known
  std::string driver{};       // of the function, "mlx5_core"; of software devices "rdma_rxe", "siw"
  bool by_cpu = false;        // its driver touches memory by the CPU
  bool ignores_iova = false;  // peers name memory by the address of its mapping here, always
  int dmabuf_error = 0;       // what asking for dma-buf MRs gave; 0: it has them
  dmabuf_mr_gap gap = dmabuf_mr_gap::unknown;  // if it has none

  auto has_dmabuf_mr() const noexcept -> bool { return dmabuf_error == 0; }
  // Why its driver does not attach to dma-bufs, each of which keeps it from P2P. Empty if it does.
  auto why_no_dmabuf_mr() const -> std::vector<reason>;
};

// Throws dmabridge::error.
auto identify(ibv_pd* domain) -> rdma_device;

}  // namespace dmabridge

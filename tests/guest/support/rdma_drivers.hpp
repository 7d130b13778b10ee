// SPDX-License-Identifier: MIT
//
// How the kernel's drivers of RDMA devices attach to a dma-buf, for each that has dma-buf MRs: what
// reg_user_mr_dmabuf() leads to below drivers/infiniband/hw, in Linux 7.2 and 7.3. All attach as
// dynamic importers with allow_peer2peer. dmabridge-rdma(7) has the same for people.
#pragma once

#include <ostream>

namespace dmabridge::test {

struct RdmaDriver {
  const char* name;
  bool revocable;  // has invalidate_mappings
  bool pins;       // by dma_buf_pin(), for as long as there is the MR
};

inline constexpr RdmaDriver rdma_drivers[] = {
    {"mlx5", true, false},    {"irdma", true, true}, {"efa", false, true},
    {"bnxt_re", false, true}, {"mana", false, true}, {"ionic", false, true},
};

inline void PrintTo(const RdmaDriver& driver, std::ostream* out) {
  *out << driver.name;
}

}  // namespace dmabridge::test

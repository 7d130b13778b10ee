// SPDX-License-Identifier: MIT
// Buffers for RDMA devices, under the same verdict as block I/O.
//
// Two ways, tried in this order; memory_region::method() says which it was:
//   dmabuf_mr       the device's driver attaches to the dma-buf, and the buffer's exporter decides
//   by
//                   which route it is reached;
//   pinned_mapping  for devices without dma-buf MRs (rxe and siw are such, whose drivers touch
//   memory
//                   by the CPU): the buffer is held in system memory, or in the RAM behind a stolen
//                   region, and a mapping of it is pinned. That counts against RLIMIT_MEMLOCK.
// RDMA cannot bounce: what neither way reaches is refused, with the reasons of both.
//
// When the bytes are visible, and to whom, is in dmabridge-rdma(7).
#pragma once

#include <infiniband/verbs.h>

#include <memory>
#include <string>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/exported_memory.hpp"
#include "dmabridge/memory_region.hpp"
#include "dmabridge/registration.hpp"

namespace dmabridge {

// A protection domain, and what its device can do. Threads may share one.
class DMABRIDGE_API rdma_importer {
 public:
  // `domain` stays the caller's, and has to outlive this and all that it registers; so does
  // `module`, without which (nullptr) every buffer is taken for another exporter's. Throws
  // dmabridge::error.
  explicit rdma_importer(ibv_pd* domain, const control* module = nullptr);
  rdma_importer(rdma_importer&&) noexcept;
  auto operator=(rdma_importer&&) noexcept -> rdma_importer&;
  ~rdma_importer();

  auto device_name() const noexcept -> const std::string&;
  // Provider library and driver have dma-buf MRs.
  auto has_dmabuf_mr() const noexcept -> bool;
  // Its driver touches memory by the CPU.
  auto by_cpu() const noexcept -> bool;

  // What register_memory() would give. Of a device whose driver attaches to dma-bufs the kernel is
  // asked (confirm.hpp), and the verdict is confirmed; else, and if the module is too old for the
  // question, it is predicted from what there is to know about this machine (plan.hpp) and about
  // other exporters (exporter_rules.hpp). Registers nothing and moves nothing. Throws
  // dmabridge::error: of kind usage for a request that makes no sense.
  auto outlook(const buffer& memory, const registration_request& wanted) const
      -> registration_outlook;
  // The same for memory of any API, with what its owner lets be pinned.
  auto outlook(const exported_memory& memory, const registration_request& wanted) const
      -> registration_outlook;

  // Throws dmabridge::error: of kind usage as above; of kind refused with every reason of every way
  // that was tried.
  auto register_memory(const buffer& memory, const registration_request& wanted) const
      -> memory_region;
  // The same for memory of any API, which has to outlive the MR; offsets count from the start of
  // the exported range. Where pages are to be pinned, those of memory_owner::pinnable() are, if
  // there is such a mapping.
  auto register_memory(const exported_memory& memory, const registration_request& wanted) const
      -> memory_region;

 private:
  struct state;
  std::unique_ptr<const state> state_;
};

}  // namespace dmabridge

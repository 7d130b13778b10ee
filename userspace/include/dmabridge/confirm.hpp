// SPDX-License-Identifier: MIT
// The kernel's word in place of a prediction, and the bytes' word in place of both.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/plan.hpp"

namespace dmabridge {

// Where the kernel and the prediction do not agree on an importer. A mistake of this library's, or
// of what it could read.
struct plan_difference {
  std::string importer{};
  verdict predicted{};
  verdict confirmed{};
};

struct confirmation {
  plan joint{};           // confirmed
  buffer_facts memory{};  // as asked about, with what the kernel's words tell of it
  std::vector<plan_difference> differences{};
};

// Asks the kernel about each importer, alone, and plans for all of them by its answers. Nothing is
// attached, bound or moved. `memory`: a buffer; without it one that `region` would make. An
// importer that the kernel cannot be asked about (a file that may not be opened, a software device)
// keeps its prediction, marked as that, with the reason in planned_verdict::missing. Throws
// dmabridge::error.
DMABRIDGE_API auto confirm(const control& module, const region_info& region, const buffer* memory,
                           const topology& machine, const buffer_facts& facts,
                           std::span<const importer_facts> importers) -> confirmation;

// The same for a dma-buf of another exporter, about which the kernel can be asked for block devices
// and files only: whether a binding takes it, which tells where the memory is. What its exporter
// would say to a driver that attaches (RDMA devices, GPUs, PCI functions), that exporter alone
// knows; these keep their prediction, marked as that, with the reason. The dma-buf is mapped for
// the answer, and attached by the module. Throws dmabridge::error.
DMABRIDGE_API auto confirm(const control& module, const buffer& memory, const topology& machine,
                           const buffer_facts& facts, std::span<const importer_facts> importers)
    -> confirmation;

// What prove() saw of one importer.
struct proof {
  std::string importer{};
  route claimed = route::none;
  std::uint64_t compared = 0;   // bytes, read by the claimed route and by system memory
  std::uint64_t different = 0;  // of these
  std::optional<std::uint64_t> first_difference{};  // offset
  std::optional<reason> broken{};                   // broken_path
  std::string skipped{};                            // why nothing was compared; empty: it was
};

// Reads the first `length` bytes of a drive or file by the route that the kernel claims, into a
// scratch buffer of `region`, and again through system memory, and compares. Never writes to a
// drive. The scratch buffer has other bytes in it before each, so that nothing passes that did not
// arrive. Throws dmabridge::error.
DMABRIDGE_API auto prove(const control& module, const region_info& region,
                         const importer_facts& importer, const std::string& path,
                         std::uint64_t length) -> proof;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// The memory that explain tells about, from what its user calls it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "devices.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/plan.hpp"
#include "machine.hpp"

namespace dmabridge::command {

struct named_memory {
  buffer_facts facts{};
  std::optional<region_info> region{};  // that the kernel can be asked about; nothing: no_region
  std::string no_region{};
  std::optional<buffer> held{};  // if a buffer was named

  auto is_foreign() const noexcept -> bool { return !facts.foreign.empty(); }
};

// `spec`: a buffer (fd:N, pid:PID:FD), a region (name, node, PCI address), or another function with
// a BAR (PCI address, DRM node, label of topo's). A buffer has the size and the policy that it has.
// Memory of a driver that exports it by itself is judged by what is known of that exporter.
// Throws dmabridge::error of kind usage, which lists what there is, for anything else.
auto find_memory(const machine_view& machine, std::span<const device> devices,
                 const std::string& spec, std::uint64_t size, policy wanted) -> named_memory;

// The facts about what a function's largest BAR could export, of `of.function`. `assume_pages`:
// whatever the BAR is like.
auto facts_of(const device& of, bool assume_pages) -> buffer_facts;

}  // namespace dmabridge::command

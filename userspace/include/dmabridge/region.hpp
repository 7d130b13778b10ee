// SPDX-License-Identifier: MIT
// Memory that a driver exports: where new buffers come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

// Finds the region that `spec` names: its name, its node's path, or the PCI address of its device.
// An empty spec is the only region there is. An unregistered one is found only if no other fits.
// Throws dmabridge::error, which lists the regions if none or several fit.
DMABRIDGE_API auto find_region(const std::vector<region_info>& regions, const std::string& spec)
    -> const region_info&;

// A new buffer of at least `size` bytes, in whole pages, cleared. Needs access to the region's node
// (group render as a rule). Throws dmabridge::error.
DMABRIDGE_API auto allocate(const region_info& region, std::uint64_t size, policy wanted) -> buffer;

// Whether this process may allocate in the region.
DMABRIDGE_API auto may_allocate(const region_info& region) noexcept -> bool;

}  // namespace dmabridge

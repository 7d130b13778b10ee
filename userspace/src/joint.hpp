// SPDX-License-Identifier: MIT
// The second half of negotiate(): a plan for all, from what is known of each.
#pragma once

#include <span>
#include <vector>

#include "dmabridge/plan.hpp"
#include "prospect.hpp"

namespace dmabridge {

// `views`: one per importer, by the topology (look_at()), or by the kernel's word (confirm()).
auto plan_by(const buffer_facts& buffer, std::span<const importer_facts> importers,
             const ground& base, std::vector<prospect> views) -> plan;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// Who waits for whom while somebody has a buffer: the one place that knows it.
#pragma once

#include <optional>

#include "dmabridge/plan.hpp"

namespace dmabridge {

// Of an importer, by the verdict that it gets. `needs`: the placement that the buffer has to be in
// for its sake; nothing: it follows to either.
auto claim_of(const buffer_facts& buffer, const importer_facts& importer,
              const planned_verdict& given, std::optional<placement> needs) -> claim;

// Of somebody who uses the buffer already.
auto claim_of(const buffer_facts& buffer, const buffer_user& user) -> claim;

}  // namespace dmabridge

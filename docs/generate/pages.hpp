// SPDX-License-Identifier: MIT
// The pages that are made of the table of reasons, whole. They are in the tree as well, for those
// who read them there; a unit test compares.
#pragma once

#include <string>

namespace dmabridge::docs {

// docs/why-not-p2p.md
auto why_not_p2p() -> std::string;

// docs/man/dmabridge-reasons.7
auto reasons_manual() -> std::string;

}  // namespace dmabridge::docs

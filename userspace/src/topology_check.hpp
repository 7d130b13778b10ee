// SPDX-License-Identifier: MIT
// What every topology keeps to, wherever it comes from: references lead somewhere, and nothing goes
// round in a circle.
#pragma once

#include <optional>
#include <string>

#include "dmabridge/topology.hpp"

namespace dmabridge {

struct inconsistency {
  std::string path{};   // "functions[3].parent"
  std::string wrong{};  // "0000:00:01.0 is not among the functions"
};

// The first there is.
auto find_inconsistency(const topology& machine) -> std::optional<inconsistency>;

// A machine changes while it is read. Takes out what leads nowhere because of that, so that
// find_inconsistency() finds nothing, and says in topology::unread what it was.
void drop_dangling(topology& machine);

}  // namespace dmabridge

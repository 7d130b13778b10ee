// SPDX-License-Identifier: MIT
// Topologies at random, consistent ones, for properties that hold for all of them.
#pragma once

#include <cstdint>

#include "dmabridge/topology.hpp"

namespace dmabridge::test {

// The same for the same seed.
auto random_topology(std::uint32_t seed) -> topology;

}  // namespace dmabridge::test

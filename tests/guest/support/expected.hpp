// SPDX-License-Identifier: MIT
//
// What the topology's own file demands of each pair of a drive and a memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dmabridge::test {

struct ExpectedPair {
  std::string requester;  // serial of the drive
  std::string memory;
  std::uint32_t route;  // of a binding that requires P2P; NONE: it is refused
  // Known bad: the machine claims the route, and DMA by it gets lost.
  bool loses_bytes = false;

  // Of a binding that may be redirected.
  std::uint32_t redirected_route() const;
  std::string name() const { return requester + " to " + memory; }
};

// Throws std::runtime_error if there are none.
std::vector<ExpectedPair> expected_pairs();

}  // namespace dmabridge::test

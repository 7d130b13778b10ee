// SPDX-License-Identifier: MIT
//
// Tells payload from metadata, and device memory from system memory, in what a drive did.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "extents.hpp"
#include "trace.hpp"

namespace dmabridge::oracle {

// A run of physical addresses, e.g. a BAR.
struct Window {
  std::uint64_t start;
  std::uint64_t length;

  bool holds(const DmaTarget& target) const {
    return target.address >= start && target.address - start <= length &&
           target.length <= length - (target.address - start);
  }
};

struct Traffic {
  std::uint64_t commands = 0;
  std::uint64_t inside = 0;   // bytes of DMA targets in the window
  std::uint64_t outside = 0;  // bytes of all others, those that straddle its edge included
  std::uint64_t unmapped =
      0;  // bytes of commands for which the trace has no target: nobody knows where they went
};

// What one namespace did: payload is a command that touches an extent, metadata any other read or
// write.
struct Account {
  Traffic payload;
  Traffic metadata;
};

struct Question {
  std::uint32_t nsid;
  Operation operation;
  std::span<const Extent> extents;
  Window window;
};

// Commands of other namespaces, and of the other direction, are left out.
Account account(std::span<const Command> commands, const Question& question);

// Whether a command reads or writes any byte of these extents.
bool touches(const Command& command, std::span<const Extent> extents);

}  // namespace dmabridge::oracle

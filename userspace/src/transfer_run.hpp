// SPDX-License-Identifier: MIT
// The transfer itself: keeps a ring full until a range is through.
#pragma once

#include <cstdint>
#include <vector>

#include "command_ring.hpp"
#include "dmabridge/transfer.hpp"

namespace dmabridge {

// Commands in flight, and room for their completions: made once, before any I/O.
struct transfer_slots {
  explicit transfer_slots(unsigned depth);

  struct slot {
    std::uint64_t position = 0;  // in the range
    std::uint32_t length = 0;    // still to be done, in whole alignment units
    unsigned repeats = 0;        // of what has to be done, so far in vain
  };
  std::vector<slot> slots;
  std::vector<std::uint32_t> free;
  std::vector<completion> done;
};

// Moves `range`, checked before, in blocks of `block` bytes, a multiple of `align`. Fills in
// everything of the result but routes and seconds.
auto run_transfer(command_ring& ring, transfer_slots& slots, direction way,
                  const transfer_range& range, std::uint32_t align, std::uint32_t block,
                  const transfer_options& options) -> transfer_result;

// What one command carries: options.block_size, cut to what the binding takes. Throws
// dmabridge::error if range or options do not fit the binding.
auto check_transfer(const binding_info& limits, const transfer_range& range,
                    const transfer_options& options) -> std::uint32_t;

}  // namespace dmabridge

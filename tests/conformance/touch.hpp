// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace dmabridge::test::conformance {

enum class Touch { read, bus_error, segmentation_fault, other };

// What happens to a process that reads this byte: tried in a child, which shares the mapping.
// A mapping that children do not get (VM_DONTCOPY) is a segmentation fault.
Touch touch_in_child(const std::byte* at);

}  // namespace dmabridge::test::conformance

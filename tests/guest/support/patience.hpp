// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

namespace dmabridge::test {

// A time after which something counts as hanging, given for Debian's kernel: tests/vm says in
// DMABRIDGE_SLOWNESS how many times longer the guest's kernel may take for everything.
std::chrono::milliseconds patience(std::chrono::milliseconds limit);

}  // namespace dmabridge::test

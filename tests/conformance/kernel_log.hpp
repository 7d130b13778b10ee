// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "support/fd.hpp"

namespace dmabridge::test::conformance {

// The kernel's log from now on. Without the right to read it, it tells nothing.
class KernelLog {
 public:
  KernelLog();
  // The first line since the last call that tells of a fault; empty: none.
  std::string fault();

 private:
  Fd fd_;
};

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
#include "patience.hpp"

#include <cstdlib>
#include <string>

namespace dmabridge::test {

std::chrono::milliseconds patience(std::chrono::milliseconds limit) {
  const char* slowness = std::getenv("DMABRIDGE_SLOWNESS");
  return slowness == nullptr ? limit : limit * std::stoi(slowness);
}

}  // namespace dmabridge::test

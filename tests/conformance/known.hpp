// SPDX-License-Identifier: MIT
#pragma once

#include <span>
#include <string>

namespace dmabridge::test::conformance {

// A check that an exporter of the kernel's own fails, and why that is so.
struct Known {
  const char* exporter;
  const char* group;
  const char* check;
  const char* why;
};

std::span<const Known> known_failures();
// Nothing if it is none.
const Known* known_failure(const std::string& exporter, const std::string& group,
                           const std::string& check);

}  // namespace dmabridge::test::conformance

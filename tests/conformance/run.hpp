// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "check.hpp"

namespace dmabridge::test::conformance {

struct Column {
  std::string exporter;
  std::vector<Result> results;  // one of each check
};

// Runs the checks on an exporter, each in a process of its own: one that dies, or does not end in
// this time, has failed, and so has one at which the kernel logs a fault.
Column run(Exporter& exporter, const std::vector<Check>& checks,
           const std::optional<Function>& function, std::chrono::seconds limit);
// Of an exporter that is not there.
Column untried_column(const std::string& exporter, const std::vector<Check>& checks,
                      const std::string& reason);

}  // namespace dmabridge::test::conformance

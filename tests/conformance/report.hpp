// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

#include "run.hpp"

namespace dmabridge::test::conformance {

// A table of checks by exporters, and below it what there is to say of each exporter.
std::string as_table(const std::vector<Check>& checks, const std::vector<Column>& columns);
std::string as_json(const std::vector<Check>& checks, const std::vector<Column>& columns);
// Every check with its rule and source.
std::string as_list(const std::vector<Check>& checks);

// Whether there is a violation that is not known of the kernel's own exporters.
bool has_violation(const std::vector<Check>& checks, const std::vector<Column>& columns);

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
// What could not be read, in few lines.
#pragma once

#include <span>
#include <string>

#include "dmabridge/topology.hpp"

namespace dmabridge::command {

// Facts with one cause are one line. Empty if nothing is missing.
auto to_text(std::span<const unread_fact> facts, const std::string& indent) -> std::string;

}  // namespace dmabridge::command

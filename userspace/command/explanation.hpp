// SPDX-License-Identifier: MIT
// What explain tells: what was looked at, what comes of it, and who says so.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checks.hpp"
#include "dmabridge/confirm.hpp"
#include "dmabridge/plan.hpp"
#include "json.hpp"
#include "memory.hpp"

namespace dmabridge::command {

struct explanation {
  std::string memory{};  // as its user called it
  buffer_facts facts{};
  std::vector<importer_facts> importers{};
  plan joint{};
  std::string why_predicted{};  // empty: the kernel has been asked
  std::vector<plan_difference> differences{};
  std::vector<proof> proofs{};
  std::vector<check> of_machine{};
  std::vector<check> of_memory{};
  std::vector<std::vector<check>> of_importers{};  // in the plan's order
};

// Of the plan, unless bytes have proved it wrong.
auto outcome_of(const explanation& told) -> plan_outcome;
auto to_string(plan_outcome outcome) -> std::string;
auto exit_status_of(plan_outcome outcome) -> int;

auto to_text(const explanation& told) -> std::string;
auto to_json(const explanation& told) -> json;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// What a plan rests on, question by question: the answer, what was read for it, and what would
// change it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/plan.hpp"
#include "machine.hpp"
#include "memory.hpp"

namespace dmabridge::command {

// Unknown is never ok: somebody who reads on has to find out.
enum class check_status : std::uint8_t { ok, blocked, unknown };
auto to_string(check_status status) -> std::string;

struct check {
  std::string subject{};  // stable: "kernel", "acs"
  check_status status = check_status::ok;
  std::string evidence{};
  std::string remedy{};                // empty: there is none, or none is needed
  std::vector<std::string> reasons{};  // their ids
};

// In the order in which the questions matter.

// Of kernel and machine, whatever memory and importer.
auto machine_checks(const machine_view& machine, const plan& joint) -> std::vector<check>;
// Of the memory, whoever wants to reach it.
auto memory_checks(const machine_view& machine, const named_memory& memory, const plan& joint)
    -> std::vector<check>;
// Of importer number `index`. Every reason of its verdict that is in none of the other two is here.
auto importer_checks(const machine_view& machine, const named_memory& memory,
                     const importer_facts& importer, const planned_verdict& word)
    -> std::vector<check>;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// What --json prints. Keys are only ever added.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "dmabridge/block_importer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge::command {

using json = nlohmann::ordered_json;

// `in_force`: as of reason::remedy().
auto to_json(const reason& why, std::optional<policy> in_force = {}) -> json;
auto to_json(const verdict& word) -> json;
auto to_json(const region_info& region, bool may_allocate) -> json;
auto to_json(const chunk& run) -> json;
auto to_json(const buffer_user& user) -> json;
auto to_json(const buffer_info& buffer) -> json;
// Only the routes that were taken.
auto to_json(const route_counters& routes) -> json;
auto to_json(const error& failure) -> json;

}  // namespace dmabridge::command

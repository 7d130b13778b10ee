// SPDX-License-Identifier: MIT
// What --json prints. Keys are only ever added.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "devices.hpp"
#include "dmabridge/block_importer.hpp"
#include "dmabridge/confirm.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/path.hpp"
#include "dmabridge/plan.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/topology.hpp"
#include "dmabridge/verdict.hpp"
#include "held_buffers.hpp"

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

auto to_json(const machine_facts& machine) -> json;
auto to_json(const unread_fact& fact) -> json;
// `function`: the device's.
auto to_json(const device& entry, const pci_function& function) -> json;
auto to_json(const pci_path& path) -> json;
auto to_json(const exporter_rules& rules) -> json;
auto to_json(const buffer_facts& memory) -> json;
auto to_json(const claim& what) -> json;
auto to_json(const keeper& who) -> json;
auto to_json(const planned_verdict& importer) -> json;
auto to_json(const plan_option& option) -> json;
auto to_json(const plan& joint) -> json;
auto to_json(const plan_difference& difference) -> json;
auto to_json(const proof& seen) -> json;
auto to_json(const holder& who) -> json;
auto to_json(const held_buffer& held) -> json;

// As it is printed. Names that are no UTF-8 become such.
auto dump(const json& object) -> std::string;

}  // namespace dmabridge::command

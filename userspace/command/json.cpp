// SPDX-License-Identifier: MIT
#include "json.hpp"

#include <vector>

namespace dmabridge::command {
namespace {

template <typename Items>
auto to_array(const Items& items) -> json {
  auto array = json::array();
  for (const auto& item : items) array.push_back(to_json(item));
  return array;
}

auto to_array(const std::vector<reason>& reasons, std::optional<policy> in_force) -> json {
  auto array = json::array();
  for (const auto& why : reasons) array.push_back(to_json(why, in_force));
  return array;
}

auto address(const std::optional<pci_address>& device) -> json {
  return device ? json(to_string(*device)) : json(nullptr);
}

auto addresses(const std::vector<pci_address>& list) -> json {
  auto array = json::array();
  for (const auto& each : list) array.push_back(to_string(each));
  return array;
}

template <typename Value>
auto value_or_null(const std::optional<Value>& value) -> json {
  return value ? json(*value) : json(nullptr);
}

}  // namespace

auto to_json(const reason& why, std::optional<policy> in_force) -> json {
  return {{"code", why.code},
          {"id", why.id()},
          {"text", why.text()},
          {"evidence", why.evidence()},
          {"remedy", why.remedy(in_force)},
          {"device", address(why.device)},
          {"value", why.value},
          {"name", why.name},
          {"blocks_p2p", why.blocks_p2p},
          {"blocks_move", why.blocks_move}};
}

auto to_json(const verdict& word) -> json {
  return {{"route", to_string(word.route)},
          {"state", to_string(word.state)},
          {"policy", word.policy ? json(to_string(*word.policy)) : json(nullptr)},
          {"distance", word.distance ? json(*word.distance) : json(nullptr)},
          {"reasons", to_array(word.reasons, word.policy)},
          {"unreported_reasons", word.unreported}};
}

auto to_json(const region_info& region, bool may_allocate) -> json {
  return {{"id", region.id},
          {"name", region.name},
          {"node", region.node},
          {"kind", to_string(region.kind)},
          {"device", address(region.device)},
          {"bar", region.kind == region_kind::system ? json(nullptr) : json(region.bar)},
          {"driver", region.driver},
          {"pages", region.has_pages},
          {"takes_unrevocable", region.takes_unrevocable},
          {"copy_engine", region.has_engine},
          {"suspended", region.suspended},
          {"unregistered", region.unregistered},
          {"size", region.size},
          {"available", region.available},
          {"limit", region.limit},
          {"move_limit", region.move_limit},
          {"quarantined", region.quarantined},
          {"buffers", region.buffers},
          {"may_allocate", may_allocate}};
}

auto to_json(const chunk& run) -> json {
  return {{"offset", run.offset}, {"length", run.length}};
}

auto to_json(const buffer_user& user) -> json {
  return {{"kind", to_string(user.kind)},
          {"name", user.name},
          {"driver", user.driver},
          {"device", address(user.device)},
          {"policy", to_string(user.policy)},
          {"p2p", user.p2p},
          {"peer2peer", user.peer2peer},
          {"revocable", user.revocable},
          {"pinned", user.pinned},
          {"needs_system", user.needs_system},
          {"needs_device", user.needs_device},
          {"bounces", user.bounces},
          {"verdict", to_json(user.verdict)}};
}

auto to_json(const buffer_info& buffer) -> json {
  auto demoting = json::array();
  for (const auto& user : buffer.users) {
    if (user.needs_system) demoting.push_back(user.name);
  }
  return {
      {"region", buffer.region},
      {"region_id", buffer.region_id},
      {"size", buffer.size},
      {"placement", to_string(buffer.placement)},
      {"policy", to_string(buffer.policy)},
      {"revoked", buffer.revoked},
      {"generation", buffer.generation},
      {"moves", buffer.moves},
      {"last_move", buffer.last_move ? to_json(*buffer.last_move, policy::prefer) : json(nullptr)},
      {"last_refused", buffer.last_refused ? to_json(*buffer.last_refused) : json(nullptr)},
      {"chunks", to_array(buffer.chunks)},
      {"users", to_array(buffer.users)},
      {"demoted_by", demoting}};
}

auto to_json(const route_counters& routes) -> json {
  auto taken = json::object();
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (routes[i].commands == 0) continue;
    taken[to_string(static_cast<route>(i))] = {{"bytes", routes[i].bytes},
                                               {"commands", routes[i].commands}};
  }
  return taken;
}

auto to_json(const error& failure) -> json {
  const auto& details = failure.details();
  json number = nullptr;
  if (details.code != 0) {
    number = {{"number", details.code},
              {"name", errno_name(details.code)},
              {"text", errno_text(details.code)}};
  }
  return {{"kind", to_string(details.kind)},
          {"message", failure.what()},
          {"attempted", details.attempted},
          {"detail", details.detail},
          {"errno", number},
          {"reasons", to_array(details.reasons, details.policy)},
          {"unreported_reasons", details.unreported},
          {"remedies", details.remedies}};
}

auto to_json(const machine_facts& machine) -> json {
  return {{"kernel", machine.kernel},
          {"architecture", machine.architecture},
          {"command_line", machine.command_line},
          {"cpu_vendor", machine.cpu_vendor},
          {"cpu_family", value_or_null(machine.cpu_family)},
          {"config_p2pdma", value_or_null(machine.config_p2pdma)},
          {"hypervisor", value_or_null(machine.hypervisor)},
          {"memory_encryption", value_or_null(machine.memory_encryption)},
          {"secure_boot", value_or_null(machine.secure_boot)},
          {"lockdown", value_or_null(machine.lockdown)}};
}

auto to_json(const unread_fact& fact) -> json {
  return {{"what", fact.what}, {"why", fact.why}, {"remedy", fact.remedy}};
}

auto to_json(const device& entry, const pci_function& function) -> json {
  return {{"label", entry.label},
          {"kind", to_string(entry.kind)},
          {"function", to_string(entry.function)},
          {"names", entry.names},
          {"driver", entry.driver},
          {"numa_node", value_or_null(function.numa_node)},
          {"iommu_group", value_or_null(function.iommu_group)},
          {"bar", entry.memory != nullptr ? json(entry.memory->number) : json(nullptr)},
          {"bar_size", entry.memory != nullptr ? json(entry.memory->size) : json(nullptr)},
          {"region", entry.region != nullptr ? json(entry.region->name) : json(nullptr)}};
}

auto to_json(const pci_path& path) -> json {
  return {{"answer", to_string(path.answer)},
          {"proximity", to_string(path.distance_class)},
          {"distance", value_or_null(path.distance)},
          {"bridges", addresses(path.bridges)},
          {"redirecting", addresses(path.redirecting)},
          {"reasons", to_array(path.reasons, std::nullopt)},
          {"missing", to_array(path.missing)}};
}

auto to_json(const exporter_rules& rules) -> json {
  return {{"known", rules.is_known()},
          {"what", rules.what},
          {"mappable", to_string(rules.mappable)},
          {"pinnable", to_string(rules.pinnable)},
          {"vmap", to_string(rules.vmap)},
          {"movable", to_string(rules.movable)},
          {"revocable", to_string(rules.revocable)},
          {"memory", to_string(rules.memory)},
          {"p2p", to_string(rules.p2p)},
          {"asks_path", to_string(rules.asks_path)},
          {"unstoppable", to_string(rules.unstoppable)},
          {"redirects", to_string(rules.redirects)},
          {"bindable", to_string(rules.bindable)},
          {"attach", rules.attach},
          {"drives", rules.drives}};
}

auto to_json(const buffer_facts& memory) -> json {
  return {{"name", memory.name},
          {"kind", to_string(memory.kind)},
          {"exporter", memory.foreign.empty() ? json(nullptr) : json(memory.foreign)},
          {"rules", memory.foreign.empty() ? json(nullptr) : to_json(memory.rules)},
          {"device", address(memory.device)},
          {"bar", memory.kind == region_kind::system ? json(nullptr) : json(memory.bar)},
          {"pages", memory.has_pages},
          {"movable", memory.movable},
          {"takes_unrevocable", memory.takes_unrevocable},
          {"placement", to_string(memory.placement)},
          {"policy", to_string(memory.policy)},
          {"size", memory.size},
          {"empty", memory.empty},
          {"move_limit", value_or_null(memory.move_limit)}};
}

auto to_json(const claim& what) -> json {
  return {{"blocks_moves", what.blocks_moves()},
          {"blocks_revoke", what.blocks_revoke()},
          {"consequence", what.text()}};
}

auto to_json(const keeper& who) -> json {
  json object = {{"kind", to_string(who.kind)},
                 {"name", who.name},
                 {"driver", who.driver},
                 {"device", address(who.device)}};
  object.update(to_json(who.claim));
  return object;
}

auto to_json(const planned_verdict& importer) -> json {
  json object = {{"importer", importer.importer},
                 {"verdict", to_json(importer.word)},
                 {"unknown", importer.unknown},
                 {"missing", to_array(importer.missing)},
                 {"caveats", to_array(importer.caveats, importer.word.policy)},
                 {"copies", importer.copies}};
  object.update(to_json(importer.claim));
  return object;
}

auto to_json(const plan_option& option) -> json {
  auto routes = json::array();
  for (const auto each : option.routes) routes.push_back(to_string(each));
  return {{"policy", to_string(option.policy)},
          {"placement", to_string(option.placement)},
          {"routes", routes},
          {"copies", option.copies},
          {"moved", option.moved}};
}

auto to_json(const plan& joint) -> json {
  auto demoting = json::array();
  for (const auto index : joint.demoting) demoting.push_back(joint.importers[index].importer);
  return {{"state", to_string(joint.state)},
          {"placement", to_string(joint.placement)},
          {"moved", joint.moved},
          {"demoting", demoting},
          {"kept_by", to_array(joint.kept_by)},
          {"importers", to_array(joint.importers)},
          {"options", to_array(joint.options)}};
}

auto to_json(const plan_difference& difference) -> json {
  return {{"importer", difference.importer},
          {"predicted", to_json(difference.predicted)},
          {"confirmed", to_json(difference.confirmed)}};
}

auto to_json(const proof& seen) -> json {
  return {{"importer", seen.importer},
          {"claimed", to_string(seen.claimed)},
          {"compared", seen.compared},
          {"different", seen.different},
          {"first_difference", value_or_null(seen.first_difference)},
          {"broken", seen.broken ? to_json(*seen.broken) : json(nullptr)},
          {"skipped", seen.skipped}};
}

auto to_json(const holder& who) -> json {
  return {
      {"pid", who.pid}, {"command", who.command}, {"fd", who.descriptor}, {"spec", spec_of(who)}};
}

auto to_json(const held_buffer& held) -> json {
  return {{"inode", held.inode},
          {"size", held.size},
          {"name", held.name},
          {"holders", to_array(held.holders)}};
}

auto dump(const json& object) -> std::string {
  return object.dump(2, ' ', false, json::error_handler_t::replace) + '\n';
}

}  // namespace dmabridge::command

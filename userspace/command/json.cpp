// SPDX-License-Identifier: MIT
#include "json.hpp"

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
      {"users", to_array(buffer.users)}};
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

}  // namespace dmabridge::command

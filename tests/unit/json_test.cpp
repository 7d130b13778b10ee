// SPDX-License-Identifier: MIT
// Keys that --json prints: programs rely on them, so none may vanish or change its name.
#include "json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

namespace dmabridge::command {
namespace {

auto keys(const json& object) -> std::vector<std::string> {
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

using testing::ElementsAre;

TEST(json, reason) {
  const auto object = to_json(reason{.code = DMABRIDGE_REASON_ACS_REDIRECT,
                                     .blocks_p2p = true,
                                     .device = pci_address::unpack(0x100),
                                     .value = 4});
  EXPECT_THAT(keys(object), ElementsAre("code", "id", "text", "evidence", "remedy", "device",
                                        "value", "name", "blocks_p2p", "blocks_move"));
  EXPECT_EQ(object["id"], "acs_redirect");
  EXPECT_EQ(object["device"], "0000:01:00.0");
  EXPECT_TRUE(to_json(reason{})["device"].is_null());
}

TEST(json, verdict) {
  const auto object = to_json(verdict{.route = route::system, .policy = policy::prefer});
  EXPECT_THAT(keys(object),
              ElementsAre("route", "state", "policy", "distance", "reasons", "unreported_reasons"));
  EXPECT_EQ(object["route"], "system");
  EXPECT_EQ(object["state"], "confirmed");
  EXPECT_TRUE(object["distance"].is_null());
  EXPECT_TRUE(object["reasons"].is_array());
}

TEST(json, region) {
  region_info region;
  region.name = "vram0";
  EXPECT_THAT(
      keys(to_json(region, true)),
      ElementsAre("id", "name", "node", "kind", "device", "bar", "driver", "pages",
                  "takes_unrevocable", "copy_engine", "suspended", "unregistered", "size",
                  "available", "limit", "move_limit", "quarantined", "buffers", "may_allocate"));
}

TEST(json, region_without_device_or_bar_has_none) {
  region_info region;
  region.device = pci_address{};
  EXPECT_EQ(to_json(region, true)["device"], "0000:00:00.0");
  EXPECT_EQ(to_json(region, true)["bar"], 0);
  region.device.reset();
  region.kind = region_kind::system;
  EXPECT_TRUE(to_json(region, true)["device"].is_null());
  EXPECT_TRUE(to_json(region, true)["bar"].is_null());
}

TEST(json, remedy_does_not_advise_the_policy_in_force) {
  verdict word{.route = route::system,
               .policy = policy::prefer,
               .reasons = {{.code = DMABRIDGE_REASON_STACKED_DEVICE, .name = "md0"}}};
  const auto remedy = [&]() -> std::string { return to_json(word)["reasons"][0]["remedy"]; };
  EXPECT_THAT(remedy(), testing::Not(testing::HasSubstr("policy prefer")));
  word.policy = policy::require;
  EXPECT_THAT(remedy(), testing::HasSubstr("policy prefer"));
}

TEST(json, buffer) {
  buffer_info buffer;
  buffer.chunks = {{.offset = 4096, .length = 8192}};
  buffer.users = {{.kind = user_kind::binding, .name = "nvme0n1"}};
  const auto object = to_json(buffer);
  EXPECT_THAT(keys(object), ElementsAre("region", "region_id", "size", "placement", "policy",
                                        "revoked", "generation", "moves", "last_move",
                                        "last_refused", "chunks", "users", "demoted_by"));
  EXPECT_TRUE(object["demoted_by"].empty());
  buffer.users[0].needs_system = true;
  EXPECT_EQ(to_json(buffer)["demoted_by"][0], "nvme0n1");
  EXPECT_EQ(object["chunks"][0]["offset"], 4096);
  EXPECT_TRUE(object["last_move"].is_null());
  EXPECT_THAT(
      keys(object["users"][0]),
      ElementsAre("kind", "name", "driver", "device", "policy", "p2p", "peer2peer", "revocable",
                  "pinned", "needs_system", "needs_device", "bounces", "verdict"));
}

TEST(json, device) {
  const pci_bar bar{.number = 2, .start = 0, .size = 4096};
  const device entry{.label = "GPU0", .names = {"card0"}, .memory = &bar};
  const auto object = to_json(entry, pci_function{});
  EXPECT_THAT(keys(object), ElementsAre("label", "kind", "function", "names", "driver", "numa_node",
                                        "iommu_group", "bar", "bar_size", "region"));
  EXPECT_EQ(object["bar"], 2);
  EXPECT_TRUE(object["numa_node"].is_null());
  EXPECT_TRUE(object["region"].is_null());
  EXPECT_TRUE(to_json(device{}, pci_function{})["bar"].is_null());
}

TEST(json, machine_says_null_where_it_does_not_know) {
  const auto object = to_json(machine_facts{.kernel = "7.2", .config_p2pdma = false});
  EXPECT_THAT(keys(object), ElementsAre("kernel", "architecture", "command_line", "cpu_vendor",
                                        "cpu_family", "config_p2pdma", "hypervisor",
                                        "memory_encryption", "secure_boot", "lockdown"));
  EXPECT_EQ(object["config_p2pdma"], false);
  EXPECT_TRUE(object["memory_encryption"].is_null());
}

TEST(json, path) {
  const auto object = to_json(pci_path{.answer = path_answer::no, .missing = {{"a", "b", "c"}}});
  EXPECT_THAT(keys(object), ElementsAre("answer", "proximity", "distance", "bridges", "redirecting",
                                        "reasons", "missing"));
  EXPECT_THAT(keys(object["missing"][0]), ElementsAre("what", "why", "remedy"));
  EXPECT_EQ(object["answer"], "no");
}

TEST(json, plan) {
  plan joint;
  joint.importers = {{.importer = "nvme0n1"}, {.importer = "mlx5_0", .copies = 1}};
  joint.demoting = {1};
  joint.options = {{.policy = policy::forbid, .routes = {route::system}, .copies = {0}}};
  const auto object = to_json(joint);
  EXPECT_THAT(keys(object),
              ElementsAre("state", "placement", "moved", "demoting", "kept_by", "importers",
                          "options"));
  EXPECT_EQ(object["demoting"][0], "mlx5_0");
  EXPECT_THAT(keys(object["importers"][0]),
              ElementsAre("importer", "verdict", "unknown", "missing", "caveats", "copies",
                          "blocks_moves", "blocks_revoke", "consequence"));
  EXPECT_THAT(keys(object["options"][0]),
              ElementsAre("policy", "placement", "routes", "copies", "moved"));
  EXPECT_EQ(object["options"][0]["routes"][0], "system");
}

TEST(json, keeper) {
  const auto object = to_json(keeper{.kind = user_kind::dynamic_attachment,
                                     .name = "0000:05:00.0",
                                     .driver = "bnxt_en",
                                     .device = pci_address::unpack(0x500),
                                     .claim = {.consequence = consequence::revoke_waits}});
  EXPECT_THAT(keys(object), ElementsAre("kind", "name", "driver", "device", "blocks_moves",
                                        "blocks_revoke", "consequence"));
  EXPECT_EQ(object["kind"], to_string(user_kind::dynamic_attachment));
  EXPECT_EQ(object["blocks_moves"], true);
  EXPECT_EQ(object["blocks_revoke"], true);
}

TEST(json, proof_and_difference) {
  EXPECT_THAT(keys(to_json(proof{})), ElementsAre("importer", "claimed", "compared", "different",
                                                  "first_difference", "broken", "skipped"));
  EXPECT_THAT(keys(to_json(plan_difference{})), ElementsAre("importer", "predicted", "confirmed"));
}

TEST(json, memory_and_holders) {
  EXPECT_THAT(
      keys(to_json(buffer_facts{})),
      ElementsAre("name", "kind", "exporter", "rules", "device", "bar", "pages", "movable",
                  "takes_unrevocable", "placement", "policy", "size", "empty", "move_limit"));
  EXPECT_EQ(to_json(buffer_facts{})["rules"], nullptr);
  const auto foreign = to_json(facts_of(rules_of("udmabuf"), {}, 4096, policy::prefer));
  EXPECT_EQ(foreign["exporter"], "udmabuf");
  EXPECT_THAT(
      keys(foreign["rules"]),
      ElementsAre("known", "what", "mappable", "pinnable", "vmap", "movable", "revocable", "memory",
                  "p2p", "asks_path", "unstoppable", "redirects", "bindable", "attach", "drives"));
  const auto object = to_json(held_buffer{.inode = 7, .holders = {{.pid = 12, .descriptor = 3}}});
  EXPECT_THAT(keys(object), ElementsAre("inode", "size", "name", "holders"));
  EXPECT_THAT(keys(object["holders"][0]), ElementsAre("pid", "command", "fd", "spec"));
  EXPECT_EQ(object["holders"][0]["spec"], "pid:12:3");
}

TEST(json, what_is_no_utf_8_is_printed_all_the_same) {
  EXPECT_EQ(dump({{"name", "a\xff"}}), "{\n  \"name\": \"a\xef\xbf\xbd\"\n}\n");
}

TEST(json, only_routes_that_were_taken) {
  route_counters routes{};
  routes[DMABRIDGE_ROUTE_P2P_BUS] = {.commands = 2, .bytes = 8192};
  const auto object = to_json(routes);
  EXPECT_THAT(keys(object), ElementsAre("p2p_bus"));
  EXPECT_EQ(object["p2p_bus"]["bytes"], 8192);
  EXPECT_TRUE(to_json(route_counters{}).is_object());
}

TEST(json, error) {
  const error failure({.kind = error_kind::refused,
                       .attempted = "bind",
                       .code = EOPNOTSUPP,
                       .reasons = {{.code = DMABRIDGE_REASON_NO_PAGES}},
                       .remedies = {"do this"}});
  const auto object = to_json(failure);
  EXPECT_THAT(keys(object), ElementsAre("kind", "message", "attempted", "detail", "errno",
                                        "reasons", "unreported_reasons", "remedies"));
  EXPECT_EQ(object["kind"], "refused");
  EXPECT_EQ(object["errno"]["name"], "EOPNOTSUPP");
  EXPECT_EQ(object["reasons"][0]["id"], "no_pages");
  EXPECT_TRUE(to_json(error({.attempted = "x"}))["errno"].is_null());
}

}  // namespace
}  // namespace dmabridge::command

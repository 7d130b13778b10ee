// SPDX-License-Identifier: MIT
// The kernel's judgement (exporter/verdict.c), compiled here as it is: a pure function.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <random>
#include <set>
#include <vector>

extern "C" {
#define _Bool bool
#include "../../exporter/verdict.h"
#undef _Bool
}

namespace {

struct judgement {
  dmabridge_verdict verdict;
  dmabridge_decision decision;
};

auto judge(const dmabridge_facts& facts) -> judgement {
  judgement result = {};
  dmabridge_judge(&facts, &result.verdict, &result.decision);
  return result;
}

auto codes(const dmabridge_verdict& verdict) -> std::set<std::uint32_t> {
  std::set<std::uint32_t> result;
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(verdict.nr_reasons, DMABRIDGE_MAX_REASONS);
       ++i)
    result.insert(verdict.reasons[i].code);
  return result;
}

// A buffer on its device and an importer behind the same switch.
auto good_facts() -> dmabridge_facts {
  dmabridge_facts facts = {};
  facts.region_kind = DMABRIDGE_REGION_BAR;
  facts.buffer_policy = DMABRIDGE_POLICY_PREFER;
  facts.importer_policy = DMABRIDGE_POLICY_PREFER;
  facts.placement = DMABRIDGE_PLACEMENT_DEVICE;
  facts.size = 1 << 20;
  facts.copy_limit = 1 << 28;
  facts.peer2peer = true;
  facts.revocable = true;
  facts.distance = 4;
  facts.path_route = DMABRIDGE_ROUTE_P2P_BUS;
  return facts;
}

auto reason_of(std::uint32_t code) -> dmabridge_reason {
  dmabridge_reason reason = {};
  reason.code = code;
  return reason;
}

TEST(judge, grants_p2p_where_nothing_speaks_against_it) {
  const auto [verdict, decision] = judge(good_facts());
  EXPECT_EQ(decision.error, 0);
  EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  EXPECT_EQ(decision.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_TRUE(decision.reaches_device);
  EXPECT_EQ(verdict.nr_reasons, 0U);
}

TEST(judge, static_importer_demotes_under_prefer_and_is_refused_under_require) {
  auto facts = good_facts();
  facts.is_static = true;
  facts.peer2peer = false;
  facts.revocable = false;
  auto [verdict, decision] = judge(facts);
  EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_EQ(decision.placement, DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(codes(verdict), std::set<std::uint32_t>{DMABRIDGE_REASON_STATIC_IMPORTER});

  facts.buffer_policy = DMABRIDGE_POLICY_REQUIRE;
  std::tie(verdict, decision) = std::pair(judge(facts).verdict, judge(facts).decision);
  EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_NONE);
  EXPECT_EQ(decision.error, -EOPNOTSUPP);
}

TEST(judge, all_reasons_are_collected) {
  auto facts = good_facts();
  facts.importer_policy = DMABRIDGE_POLICY_FORBID;
  facts.peer2peer = false;
  facts.distance = -1;
  facts.blockers[facts.nr_blockers++] = reason_of(DMABRIDGE_REASON_QUEUE_NO_P2P);
  facts.blockers[facts.nr_blockers++] = reason_of(DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED);
  const auto [verdict, decision] = judge(facts);
  EXPECT_EQ(codes(verdict),
            (std::set<std::uint32_t>{DMABRIDGE_REASON_POLICY_FORBID, DMABRIDGE_REASON_NOT_PEER2PEER,
                                     DMABRIDGE_REASON_QUEUE_NO_P2P,
                                     DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED}));
  EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_SYSTEM);
}

TEST(judge, a_disk_made_of_others_is_not_said_to_be_no_pci_function_besides) {
  auto facts = good_facts();
  facts.distance = -1;
  facts.blockers[facts.nr_blockers++] = reason_of(DMABRIDGE_REASON_NOT_PCI);
  EXPECT_EQ(judge(facts).verdict.nr_reasons, 1U);
  EXPECT_TRUE(codes(judge(facts).verdict).contains(DMABRIDGE_REASON_NOT_PCI));
  facts.blockers[facts.nr_blockers++] = reason_of(DMABRIDGE_REASON_STACKED_DEVICE);
  const auto [verdict, decision] = judge(facts);
  EXPECT_EQ(verdict.nr_reasons, 1U);
  EXPECT_EQ(codes(verdict), std::set<std::uint32_t>{DMABRIDGE_REASON_STACKED_DEVICE});
  EXPECT_FALSE(decision.reaches_device);
}

TEST(judge, refused_path_without_a_known_cause_has_a_reason_beside_others) {
  auto facts = good_facts();
  facts.distance = -1;
  facts.is_static = true;
  const auto [verdict, decision] = judge(facts);
  EXPECT_TRUE(codes(verdict).contains(DMABRIDGE_REASON_NO_PATH));
  EXPECT_TRUE(codes(verdict).contains(DMABRIDGE_REASON_STATIC_IMPORTER));
}

TEST(judge, an_importer_that_requires_p2p_keeps_others_from_demoting) {
  auto facts = good_facts();
  facts.peer2peer = false;
  facts.device_needer = reason_of(DMABRIDGE_REASON_HELD);
  const auto [verdict, decision] = judge(facts);
  EXPECT_EQ(decision.error, -EBUSY);
  EXPECT_TRUE(codes(verdict).contains(DMABRIDGE_REASON_HELD));
  EXPECT_TRUE(codes(verdict).contains(DMABRIDGE_REASON_NOT_PEER2PEER));
}

TEST(judge, copy_limit_counts_only_if_there_is_something_to_copy) {
  auto facts = good_facts();
  facts.peer2peer = false;
  facts.size = facts.copy_limit + 1;
  EXPECT_EQ(judge(facts).decision.error, -EOPNOTSUPP);
  EXPECT_TRUE(codes(judge(facts).verdict).contains(DMABRIDGE_REASON_MOVE_LIMIT));
  facts.copy_limit = ~0ULL;
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
}

TEST(judge, a_buffer_moved_on_request_goes_back_for_require_only) {
  auto facts = good_facts();
  facts.placement = DMABRIDGE_PLACEMENT_SYSTEM;
  facts.why_in_system = reason_of(DMABRIDGE_REASON_MOVED);
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(codes(judge(facts).verdict).contains(DMABRIDGE_REASON_MOVED));
  EXPECT_TRUE(judge(facts).decision.reaches_device);
  facts.importer_policy = DMABRIDGE_POLICY_REQUIRE;
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  EXPECT_EQ(judge(facts).decision.placement, DMABRIDGE_PLACEMENT_DEVICE);
  facts.system_needer = reason_of(DMABRIDGE_REASON_DEMOTED);
  EXPECT_EQ(judge(facts).decision.error, -EOPNOTSUPP);
  EXPECT_TRUE(codes(judge(facts).verdict).contains(DMABRIDGE_REASON_DEMOTED));
}

TEST(judge, revoked_buffer_serves_nobody) {
  auto facts = good_facts();
  facts.placement = DMABRIDGE_PLACEMENT_NONE;
  facts.exporter = 0x0400;
  const auto [verdict, decision] = judge(facts);
  EXPECT_EQ(decision.error, -ENODEV);
  ASSERT_EQ(verdict.nr_reasons, 1U);
  EXPECT_EQ(verdict.reasons[0].code, DMABRIDGE_REASON_REVOKED);
  EXPECT_EQ(verdict.reasons[0].device, 0x0400U);
}

TEST(judge, policies_combine_to_the_stricter_in_any_order) {
  const std::uint32_t r = DMABRIDGE_POLICY_REQUIRE, p = DMABRIDGE_POLICY_PREFER,
                      f = DMABRIDGE_POLICY_FORBID;
  EXPECT_EQ(dmabridge_combine_policies(r, p), r);
  EXPECT_EQ(dmabridge_combine_policies(f, p), f);
  EXPECT_EQ(dmabridge_combine_policies(p, p), p);
  EXPECT_EQ(dmabridge_combine_policies(r, f), 0U);
  for (std::uint32_t a = 0; a < 6; ++a)
    for (std::uint32_t b = 0; b < 6; ++b) {
      EXPECT_EQ(dmabridge_combine_policies(a, b), dmabridge_combine_policies(b, a));
      if (a == 0 || a > 3) EXPECT_EQ(dmabridge_combine_policies(a, b), 0U);
    }
}

TEST(judge, stolen_memory_serves_everybody_in_place) {
  auto facts = good_facts();
  facts.region_kind = DMABRIDGE_REGION_STOLEN;
  facts.path_route = DMABRIDGE_ROUTE_STOLEN;
  facts.distance = -1;
  facts.is_static = true;
  facts.peer2peer = false;
  facts.revocable = false;
  for (const std::uint32_t policy : {DMABRIDGE_POLICY_PREFER, DMABRIDGE_POLICY_REQUIRE}) {
    facts.importer_policy = policy;
    const auto [verdict, decision] = judge(facts);
    EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_STOLEN);
    EXPECT_EQ(verdict.nr_reasons, 0U);
    EXPECT_EQ(decision.placement, DMABRIDGE_PLACEMENT_DEVICE);
  }
  facts.importer_policy = DMABRIDGE_POLICY_FORBID;
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_EQ(codes(judge(facts).verdict), std::set<std::uint32_t>{DMABRIDGE_REASON_POLICY_FORBID});
}

TEST(judge, a_driver_may_veto_stolen_memory_too) {
  auto facts = good_facts();
  facts.region_kind = DMABRIDGE_REGION_STOLEN;
  facts.path_route = DMABRIDGE_ROUTE_STOLEN;
  facts.blockers[facts.nr_blockers++] = reason_of(DMABRIDGE_REASON_EXPORTER_VETO);
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  facts.buffer_policy = DMABRIDGE_POLICY_REQUIRE;
  EXPECT_EQ(judge(facts).decision.error, -EOPNOTSUPP);
}

TEST(judge, a_region_of_system_memory_says_so_and_refuses_require) {
  auto facts = good_facts();
  facts.region_kind = DMABRIDGE_REGION_SYSTEM;
  facts.placement = DMABRIDGE_PLACEMENT_SYSTEM;
  facts.distance = -1;
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_EQ(codes(judge(facts).verdict), std::set<std::uint32_t>{DMABRIDGE_REASON_SYSTEM_REGION});
  facts.importer_policy = DMABRIDGE_POLICY_REQUIRE;
  EXPECT_EQ(judge(facts).decision.error, -EOPNOTSUPP);
}

TEST(judge, another_exporters_memory_serves_all_but_who_requires_p2p) {
  auto facts = good_facts();
  facts.region_kind = DMABRIDGE_REGION_SYSTEM;
  facts.foreign = reason_of(DMABRIDGE_REASON_FOREIGN_BUFFER);
  facts.placement = DMABRIDGE_PLACEMENT_SYSTEM;
  facts.distance = -1;
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_EQ(codes(judge(facts).verdict), std::set<std::uint32_t>{DMABRIDGE_REASON_FOREIGN_BUFFER});
  facts.importer_policy = DMABRIDGE_POLICY_FORBID;
  EXPECT_EQ(judge(facts).decision.error, 0);
  facts.importer_policy = DMABRIDGE_POLICY_REQUIRE;
  facts.blockers[facts.nr_blockers++] = reason_of(DMABRIDGE_REASON_QUEUE_NO_P2P);
  EXPECT_EQ(judge(facts).decision.error, -EOPNOTSUPP);
  EXPECT_EQ(codes(judge(facts).verdict), (std::set<std::uint32_t>{DMABRIDGE_REASON_FOREIGN_BUFFER,
                                                                  DMABRIDGE_REASON_QUEUE_NO_P2P}));
}

TEST(judge, without_pages_block_io_bounces_where_the_buffer_is) {
  auto facts = good_facts();
  facts.needs_pages = true;
  auto [verdict, decision] = judge(facts);
  EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_BOUNCE);
  EXPECT_EQ(codes(verdict), std::set<std::uint32_t>{DMABRIDGE_REASON_NO_PAGES});
  EXPECT_EQ(decision.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_TRUE(decision.bounces);
  // It goes on to do so when the buffer comes back, and does not keep it away.
  facts.placement = DMABRIDGE_PLACEMENT_SYSTEM;
  std::tie(verdict, decision) = std::pair(judge(facts).verdict, judge(facts).decision);
  EXPECT_EQ(verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(decision.bounces);
  facts.importer_policy = DMABRIDGE_POLICY_REQUIRE;
  EXPECT_EQ(judge(facts).decision.error, -EOPNOTSUPP);
  facts.importer_policy = DMABRIDGE_POLICY_FORBID;
  facts.placement = DMABRIDGE_PLACEMENT_DEVICE;
  EXPECT_EQ(judge(facts).verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_EQ(judge(facts).decision.placement, DMABRIDGE_PLACEMENT_SYSTEM);
}

// Whatever the facts: the promises of verdict.h and of the ABI hold.
TEST(judge, properties_hold_for_random_facts) {
  std::mt19937 random(20261121);
  auto flip = [&] { return (random() & 1) != 0; };
  for (int round = 0; round < 200'000; ++round) {
    dmabridge_facts facts = {};
    facts.region_kind = DMABRIDGE_REGION_BAR + random() % 3;
    facts.buffer_policy = random() % 4;
    facts.importer_policy = random() % 4;
    facts.placement = random() % 3;
    if (facts.region_kind == DMABRIDGE_REGION_SYSTEM &&
        facts.placement == DMABRIDGE_PLACEMENT_DEVICE)
      facts.placement = DMABRIDGE_PLACEMENT_SYSTEM;
    facts.why_in_system = reason_of(DMABRIDGE_REASON_MOVED);
    facts.needs_pages = flip();
    facts.size = random() % 1000;
    facts.copy_limit = random() % 1000;
    facts.takes_unrevocable = flip();
    if (flip()) facts.system_needer = reason_of(DMABRIDGE_REASON_DEMOTED);
    if (flip()) facts.device_needer = reason_of(DMABRIDGE_REASON_HELD);
    facts.is_static = flip();
    facts.peer2peer = flip();
    facts.revocable = flip();
    facts.distance = static_cast<std::int32_t>(random() % 4) - 1;
    facts.path_route = flip() ? DMABRIDGE_ROUTE_P2P_BUS : DMABRIDGE_ROUTE_P2P_HOST_BRIDGE;
    if (facts.region_kind == DMABRIDGE_REGION_STOLEN) facts.path_route = DMABRIDGE_ROUTE_STOLEN;
    facts.nr_blockers = random() % (DMABRIDGE_MAX_BLOCKERS + 1);
    for (std::uint32_t i = 0; i < facts.nr_blockers; ++i)
      facts.blockers[i] = reason_of(DMABRIDGE_REASON_QUEUE_NO_P2P + random() % 3);

    const auto [verdict, decision] = judge(facts);
    const bool p2p = verdict.route == DMABRIDGE_ROUTE_P2P_BUS ||
                     verdict.route == DMABRIDGE_ROUTE_P2P_HOST_BRIDGE;
    SCOPED_TRACE(round);
    // A refusal has no route, and nothing but a refusal has none.
    ASSERT_EQ(decision.error != 0, verdict.route == DMABRIDGE_ROUTE_NONE);
    const bool stolen = verdict.route == DMABRIDGE_ROUTE_STOLEN;
    // Every route that is neither P2P nor stolen has a reason.
    if (!p2p && !stolen) ASSERT_GT(verdict.nr_reasons, 0U);
    // Require never yields less than that; forbid never yields it.
    if (verdict.policy == DMABRIDGE_POLICY_REQUIRE && !decision.error) ASSERT_TRUE(p2p || stolen);
    if (verdict.policy == DMABRIDGE_POLICY_FORBID) ASSERT_FALSE(p2p || stolen);
    if (stolen) ASSERT_EQ(facts.region_kind, DMABRIDGE_REGION_STOLEN);
    // Who bounces neither moves a buffer nor keeps it anywhere.
    if (decision.bounces) ASSERT_EQ(decision.placement, facts.placement);
    if (verdict.route == DMABRIDGE_ROUTE_BOUNCE) {
      ASSERT_TRUE(decision.bounces);
      ASSERT_EQ(facts.placement, DMABRIDGE_PLACEMENT_DEVICE);
    }
    if (p2p) {
      ASSERT_EQ(facts.region_kind, DMABRIDGE_REGION_BAR);
      ASSERT_FALSE(facts.needs_pages);
      ASSERT_GE(facts.distance, 0);
      ASSERT_EQ(facts.nr_blockers, 0U);
      ASSERT_TRUE(facts.peer2peer && !facts.is_static);
      ASSERT_TRUE(facts.revocable || facts.takes_unrevocable);
      ASSERT_EQ(decision.placement, DMABRIDGE_PLACEMENT_DEVICE);
      ASSERT_TRUE(decision.reaches_device);
    }
    // Nobody is moved away from under one who requires it there.
    if (!decision.error && decision.placement != facts.placement) {
      if (decision.placement == DMABRIDGE_PLACEMENT_SYSTEM) {
        ASSERT_EQ(facts.device_needer.code, DMABRIDGE_REASON_NONE);
        ASSERT_LE(facts.size, facts.copy_limit);
      } else {
        ASSERT_EQ(facts.system_needer.code, DMABRIDGE_REASON_NONE);
      }
    }
  }
}

}  // namespace

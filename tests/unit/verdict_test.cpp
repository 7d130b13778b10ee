// SPDX-License-Identifier: MIT
#include "dmabridge/verdict.hpp"

#include <gtest/gtest.h>

namespace dmabridge {
namespace {

TEST(verdict, names_and_back) {
  for (const auto value : {policy::require, policy::prefer, policy::forbid}) {
    EXPECT_EQ(parse_policy(to_string(value)), value);
  }
  for (const auto value : {placement::none, placement::device, placement::system}) {
    EXPECT_EQ(parse_placement(to_string(value)), value);
  }
  EXPECT_EQ(to_string(route::p2p_host_bridge), "p2p_host_bridge");
  EXPECT_EQ(to_string(verdict_state::confirmed), "confirmed");
  for (const auto* text : {"", "Require", "prefer ", "allow", "unknown_policy_9"}) {
    EXPECT_FALSE(parse_policy(text)) << text;
  }
}

TEST(verdict, values_of_a_newer_module_keep_their_number) {
  EXPECT_EQ(to_string(static_cast<route>(12)), "unknown_route_12");
  EXPECT_EQ(to_string(static_cast<placement>(9)), "unknown_placement_9");
  EXPECT_EQ(to_string(static_cast<policy>(0)), "unknown_policy_0");
}

TEST(verdict, only_vouched_device_routes_satisfy_require) {
  EXPECT_TRUE(satisfies_require(route::p2p_bus));
  EXPECT_TRUE(satisfies_require(route::p2p_host_bridge));
  EXPECT_TRUE(satisfies_require(route::stolen));
  for (const auto value :
       {route::none, route::system, route::bounce, route::unproved, static_cast<route>(12)}) {
    EXPECT_FALSE(satisfies_require(value)) << to_string(value);
  }
}

TEST(verdict, from_the_kernel) {
  dmabridge_verdict raw{};
  raw.route = DMABRIDGE_ROUTE_P2P_BUS;
  raw.policy = DMABRIDGE_POLICY_REQUIRE;
  raw.distance = 4;
  auto word = verdict::from_kernel(raw);
  EXPECT_EQ(word.state, verdict_state::confirmed);
  EXPECT_EQ(word.route, route::p2p_bus);
  EXPECT_EQ(word.policy, policy::require);
  EXPECT_EQ(word.distance, 4);
  EXPECT_TRUE(word.reasons.empty());

  raw.policy = 0;
  raw.distance = -1;
  word = verdict::from_kernel(raw);
  EXPECT_FALSE(word.policy);
  EXPECT_FALSE(word.distance);
}

TEST(verdict, counts_reasons_that_did_not_fit) {
  dmabridge_verdict raw{};
  raw.nr_reasons = DMABRIDGE_MAX_REASONS + 3;
  const auto word = verdict::from_kernel(raw);
  EXPECT_EQ(word.reasons.size(), std::size_t{DMABRIDGE_MAX_REASONS});
  EXPECT_EQ(word.unreported, 3U);
}

}  // namespace
}  // namespace dmabridge

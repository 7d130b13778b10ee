// SPDX-License-Identifier: MIT
#include "rdma_bench.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace dmabridge::command {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

auto measured() -> rdma_bench_report {
  rdma_bench_report report{.device = "rxe0", .size = 1 << 20, .turns = 3};
  report.method = registration_method::pinned_mapping;
  report.word.route = route::system;
  report.word.policy = policy::prefer;
  report.word.reasons = {{.code = DMABRIDGE_REASON_BY_CPU, .blocks_p2p = true, .name = "rdma_rxe"}};
  report.registrations = {{.length = 4096,
                           .ns = {.ordinary = 2000, .buffer = 5000, .ratio = 2.5},
                           .cached_ns = 20,
                           .cached_ratio = 250}};
  report.rates = {{.operation = rdma_operation::write,
                   .message = 65536,
                   .bytes_per_second = {.ordinary = 2e8, .buffer = 1e8, .ratio = 0.5}}};
  report.latencies = {{.operation = rdma_operation::read,
                       .message = 8,
                       .ns = {.ordinary = 1e5, .buffer = 3e5, .ratio = 3}}};
  return report;
}

TEST(rdma_bench, median_is_the_middle_one_in_whatever_order) {
  std::mt19937 random(1);
  std::vector<double> values{1, 2, 3, 4, 100};
  for (int round = 0; round < 20; ++round) {
    std::ranges::shuffle(values, random);
    EXPECT_EQ(median(values), 3);
  }
  EXPECT_EQ(median({7}), 7);
  EXPECT_EQ(median({1, 2}), 2);
}

TEST(rdma_bench, every_number_stands_beside_its_route_and_the_reasons) {
  const auto text = to_text(measured());
  EXPECT_THAT(text, HasSubstr("RDMA device rxe0, buffer of 1 MiB: route system"));
  EXPECT_THAT(text, HasSubstr("[by_cpu]"));
  EXPECT_THAT(text, HasSubstr("median of 3 turns"));
  EXPECT_THAT(text, ContainsRegex("4 KiB +2\\.0 +5\\.0 +2\\.50 +0\\.02 +250\n"));
  EXPECT_THAT(text, ContainsRegex("write 64 KiB +200\\.0 +100\\.0 +0\\.50\n"));
  EXPECT_THAT(text, ContainsRegex("read 8 B[a-z]* +100\\.0 +300\\.0 +3\\.00\n"));
}

TEST(rdma_bench, json_has_the_same) {
  const auto told = to_json(measured());
  EXPECT_EQ(told["device"], "rxe0");
  EXPECT_EQ(told["verdict"]["route"], "system");
  EXPECT_EQ(told["registrations"][0]["ns"]["buffer"], 5000);
  EXPECT_EQ(told["registrations"][0]["cached_ratio"], 250);
  EXPECT_EQ(told["bandwidth"][0]["operation"], "write");
  EXPECT_EQ(told["bandwidth"][0]["bytes_per_second"]["ratio"], 0.5);
  EXPECT_EQ(told["latency"][0]["ns"]["ratio"], 3);
}

}  // namespace
}  // namespace dmabridge::command

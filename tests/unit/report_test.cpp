// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dmabridge::command {
namespace {

using testing::HasSubstr;
using testing::Not;

auto redirected() -> transfer_report {
  transfer_report report{.way = direction::read, .path = "/mnt/model.bin"};
  report.range = {.file_offset = 0, .buffer_offset = 4096, .length = 1 << 20};
  report.word.route = route::system;
  report.word.policy = policy::prefer;
  report.word.reasons = {{.code = DMABRIDGE_REASON_ACS_REDIRECT,
                          .blocks_p2p = true,
                          .device = pci_address::unpack(0x100),
                          .value = 4}};
  report.result.bytes = 1 << 20;
  report.result.commands = 1;
  report.result.seconds = 0.5;
  report.result.routes[DMABRIDGE_ROUTE_SYSTEM] = {.commands = 1, .bytes = 1 << 20};
  report.disk_requests = 9;
  report.buffer_size = 2 << 20;
  report.buffer = buffer_info{};
  report.buffer->region = "vram0";
  report.buffer->placement = placement::system;
  return report;
}

TEST(report, tells_route_bytes_speed_placement_and_every_reason) {
  const auto text = to_text(redirected());
  EXPECT_THAT(text, HasSubstr("loaded 1 MiB (1048576 bytes) from /mnt/model.bin"));
  EXPECT_THAT(text, HasSubstr("system, confirmed by the kernel (policy prefer)"));
  EXPECT_THAT(text, HasSubstr("1048576 bytes in 1 command(s)"));
  EXPECT_THAT(text, HasSubstr("the disk completed 9 requests"));
  EXPECT_THAT(text, HasSubstr("2 MiB/s"));
  EXPECT_THAT(text, HasSubstr("region vram0, now in placement system"));
  EXPECT_THAT(text, HasSubstr("[acs_redirect]"));
  EXPECT_THAT(text, HasSubstr("pci=disable_acs_redir=0000:01:00.0"));
}

TEST(report, policy_prefer_is_no_remedy_where_it_is_the_policy) {
  auto report = redirected();
  EXPECT_THAT(to_text(report), Not(HasSubstr("use policy prefer")));
  report.word.policy = policy::require;
  EXPECT_THAT(to_text(report), HasSubstr("or use policy prefer"));
}

TEST(report, no_bytes_take_no_route) {
  auto report = redirected();
  report.result = {};
  EXPECT_THAT(to_text(report),
              HasSubstr("route       none taken, as there was nothing to move; bound as system"));
  EXPECT_EQ(to_json(report)["routes"], json::object());
  EXPECT_THAT(to_text(redirected()), Not(HasSubstr("none taken")));
}

TEST(report, unknown_placement_is_not_passed_over) {
  auto report = redirected();
  report.buffer.reset();
  report.buffer_unknown = "it is somebody else's";
  EXPECT_THAT(to_text(report), HasSubstr("placement unknown: it is somebody else's"));
  EXPECT_TRUE(to_json(report)["buffer"].is_null());
}

TEST(report, json) {
  const auto object = to_json(redirected());
  EXPECT_EQ(object["operation"], "load");
  EXPECT_EQ(object["verdict"]["route"], "system");
  EXPECT_EQ(object["routes"]["system"]["bytes"], 1 << 20);
  EXPECT_EQ(object["disk_requests"], 9);
  EXPECT_EQ(object["bytes_per_second"], 2 << 20);
  EXPECT_EQ(object["buffer"]["placement"], "system");
}

}  // namespace
}  // namespace dmabridge::command

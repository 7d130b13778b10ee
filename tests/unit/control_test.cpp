// SPDX-License-Identifier: MIT
#include "dmabridge/control.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "dmabridge/error.hpp"
#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using test::control_fd;
using test::error_of;
using testing::_;
using testing::HasSubstr;
using testing::Return;
using testing::StrEq;

TEST(control, missing_node_says_how_to_load_the_module) {
  test::fake_module module;
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge"), _, _)).WillOnce(Return(-ENOENT));
  const auto failure = error_of([] { const control opened; });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_EQ(failure.code(), ENOENT);
  EXPECT_THAT(failure.what(), HasSubstr("modprobe dmabridge"));
}

TEST(control, no_permission_is_told_from_no_module) {
  test::fake_module module;
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge"), _, _)).WillOnce(Return(-EACCES));
  const auto failure = error_of([] { const control opened; });
  EXPECT_THAT(failure.what(), HasSubstr("permission"));
  EXPECT_THAT(failure.what(), testing::Not(HasSubstr("modprobe")));
}

TEST(control, something_else_behind_the_node) {
  test::fake_module module;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_INFO, _)).WillOnce(Return(-ENOTTY));
  EXPECT_CALL(module.calls, close(control_fd));
  const auto failure = error_of([] { const control opened; });
  EXPECT_THAT(failure.what(), HasSubstr("no dmabridge node"));
}

TEST(control, older_module_is_named_as_such) {
  test::fake_module module;
  const control opened;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_MOVE, _)).WillOnce(Return(-ENOTTY));
  const auto failure = error_of([&] { opened.move(5, placement::device); });
  EXPECT_THAT(failure.what(), HasSubstr("older than this library"));
  EXPECT_THAT(failure.what(), HasSubstr("update and reload"));
}

TEST(control, feature_an_older_module_lacks) {
  test::fake_module module;
  const control opened;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_HOLD, _)).WillOnce(Return(-E2BIG));
  const auto failure = error_of([&] { opened.hold(5, placement::device); });
  EXPECT_THAT(failure.what(), HasSubstr("lacks a feature"));
}

TEST(control, newer_module_works_and_errors_mention_it) {
  test::fake_module module;
  module.abi_version = DMABRIDGE_ABI_VERSION + 1;
  const control opened;
  EXPECT_EQ(opened.abi_version(), DMABRIDGE_ABI_VERSION + 1U);
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_MOVE, _)).WillOnce(Return(-EINVAL));
  const auto failure = error_of([&] { opened.move(5, placement::device); });
  EXPECT_THAT(failure.what(), HasSubstr("newer than this library"));
}

TEST(control, lists_regions_across_gaps_in_their_ids) {
  test::fake_module module;
  module.add_region("vram0", 256 << 20);
  auto& second = module.add_region("vram1", 1 << 20);
  second.flags = 0;
  const auto regions = control().regions();
  ASSERT_EQ(regions.size(), 2U);
  EXPECT_EQ(regions[0].name, "vram0");
  EXPECT_EQ(regions[0].node, "/dev/dmabridge-vram0");
  EXPECT_TRUE(regions[0].has_pages);
  EXPECT_EQ(to_string(regions[0].device.value()), "0000:03:00.0");
  EXPECT_EQ(regions[1].id, 3U);
  EXPECT_FALSE(regions[1].has_pages);
}

TEST(control, lists_the_highest_id_there_can_be) {
  test::fake_module module;
  module.add_region("last", 4096).id = UINT32_MAX;
  EXPECT_EQ(control().regions().size(), 1U);
}

TEST(control, region_of_every_kind_and_state) {
  test::fake_module module;
  auto& busy = module.add_region("stolen", 1 << 20);
  busy.kind = DMABRIDGE_REGION_STOLEN;
  busy.flags |= DMABRIDGE_REGION_HAS_ENGINE | DMABRIDGE_REGION_SUSPENDED;
  busy.quarantined = 8192;
  auto& plain = module.add_region("system", 1 << 20);
  plain.kind = DMABRIDGE_REGION_SYSTEM;
  plain.flags |= DMABRIDGE_REGION_NOT_PCI | DMABRIDGE_REGION_UNREGISTERED;
  module.add_region("quarantine", 1 << 20).flags |= DMABRIDGE_REGION_QUARANTINED;
  const auto regions = control().regions();
  ASSERT_EQ(regions.size(), 3U);
  EXPECT_TRUE(regions[2].unregistered) << "as older modules say it";
  EXPECT_EQ(regions[0].kind, region_kind::stolen);
  EXPECT_TRUE(regions[0].has_engine && regions[0].suspended);
  EXPECT_FALSE(regions[0].unregistered);
  EXPECT_EQ(regions[0].quarantined, 8192U);
  EXPECT_TRUE(regions[0].device);
  EXPECT_EQ(regions[1].kind, region_kind::system);
  EXPECT_FALSE(regions[1].has_engine || regions[1].suspended);
  EXPECT_TRUE(regions[1].unregistered);
  EXPECT_FALSE(regions[1].device) << "0000:00:00.0 would be somebody else's";
}

// It knows what stands before `quarantined`, and clears the rest, as copy_struct_to_user() does.
TEST(control, older_module_knows_no_quarantine) {
  test::fake_module module;
  module.add_region("vram0", 1 << 20).quarantined = 4096;
  constexpr auto known = offsetof(dmabridge_region_info, quarantined);
  ON_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_REGION, _))
      .WillByDefault([&](int, unsigned long, void* argument) {
        auto* bytes = static_cast<std::byte*>(argument);
        constexpr auto size = sizeof(dmabridge_region_info);
        // What it does not know has to be zero, or it would refuse the call.
        const auto beyond = [](std::byte byte) { return byte != std::byte{}; };
        if (std::any_of(bytes + known, bytes + size, beyond)) return -E2BIG;
        if (static_cast<dmabridge_region_info*>(argument)->id > module.regions[0].id) {
          return -ENOENT;
        }
        std::memcpy(bytes, module.regions.data(), known);
        std::memset(bytes + known, 0, size - known);
        return 0;
      });
  const auto regions = control().regions();
  ASSERT_EQ(regions.size(), 1U);
  EXPECT_EQ(regions[0].name, "vram0");
  EXPECT_EQ(regions[0].quarantined, 0U);
}

TEST(control, query_grows_until_all_users_fit) {
  test::fake_module module;
  const control opened;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .Times(2)
      .WillRepeatedly([](int, unsigned long, void* argument) {
        auto& query = *static_cast<dmabridge_query*>(argument);
        EXPECT_EQ(query.user_size, sizeof(dmabridge_user));
        query.placement = DMABRIDGE_PLACEMENT_SYSTEM;
        query.policy = DMABRIDGE_POLICY_PREFER;
        query.nr_users = 20;
        query.nr_chunks = 1;
        query.last_move.code = DMABRIDGE_REASON_DEMOTED;
        auto* users = reinterpret_cast<dmabridge_user*>(query.users);
        for (std::uint32_t i = 0; i < std::min(query.max_users, query.nr_users); ++i) {
          users[i].kind = DMABRIDGE_USER_BINDING;
          users[i].flags = DMABRIDGE_USER_NEEDS_SYSTEM | DMABRIDGE_USER_BOUNCES;
          std::snprintf(users[i].name, sizeof(users[i].name), "disk%u", i);
        }
        *reinterpret_cast<dmabridge_chunk*>(query.chunks) = {.offset = 8192, .length = 4096};
        return 0;
      });
  const auto found = opened.query(5);
  EXPECT_EQ(found.placement, placement::system);
  ASSERT_EQ(found.users.size(), 20U);
  EXPECT_EQ(found.users[19].name, "disk19");
  EXPECT_TRUE(found.users[19].needs_system);
  EXPECT_TRUE(found.users[19].bounces);
  EXPECT_FALSE(found.users[19].pinned);
  ASSERT_EQ(found.chunks.size(), 1U);
  EXPECT_EQ(found.chunks[0].offset, 8192U);
  ASSERT_TRUE(found.last_move);
  EXPECT_EQ(found.last_move->id(), "demoted");
}

TEST(control, query_of_a_foreign_buffer) {
  test::fake_module module;
  const control opened;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .WillOnce(Return(-EMEDIUMTYPE));
  EXPECT_THAT(error_of([&] { opened.query(5); }).what(), HasSubstr("of another exporter"));
}

TEST(control, refused_hold_carries_the_reasons) {
  test::fake_module module;
  const control opened;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_HOLD, _))
      .WillOnce([](int, unsigned long, void* argument) {
        auto& hold = *static_cast<dmabridge_hold*>(argument);
        hold.verdict.nr_reasons = 1;
        hold.verdict.reasons[0].code = DMABRIDGE_REASON_PINNED_BY_USER;
        hold.verdict.reasons[0].value = 3;
        return -EBUSY;
      });
  const auto failure = error_of([&] { opened.hold(5, placement::system); });
  EXPECT_EQ(failure.kind(), error_kind::refused);
  ASSERT_EQ(failure.reasons().size(), 1U);
  EXPECT_THAT(failure.what(), HasSubstr("3 pinned page(s)"));
}

TEST(control, hold_hands_over_the_fd) {
  test::fake_module module;
  const control opened;
  EXPECT_CALL(module.calls, ioctl(control_fd, DMABRIDGE_IOCTL_HOLD, _))
      .WillOnce([](int, unsigned long, void* argument) {
        static_cast<dmabridge_hold*>(argument)->hold_fd = 42;
        return 0;
      });
  EXPECT_CALL(module.calls, close).Times(testing::AnyNumber());
  EXPECT_CALL(module.calls, close(42)).Times(1);
  EXPECT_EQ(opened.hold(5, placement::device).get(), 42);
}

}  // namespace
}  // namespace dmabridge

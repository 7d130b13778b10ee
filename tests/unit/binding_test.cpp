// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <liburing.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "dmabridge/block_importer.hpp"
#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using test::binding_fd;
using test::buffer_fd;
using test::control_fd;
using test::error_of;
using testing::_;
using testing::HasSubstr;

class binding_test : public testing::Test {
 protected:
  void grant() {
    EXPECT_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
        .WillOnce([](int, unsigned long, void* argument) {
          auto& wanted = *static_cast<dmabridge_bind*>(argument);
          EXPECT_EQ(wanted.fd, buffer_fd);
          EXPECT_EQ(wanted.target_fd, 33);
          EXPECT_EQ(wanted.flags, DMABRIDGE_BIND_READ);
          EXPECT_EQ(wanted.policy, std::uint32_t{DMABRIDGE_POLICY_REQUIRE});
          wanted.binding_fd = binding_fd;
          wanted.verdict.route = DMABRIDGE_ROUTE_P2P_BUS;
          wanted.verdict.policy = DMABRIDGE_POLICY_REQUIRE;
          return 0;
        });
  }
  auto bind() -> binding {
    return {control_, memory_, 33, "/dev/nvme0n1", policy::require, direction::read};
  }

  test::fake_module module_;
  control control_;
  buffer memory_ = buffer::from_fd(fd(buffer_fd));
};

TEST_F(binding_test, owns_its_fd_and_keeps_the_verdict) {
  grant();
  EXPECT_CALL(module_.calls, close).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(binding_fd)).Times(1);
  const auto between = bind();
  EXPECT_EQ(between.descriptor(), binding_fd);
  EXPECT_EQ(between.verdict().route, route::p2p_bus);
}

TEST_F(binding_test, refusal_carries_every_reason) {
  EXPECT_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
      .WillOnce([](int, unsigned long, void* argument) {
        auto& wanted = *static_cast<dmabridge_bind*>(argument);
        wanted.verdict.nr_reasons = 2;
        wanted.verdict.reasons[0].code = DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED;
        wanted.verdict.reasons[1].code = DMABRIDGE_REASON_FILE_VERITY;
        return -EOPNOTSUPP;
      });
  const auto failure = error_of([this] { bind(); });
  EXPECT_EQ(failure.kind(), error_kind::refused);
  EXPECT_EQ(failure.code(), EOPNOTSUPP);
  EXPECT_THAT(failure.what(), HasSubstr("/dev/nvme0n1"));
  EXPECT_THAT(failure.what(), HasSubstr("policy require"));
  EXPECT_THAT(failure.what(), HasSubstr("[host_bridge_unlisted]"));
  EXPECT_THAT(failure.what(), HasSubstr("[file_verity]"));
}

TEST_F(binding_test, refusal_names_the_policy_that_the_buffer_made_stricter) {
  EXPECT_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
      .WillOnce([](int, unsigned long, void* argument) {
        auto& wanted = *static_cast<dmabridge_bind*>(argument);
        wanted.verdict.policy = DMABRIDGE_POLICY_FORBID;
        return -EOPNOTSUPP;
      });
  EXPECT_THAT(error_of([this] { bind(); }).what(), HasSubstr("buffer's own policy that is forbid"));
}

TEST_F(binding_test, failure_without_reasons_is_no_refusal) {
  EXPECT_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
      .WillOnce(testing::Return(-ENOMEM));
  EXPECT_EQ(error_of([this] { bind(); }).kind(), error_kind::system);
}

TEST_F(binding_test, sqe_is_as_the_abi_says_and_64_bytes_long) {
  grant();
  const auto between = bind();
  // Room for a 128-byte entry, of which only the first half may be touched.
  std::array<io_uring_sqe, 2> entries;
  std::memset(entries.data(), 0xaa, sizeof(entries));
  auto& sqe = entries[0];
  between.prepare_write(sqe, 1 << 20, 8192, 4096);
  EXPECT_EQ(sqe.opcode, IORING_OP_URING_CMD);
  EXPECT_EQ(sqe.fd, binding_fd);
  EXPECT_EQ(sqe.cmd_op, DMABRIDGE_URING_WRITE);
  EXPECT_EQ(sqe.addr, 8192U);
  EXPECT_EQ(sqe.len, 4096U);
  EXPECT_EQ(sqe.flags, 0U);
  dmabridge_uring_cmd command{};
  std::memcpy(&command, sqe.cmd, sizeof(command));
  EXPECT_EQ(command.file_offset, 1U << 20);
  EXPECT_EQ(command.flags, 0U);
  const auto* behind = reinterpret_cast<const unsigned char*>(&entries[1]);
  EXPECT_TRUE(std::all_of(behind, behind + 64, [](auto byte) { return byte == 0xaa; }));
  between.prepare_read(sqe, 0, 0, 1);
  EXPECT_EQ(sqe.cmd_op, DMABRIDGE_URING_READ);
}

TEST_F(binding_test, counters) {
  grant();
  const auto between = bind();
  EXPECT_CALL(module_.calls, ioctl(binding_fd, DMABRIDGE_IOCTL_BINDING, _))
      .WillOnce([](int, unsigned long, void* argument) {
        auto& raw = *static_cast<dmabridge_binding_info*>(argument);
        raw.offset_align = 512;
        raw.max_length = 1 << 20;
        raw.routes[DMABRIDGE_ROUTE_P2P_BUS] = {.commands = 3, .bytes = 12288};
        return 0;
      });
  const auto info = between.info();
  EXPECT_EQ(info.offset_align, 512U);
  EXPECT_EQ(info.routes[DMABRIDGE_ROUTE_P2P_BUS].bytes, 12288U);
  EXPECT_EQ(info.routes[DMABRIDGE_ROUTE_SYSTEM].commands, 0U);
}

}  // namespace
}  // namespace dmabridge

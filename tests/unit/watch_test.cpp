// SPDX-License-Identifier: MIT
#include "dmabridge/watch.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using namespace std::chrono_literals;
using test::buffer_fd;
using test::control_fd;
using test::error_of;
using testing::_;
using testing::HasSubstr;
using testing::Return;

constexpr int watch_fd = 120;

static_assert(std::is_nothrow_move_constructible_v<watch> &&
              std::is_nothrow_move_assignable_v<watch> && !std::is_copy_constructible_v<watch>);

class watch_test : public testing::Test {
 protected:
  watch_test() {
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_WATCH, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& raw = *static_cast<dmabridge_watch*>(argument);
          asked_ = raw;
          raw.watch_fd = watch_fd;
          raw.generation = 7;
          return 0;
        });
  }

  void next_event(const dmabridge_event& raw) {
    EXPECT_CALL(module_.calls, read(watch_fd, _, sizeof(raw)))
        .WillOnce([raw](int, void* to, std::size_t size) {
          std::memcpy(to, &raw, size);
          return static_cast<std::int64_t>(size);
        });
  }

  auto failure_of(int result, int eventfd = -1) -> error {
    EXPECT_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_WATCH, _))
        .WillOnce(Return(result));
    return error_of([&] { const watch none(control_, 5, eventfd); });
  }

  test::fake_module module_;
  const control control_;
  dmabridge_watch asked_{};
};

TEST_F(watch_test, is_made_from_a_buffer_or_its_fd) {
  const watch of_fd(control_, 5);
  EXPECT_EQ(of_fd.descriptor(), watch_fd);
  EXPECT_EQ(of_fd.generation(), 7U);
  EXPECT_EQ(asked_.fd, 5);
  EXPECT_EQ(asked_.eventfd, -1);
  EXPECT_EQ(asked_.flags, 0U);
  const watch of_buffer(control_, buffer::from_fd(fd(buffer_fd)), 33);
  EXPECT_EQ(asked_.fd, buffer_fd);
  EXPECT_EQ(asked_.eventfd, 33);
}

TEST_F(watch_test, owns_its_fd_and_no_other) {
  EXPECT_CALL(module_.calls, close).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(5)).Times(0);
  EXPECT_CALL(module_.calls, close(33)).Times(0);
  EXPECT_CALL(module_.calls, close(watch_fd)).Times(1);
  watch first(control_, 5, 33);
  const auto second = std::move(first);
  EXPECT_EQ(first.descriptor(), -1);
  EXPECT_EQ(second.descriptor(), watch_fd);
}

TEST_F(watch_test, older_module_says_so) {
  const auto failure = failure_of(-ENOTTY);
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("cannot watch the buffer of fd 5"));
  EXPECT_THAT(failure.what(), HasSubstr("older than this library"));
  EXPECT_THAT(failure.what(), HasSubstr("update and reload"));
}

TEST_F(watch_test, what_cannot_be_watched_is_named) {
  EXPECT_THAT(failure_of(-EMEDIUMTYPE).what(), HasSubstr("another exporter"));
  EXPECT_THAT(failure_of(-ENODEV).what(), HasSubstr("revoked already"));
  EXPECT_THAT(failure_of(-EINVAL).what(), HasSubstr("it is no dma-buf"));
  EXPECT_THAT(failure_of(-EINVAL, 33).what(), HasSubstr("fd 33 is no eventfd"));
  EXPECT_THAT(failure_of(-EBADF, 33).what(), HasSubstr("no fd 33 (the eventfd)"));
  EXPECT_EQ(failure_of(-ENOMEM).code(), ENOMEM);
}

TEST_F(watch_test, move_tells_where_to_and_why) {
  watch watching(control_, 5);
  dmabridge_event raw{};
  raw.generation = 9;
  raw.placement = DMABRIDGE_PLACEMENT_SYSTEM;
  raw.reason.code = DMABRIDGE_REASON_EVICTED;
  next_event(raw);
  const auto event = watching.read();
  ASSERT_TRUE(event);
  EXPECT_EQ(event->generation, 9U);
  EXPECT_EQ(event->placement, placement::system);
  EXPECT_FALSE(event->revoked || event->released || event->is_last());
  ASSERT_TRUE(event->reason);
  EXPECT_EQ(event->reason->id(), "evicted");
}

TEST_F(watch_test, revoke_and_release_are_the_last_event) {
  for (const auto flag : {DMABRIDGE_EVENT_REVOKED, DMABRIDGE_EVENT_RELEASED}) {
    watch watching(control_, 5);
    dmabridge_event raw{};
    raw.flags = flag;
    next_event(raw);
    const auto event = watching.read();
    ASSERT_TRUE(event);
    EXPECT_EQ(event->revoked, flag == DMABRIDGE_EVENT_REVOKED);
    EXPECT_EQ(event->released, flag == DMABRIDGE_EVENT_RELEASED);
    EXPECT_TRUE(event->is_last());
    EXPECT_FALSE(event->reason) << "it never moved";
    EXPECT_CALL(module_.calls, read(watch_fd, _, _)).WillOnce(Return(0));
    EXPECT_FALSE(watching.read());
  }
}

TEST_F(watch_test, failed_read_is_no_event) {
  watch watching(control_, 5);
  for (const auto code : {EINTR, EAGAIN, EIO}) {
    EXPECT_CALL(module_.calls, read(watch_fd, _, _)).WillOnce(Return(-code));
    EXPECT_EQ(error_of([&] { watching.read(); }).code(), code);
  }
  EXPECT_CALL(module_.calls, read(watch_fd, _, _)).WillOnce(Return(4));
  EXPECT_THAT(error_of([&] { watching.read(); }).what(), HasSubstr("gave 4 bytes"));
}

TEST_F(watch_test, waits_for_as_long_as_it_is_told) {
  const watch watching(control_, 5);
  const auto timeout_for = [&](auto... timeout) {
    int asked = -2;
    EXPECT_CALL(module_.calls, poll(watch_fd, POLLIN, _, _))
        .WillOnce([&](int, short, int milliseconds, short&) {
          asked = milliseconds;
          return 0;
        });
    EXPECT_FALSE(watching.wait(timeout...));
    return asked;
  };
  EXPECT_EQ(timeout_for(), -1);
  EXPECT_EQ(timeout_for(0ms), 0);
  EXPECT_EQ(timeout_for(2s), 2000);
  EXPECT_EQ(timeout_for(-5ms), 0) << "not for ever";
  EXPECT_EQ(timeout_for(std::chrono::hours(24 * 365)), std::numeric_limits<int>::max());
}

TEST_F(watch_test, wait_ends_with_an_event_the_end_or_a_signal) {
  const watch watching(control_, 5);
  const auto waited = [&](int result, short events) {
    EXPECT_CALL(module_.calls, poll(watch_fd, _, _, _)).WillOnce([=](int, short, int, short& seen) {
      seen = events;
      return result;
    });
    return watching.wait();
  };
  EXPECT_TRUE(waited(1, POLLIN));
  EXPECT_TRUE(waited(1, POLLIN | POLLHUP));
  EXPECT_TRUE(waited(1, POLLHUP)) << "read() does not block: it says that it is over";
  EXPECT_FALSE(waited(-EINTR, 0));
  EXPECT_EQ(error_of([&] { waited(-ENOMEM, 0); }).code(), ENOMEM);
  EXPECT_EQ(error_of([&] { waited(1, POLLNVAL); }).code(), EBADF);
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/sync_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>

#include <cerrno>
#include <chrono>
#include <limits>
#include <type_traits>
#include <utility>

#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using namespace std::chrono_literals;
using test::buffer_fd;
using test::error_of;
using testing::_;
using testing::AllOf;
using testing::HasSubstr;
using testing::Return;

constexpr int fence_fd = 160;
constexpr int other_fd = 161;
constexpr int merged_fd = 162;

static_assert(std::is_nothrow_move_constructible_v<sync_file> &&
              std::is_nothrow_move_assignable_v<sync_file> &&
              !std::is_copy_constructible_v<sync_file>);
static_assert(!std::is_constructible_v<sync_file, int>, "who owns the fd has to be said");

class sync_file_test : public testing::Test {
 protected:
  sync_file_test() {
    ON_CALL(module_.calls, ioctl(_, SYNC_IOC_FILE_INFO, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          static_cast<sync_file_info*>(argument)->status = status_;
          return 0;
        });
  }
  // What poll() does from now on.
  void let_poll(int result, short events = 0) {
    ON_CALL(module_.calls, poll).WillByDefault([=](int, short, int, short& seen) {
      seen = events;
      return result;
    });
  }

  test::fake_module module_;
  std::int32_t status_ = 0;
  buffer memory_ = buffer::from_fd(fd(buffer_fd));
};

TEST_F(sync_file_test, owns_its_fd) {
  EXPECT_CALL(module_.calls, close(_)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(fence_fd)).Times(1);
  auto one = sync_file::from_fd(fd(fence_fd));
  const auto two = std::move(one);
  EXPECT_EQ(two.descriptor(), fence_fd);
  EXPECT_EQ(one.descriptor(), -1);
}

TEST_F(sync_file_test, given_away_it_is_not_closed) {
  EXPECT_CALL(module_.calls, close(fence_fd)).Times(0);
  auto fence = sync_file::from_fd(fd(fence_fd));
  EXPECT_EQ(fence.release(), fence_fd);
  EXPECT_EQ(fence.descriptor(), -1);
  testing::Mock::VerifyAndClearExpectations(&module_.calls);
}

TEST_F(sync_file_test, what_is_none_is_refused_and_closed) {
  ON_CALL(module_.calls, ioctl(_, SYNC_IOC_FILE_INFO, _)).WillByDefault(Return(-ENOTTY));
  EXPECT_CALL(module_.calls, close(_)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(fence_fd)).Times(1);
  const auto failure = error_of([] { sync_file::from_fd(fd(fence_fd)); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("anon_inode:sync_file"));
  ON_CALL(module_.calls, ioctl(_, SYNC_IOC_FILE_INFO, _)).WillByDefault(Return(-EBADF));
  EXPECT_THAT(error_of([] { sync_file::from_fd(fd()); }).what(), HasSubstr("no such fd"));
}

TEST_F(sync_file_test, export_asks_for_the_access_that_is_to_come) {
  for (const auto& [access, flags] :
       {std::pair<cpu_access, std::uint32_t>{cpu_access::read, DMA_BUF_SYNC_READ},
        {cpu_access::write, DMA_BUF_SYNC_WRITE},
        {cpu_access::read_write, DMA_BUF_SYNC_RW}}) {
    EXPECT_CALL(module_.calls, ioctl(buffer_fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, _))
        .WillOnce([flags = flags](int, unsigned long, void* argument) {
          auto& raw = *static_cast<dma_buf_export_sync_file*>(argument);
          EXPECT_EQ(raw.flags, flags);
          raw.fd = fence_fd;
          return 0;
        });
    EXPECT_EQ(sync_file::export_from(memory_, access).descriptor(), fence_fd);
  }
}

TEST_F(sync_file_test, import_leaves_the_fd_where_it_is) {
  const auto fence = sync_file::from_fd(fd(fence_fd));
  EXPECT_CALL(module_.calls, ioctl(buffer_fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, _))
      .WillOnce([](int, unsigned long, void* argument) {
        const auto& raw = *static_cast<dma_buf_import_sync_file*>(argument);
        EXPECT_EQ(raw.flags, static_cast<std::uint32_t>(DMA_BUF_SYNC_WRITE));
        EXPECT_EQ(raw.fd, fence_fd);
        return 0;
      });
  fence.import_into(memory_, cpu_access::write);
  EXPECT_EQ(fence.descriptor(), fence_fd);
}

TEST_F(sync_file_test, kernels_before_fences) {
  const auto fence = sync_file::from_fd(fd(fence_fd));
  for (const auto& failure : {error_of([&] { sync_file::export_from(memory_, cpu_access::read); }),
                              error_of([&] { fence.import_into(memory_, cpu_access::read); })}) {
    EXPECT_EQ(failure.code(), ENOTTY);
    EXPECT_THAT(failure.what(), AllOf(HasSubstr("Linux 6.0"), HasSubstr("mapping::begin()")));
  }
}

TEST_F(sync_file_test, failing_import_and_export) {
  auto fence = sync_file::from_fd(fd(fence_fd));
  ON_CALL(module_.calls, ioctl(buffer_fd, _, _)).WillByDefault(Return(-ENOMEM));
  EXPECT_EQ(error_of([&] { sync_file::export_from(memory_, cpu_access::read); }).code(), ENOMEM);
  ON_CALL(module_.calls, ioctl(buffer_fd, _, _)).WillByDefault(Return(-EINVAL));
  fence.release();
  EXPECT_THAT(error_of([&] { fence.import_into(memory_, cpu_access::read); }).what(),
              HasSubstr("given away"));
}

TEST_F(sync_file_test, merge_keeps_both) {
  const auto one = sync_file::from_fd(fd(fence_fd));
  const auto other = sync_file::from_fd(fd(other_fd));
  EXPECT_CALL(module_.calls, ioctl(fence_fd, SYNC_IOC_MERGE, _))
      .WillOnce([](int, unsigned long, void* argument) {
        auto& raw = *static_cast<sync_merge_data*>(argument);
        EXPECT_EQ(raw.fd2, other_fd);
        EXPECT_EQ(raw.flags, 0U);
        raw.fence = merged_fd;
        return 0;
      })
      .WillOnce(Return(-ENOENT));
  EXPECT_EQ(sync_file::merge(one, other).descriptor(), merged_fd);
  EXPECT_EQ(one.descriptor(), fence_fd);
  EXPECT_EQ(other.descriptor(), other_fd);
  EXPECT_THAT(error_of([&] { sync_file::merge(one, other); }).what(), HasSubstr("given away"));
}

TEST_F(sync_file_test, waits_for_as_long_as_it_is_told) {
  const auto fence = sync_file::from_fd(fd(fence_fd));
  const auto asked_for = [&](auto... timeout) {
    int asked = -2;
    EXPECT_CALL(module_.calls, poll(fence_fd, POLLIN, _, _))
        .WillOnce([&](int, short, int milliseconds, short&) {
          asked = milliseconds;
          return 0;
        });
    EXPECT_FALSE(fence.wait(timeout...));
    return asked;
  };
  EXPECT_EQ(asked_for(), -1);
  EXPECT_EQ(asked_for(0ms), 0);
  EXPECT_EQ(asked_for(-5ms), 0) << "not for ever";
  EXPECT_EQ(asked_for(std::chrono::hours(24 * 365)), std::numeric_limits<int>::max());
}

TEST_F(sync_file_test, signals_of_the_process_do_not_end_a_wait) {
  const auto fence = sync_file::from_fd(fd(fence_fd));
  status_ = 1;
  EXPECT_CALL(module_.calls, poll(fence_fd, _, _, _))
      .WillOnce(Return(-EINTR))
      .WillOnce(Return(-EINTR))
      .WillOnce(Return(1));
  EXPECT_TRUE(fence.wait(1h));
}

TEST_F(sync_file_test, what_has_failed_is_not_done) {
  const auto fence = sync_file::from_fd(fd(fence_fd));
  let_poll(1, POLLIN);
  status_ = -EIO;
  const auto failure = error_of([&] { fence.wait(); });
  EXPECT_EQ(failure.kind(), error_kind::io);
  EXPECT_EQ(failure.code(), EIO);
  EXPECT_THAT(failure.what(), HasSubstr("has failed"));
  ON_CALL(module_.calls, ioctl(_, SYNC_IOC_FILE_INFO, _)).WillByDefault(Return(-ENOMEM));
  EXPECT_EQ(error_of([&] { fence.wait(); }).code(), ENOMEM) << "unknown is not ok";
}

TEST_F(sync_file_test, nothing_is_waited_for_once_it_is_given_away) {
  auto fence = sync_file::from_fd(fd(fence_fd));
  fence.release();
  EXPECT_CALL(module_.calls, poll).Times(0);
  EXPECT_EQ(error_of([&] { fence.wait(); }).kind(), error_kind::usage);
}

TEST_F(sync_file_test, failing_polls) {
  const auto fence = sync_file::from_fd(fd(fence_fd));
  let_poll(-ENOMEM);
  EXPECT_EQ(error_of([&] { fence.wait(); }).code(), ENOMEM);
  let_poll(1, POLLNVAL);
  EXPECT_EQ(error_of([&] { fence.wait(); }).code(), EBADF);
}

}  // namespace
}  // namespace dmabridge

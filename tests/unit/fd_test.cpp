// SPDX-License-Identifier: MIT
#include "dmabridge/fd.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <type_traits>
#include <utility>

#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using testing::Return;
using testing::StrictMock;

static_assert(!std::is_copy_constructible_v<fd>);
static_assert(std::is_nothrow_move_constructible_v<fd>);

auto is_open(int descriptor) -> bool {
  return ::fcntl(descriptor, F_GETFD) != -1;
}

TEST(fd, empty_owns_nothing) {
  StrictMock<test::mock_system_calls> calls;
  const system_calls_override active(calls);
  fd nothing;
  EXPECT_FALSE(nothing);
  EXPECT_EQ(nothing.get(), -1);
  nothing.close();  // a strict mock fails if anything is called
}

TEST(fd, opens_close_on_exec_and_closes_once) {
  int number = -1;
  {
    const auto file = fd::open("/dev/null", O_RDONLY);
    number = file.get();
    EXPECT_EQ(::fcntl(number, F_GETFD), FD_CLOEXEC);
    const auto copy = fd::duplicate(number);
    EXPECT_NE(copy.get(), number);
    EXPECT_EQ(::fcntl(copy.get(), F_GETFD), FD_CLOEXEC);
  }
  EXPECT_FALSE(is_open(number));
}

TEST(fd, moves) {
  auto file = fd::open("/dev/null", O_RDONLY);
  const auto number = file.get();
  fd other(std::move(file));
  EXPECT_EQ(other.get(), number);
  EXPECT_EQ(file.get(), -1);  // empty by contract
  auto second = fd::open("/dev/null", O_RDONLY);
  const auto replaced = second.get();
  second = std::move(other);
  EXPECT_FALSE(is_open(replaced));
  EXPECT_EQ(second.get(), number);
  auto& same = second;
  second = std::move(same);
  EXPECT_TRUE(is_open(number));
  EXPECT_EQ(second.release(), number);
  EXPECT_EQ(::close(number), 0);
}

TEST(fd, tells_of_errors_both_ways) {
  std::error_code ec;
  EXPECT_FALSE(fd::open("/does/not/exist", O_RDONLY, 0, ec));
  EXPECT_EQ(ec.value(), ENOENT);
  EXPECT_THROW(fd::open("/does/not/exist", O_RDONLY), std::system_error);
  EXPECT_FALSE(fd::duplicate(-1, ec));
  EXPECT_EQ(ec.value(), EBADF);
  EXPECT_THROW(fd::duplicate(-1), std::system_error);
}

TEST(fd, close_that_fails_leaves_it_empty) {
  StrictMock<test::mock_system_calls> calls;
  const system_calls_override active(calls);
  EXPECT_CALL(calls, close(77)).WillOnce(Return(-EIO));
  fd file(77);
  EXPECT_THROW(file.close(), std::system_error);
  EXPECT_FALSE(file);
}

}  // namespace
}  // namespace dmabridge

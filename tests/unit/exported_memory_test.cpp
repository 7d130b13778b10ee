// SPDX-License-Identifier: MIT
#include "dmabridge/exported_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "error_of.hpp"
#include "mock_system_calls.hpp"
#include "quiet_owner.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using testing::HasSubstr;
using testing::InSequence;

// Tells when it goes.
class watched_owner : public test::quiet_owner {
 public:
  explicit watched_owner(testing::MockFunction<void()>& gone) : gone_(gone) {}
  watched_owner(const watched_owner&) = delete;
  auto operator=(const watched_owner&) -> watched_owner& = delete;
  ~watched_owner() override { gone_.Call(); }

 private:
  testing::MockFunction<void()>& gone_;
};

class exported_memory_test : public testing::Test {
 protected:
  auto make(std::uint64_t offset, std::uint64_t size) -> exported_memory {
    return {buffer::from_fd(fd(buffer_fd)), offset, size, std::make_unique<watched_owner>(gone_)};
  }

  static constexpr std::uint64_t all = 1 << 20;
  test::fake_module module_;
  testing::NiceMock<testing::MockFunction<void()>> gone_;
};

TEST_F(exported_memory_test, range_in_the_buffer) {
  const auto memory = make(4096, all - 4096);
  EXPECT_EQ(memory.offset(), 4096U);
  EXPECT_EQ(memory.size(), all - 4096);
  EXPECT_EQ(memory.memory().descriptor(), buffer_fd);
  EXPECT_TRUE(memory.owner().pinnable().empty()) << "unless an owner says otherwise";
}

TEST_F(exported_memory_test, range_that_leaves_the_buffer_is_refused) {
  constexpr auto huge = std::numeric_limits<std::uint64_t>::max();
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, 0},
                                     {0, all + 1},
                                     {all, 1},
                                     {all + 1, 0},
                                     {4096, all},
                                     {4096, huge - 4095},
                                     {huge, 1}}) {
    const auto failure = error_of([&] { make(offset, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage) << offset << ' ' << size;
    EXPECT_THAT(failure.what(), HasSubstr("some API"));
    EXPECT_THAT(failure.what(), HasSubstr("1048576"));
  }
}

TEST_F(exported_memory_test, fd_goes_before_the_allocation_behind_it) {
  const InSequence in_order;
  EXPECT_CALL(module_.calls, close(buffer_fd));
  EXPECT_CALL(gone_, Call());
  make(0, all);
}

}  // namespace
}  // namespace dmabridge

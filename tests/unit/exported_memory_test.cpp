// SPDX-License-Identifier: MIT
#include "dmabridge/exported_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

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

// An MR or a read beside it would be one of somebody else's memory.
TEST_F(exported_memory_test, mapping_that_can_be_pinned_is_of_all_of_it) {
  std::vector<std::byte> pages(8192);
  const auto with = [&](std::uint64_t pinnable) {
    return exported_memory(buffer::from_fd(fd(buffer_fd)), 4096, 8192,
                           std::make_unique<test::quiet_owner>(std::span(pages).first(pinnable)));
  };
  EXPECT_EQ(with(8192).owner().pinnable().size(), 8192U);
  EXPECT_TRUE(with(0).owner().pinnable().empty());
  const auto failure = error_of([&] { with(8191); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("8191"));
}

TEST_F(exported_memory_test, fd_goes_before_the_allocation_behind_it) {
  const InSequence in_order;
  EXPECT_CALL(module_.calls, close(buffer_fd));
  EXPECT_CALL(gone_, Call());
  make(0, all);
}

}  // namespace
}  // namespace dmabridge

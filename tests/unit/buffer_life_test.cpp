// SPDX-License-Identifier: MIT
#include "buffer_life.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>

namespace dmabridge {
namespace {

class mock_observer : public buffer_observer {
 public:
  MOCK_METHOD(void, buffer_gone, (std::uint64_t), (noexcept, override));
};

TEST(buffer_life, each_observer_is_told_once) {
  const auto one = std::make_shared<mock_observer>();
  const auto other = std::make_shared<mock_observer>();
  EXPECT_CALL(*one, buffer_gone(4711)).Times(1);
  EXPECT_CALL(*other, buffer_gone(4711)).Times(1);
  buffer_life life(4711);
  life.tell(one);
  life.tell(other);
  life.tell(one);
}

TEST(buffer_life, observer_that_is_gone_is_not_told) {
  auto gone = std::make_shared<mock_observer>();
  EXPECT_CALL(*gone, buffer_gone).Times(0);
  const auto next = std::make_shared<mock_observer>();
  EXPECT_CALL(*next, buffer_gone).Times(1);
  buffer_life life(1);
  life.tell(gone);
  gone.reset();
  life.tell(next);
}

// As a cache finds out which of its entries are orphans.
TEST(buffer_life, when_they_are_told_it_is_over) {
  auto life = std::make_shared<buffer_life>(1);
  const auto observer = std::make_shared<mock_observer>();
  const std::weak_ptr weak(life);
  EXPECT_CALL(*observer, buffer_gone).WillOnce([&] { EXPECT_TRUE(weak.expired()); });
  life->tell(observer);
  life.reset();
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/registration_cache.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "error_of.hpp"
#include "rdma_fixture.hpp"

namespace dmabridge {
namespace {

using test::error_of;
using testing::_;
using testing::Return;

constexpr std::uint64_t page = 4096;

class registration_cache_test : public test::rdma_fixture {
 protected:
  // Another fd of the same dma-buf, or of another one.
  auto buffer_with_inode(std::uint64_t inode) -> buffer {
    module_.buffer_inode = inode;
    return take();
  }
  void happens_to_buffer(short events) {
    ON_CALL(module_.calls, poll(test::watch_fd, _, _, _))
        .WillByDefault([events](int, short, int, short& seen) {
          seen = events;
          return events != 0 ? 1 : 0;
        });
  }

  const rdma_importer importer_{&provider_.domain, &control_};
  std::optional<registration_cache> cache_{std::in_place, importer_};
};

TEST_F(registration_cache_test, second_who_wants_the_same_gets_it) {
  const auto memory = take();
  const auto first = cache_->get(memory, {.length = page});
  const auto second = cache_->get(memory, {.length = page});
  EXPECT_EQ(first, second);
  EXPECT_EQ(provider_.registered, 1U);
  const auto count = cache_->counters();
  EXPECT_EQ(count.hits, 1U);
  EXPECT_EQ(count.misses, 1U);
  EXPECT_EQ(count.entries, 1U);
  EXPECT_EQ(count.bytes, page);
}

TEST_F(registration_cache_test, every_part_of_a_request_counts) {
  const auto memory = take();
  const std::vector<registration_request> requests{
      {.length = page},
      {.offset = page, .length = page},
      {.length = 2 * page},
      {.length = page, .iova = 0},
      {.length = page, .iova = page},
      {.length = page, .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ},
      {.length = page, .policy = policy::forbid}};
  for (const auto& wanted : requests) cache_->get(memory, wanted);
  EXPECT_EQ(provider_.registered, requests.size());
  for (const auto& wanted : requests) cache_->get(memory, wanted);
  EXPECT_EQ(provider_.registered, requests.size());
  EXPECT_EQ(cache_->counters().hits, requests.size());
}

// The number of an fd may be another buffer's by now, and one buffer has several.
TEST_F(registration_cache_test, buffer_is_known_by_its_inode_not_its_fd) {
  const auto memory = buffer_with_inode(1);
  const auto same = buffer_with_inode(1);
  const auto other = buffer_with_inode(2);
  ASSERT_EQ(memory.descriptor(), other.descriptor());
  const auto region = cache_->get(memory, {.length = page});
  EXPECT_EQ(cache_->get(same, {.length = page}), region);
  EXPECT_NE(cache_->get(other, {.length = page}), region);
}

TEST_F(registration_cache_test, buffer_that_moved_or_was_revoked_is_registered_anew) {
  const auto memory = take();
  for (const auto events : {POLLIN, POLLHUP}) {
    const auto before = cache_->get(memory, {.length = page});
    happens_to_buffer(static_cast<short>(events));
    const auto outdated = cache_->counters().outdated;
    const auto after = cache_->get(memory, {.length = page});
    EXPECT_NE(before, after);
    EXPECT_TRUE(*before) << "who holds it has an MR still";
    EXPECT_EQ(cache_->counters().outdated, outdated + 1);
    EXPECT_EQ(cache_->counters().entries, 1U);
    happens_to_buffer(0);
  }
}

TEST_F(registration_cache_test, outdated_one_is_deregistered_before_the_new_one_is_made) {
  const auto memory = take();
  cache_->get(memory, {.length = page});
  happens_to_buffer(POLLIN);
  const testing::InSequence order;
  EXPECT_CALL(provider_.calls, dereg_mr).Times(1);
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).Times(1);
  cache_->get(memory, {.length = page});
  testing::Mock::VerifyAndClearExpectations(&provider_.calls);
}

TEST_F(registration_cache_test, entries_die_with_the_buffer_object) {
  std::optional memory(take());
  cache_->get(*memory, {.length = page});
  const auto held = cache_->get(*memory, {.offset = page, .length = page});
  // Moved, it is the same object still.
  std::optional moved(std::move(*memory));
  memory.reset();
  EXPECT_EQ(cache_->counters().entries, 2U);
  moved.reset();
  EXPECT_EQ(cache_->counters().entries, 0U);
  EXPECT_EQ(cache_->counters().bytes, 0U);
  EXPECT_EQ(cache_->counters().orphaned, 2U);
  EXPECT_EQ(provider_.deregistered, 1U) << "the other one is held";
  EXPECT_TRUE(*held);
}

TEST_F(registration_cache_test, buffer_that_gives_its_fd_away_is_at_its_end) {
  auto memory = take();
  cache_->get(memory, {.length = page});
  const fd given(memory.release());
  EXPECT_EQ(cache_->counters().entries, 0U);
}

TEST_F(registration_cache_test, other_objects_of_the_same_buffer_do_not_count) {
  const auto memory = buffer_with_inode(1);
  {
    const auto same = buffer_with_inode(1);
    cache_->get(memory, {.length = page});
    cache_->get(same, {.length = page});
  }
  EXPECT_EQ(cache_->counters().entries, 1U);
}

TEST_F(registration_cache_test, buffer_may_outlive_the_cache) {
  const auto memory = take();
  cache_->get(memory, {.length = page});
  cache_.reset();
  EXPECT_EQ(provider_.deregistered, 1U);
  // Another cache, perhaps in the same place.
  cache_.emplace(importer_);
  std::optional gone(take());
  cache_->get(*gone, {.length = page});
  gone.reset();
  EXPECT_EQ(cache_->counters().entries, 0U);
}

TEST_F(registration_cache_test, what_is_handed_out_outlives_the_cache) {
  const auto memory = take();
  const auto region = cache_->get(memory, {.length = page});
  cache_.reset();
  EXPECT_EQ(provider_.deregistered, 0U);
  EXPECT_TRUE(region->current());
}

TEST_F(registration_cache_test, longest_unasked_goes_first) {
  cache_.emplace(importer_, cache_limits{.entries = 2});
  const auto memory = take();
  cache_->get(memory, {.offset = 0, .length = 1});
  cache_->get(memory, {.offset = 1, .length = 1});
  cache_->get(memory, {.offset = 0, .length = 1});
  cache_->get(memory, {.offset = 2, .length = 1});
  EXPECT_EQ(cache_->counters().evicted, 1U);
  EXPECT_EQ(cache_->counters().entries, 2U);
  const std::size_t before = provider_.registered;
  cache_->get(memory, {.offset = 0, .length = 1});
  EXPECT_EQ(provider_.registered, before) << "it was asked for later than the other";
  cache_->get(memory, {.offset = 1, .length = 1});
  EXPECT_EQ(provider_.registered, before + 1);
}

TEST_F(registration_cache_test, bytes_are_bounded_too) {
  cache_.emplace(importer_, cache_limits{.entries = 100, .bytes = 10 * page});
  const auto memory = take();
  for (std::uint64_t i = 0; i < 4; ++i) cache_->get(memory, {.offset = i, .length = 3 * page});
  EXPECT_EQ(cache_->counters().bytes, 9 * page);
  EXPECT_EQ(cache_->counters().evicted, 1U);
  EXPECT_EQ(provider_.deregistered, 1U);
  // Several have to go for one.
  cache_->get(memory, {.length = 9 * page});
  EXPECT_EQ(cache_->counters().bytes, 9 * page);
  EXPECT_EQ(cache_->counters().entries, 1U);
}

TEST_F(registration_cache_test, what_does_not_fit_is_registered_and_throws_nobody_out) {
  cache_.emplace(importer_, cache_limits{.entries = 100, .bytes = 4 * page});
  const auto memory = take();
  cache_->get(memory, {.length = page});
  const auto large = cache_->get(memory, {.length = 5 * page});
  EXPECT_TRUE(*large);
  EXPECT_EQ(cache_->counters().entries, 1U);
  EXPECT_EQ(cache_->counters().evicted, 0U);
}

TEST_F(registration_cache_test, what_is_held_is_not_thrown_out) {
  cache_.emplace(importer_, cache_limits{.entries = 1});
  const auto memory = take();
  const auto held = cache_->get(memory, {.offset = 0, .length = 1});
  EXPECT_TRUE(*cache_->get(memory, {.offset = 1, .length = 1}));
  EXPECT_EQ(cache_->get(memory, {.offset = 0, .length = 1}), held);
  EXPECT_EQ(cache_->counters().evicted, 0U);
}

TEST_F(registration_cache_test, refusal_is_passed_on_and_not_kept) {
  const auto memory = take();
  revoked_ = true;
  EXPECT_EQ(error_of([&] { cache_->get(memory, {.length = page}); }).kind(), error_kind::refused);
  EXPECT_EQ(error_of([&] { cache_->get(memory, {.length = 0}); }).kind(), error_kind::usage);
  EXPECT_EQ(cache_->counters().entries, 0U);
  revoked_ = false;
  EXPECT_TRUE(*cache_->get(memory, {.length = page}));
}

// Its MRs are the parent's, and nothing that the child does ends them.
TEST_F(registration_cache_test, forked_child_gets_nothing_out_of_it) {
  const auto memory = take();
  const auto held = cache_->get(memory, {.length = page});
  const auto child = ::fork();
  if (child == 0) {
    int status = 0;
    try {
      cache_->get(memory, {.length = page});
      status |= 1;
    } catch (const error& failure) {
      if (failure.kind() != error_kind::usage) status |= 2;
    }
    cache_.reset();
    if (provider_.deregistered != 0) status |= 4;
    ::_exit(status);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(cache_->get(memory, {.length = page}), held);
}

// The device is a part of the key: each has a cache of its own, and what one has is none of the
// other's.
TEST_F(registration_cache_test, devices_do_not_share_registrations) {
  const rdma_importer other(&provider_.domain, &control_);
  registration_cache others(other);
  const auto memory = take();
  EXPECT_NE(cache_->get(memory, {.length = page}), others.get(memory, {.length = page}));
  EXPECT_EQ(provider_.registered, 2U);
  others.clear();
  EXPECT_EQ(cache_->counters().entries, 1U);
}

TEST_F(registration_cache_test, cleared_it_is_empty) {
  const auto memory = take();
  const auto held = cache_->get(memory, {.offset = 0, .length = 1});
  cache_->get(memory, {.offset = 1, .length = 1});
  cache_->clear();
  EXPECT_EQ(cache_->counters().entries, 0U);
  EXPECT_EQ(cache_->counters().bytes, 0U);
  EXPECT_EQ(provider_.deregistered, 1U);
  EXPECT_TRUE(*held);
  EXPECT_NE(cache_->get(memory, {.offset = 0, .length = 1}), held);
}

// gmock's own lock is in the way of a race, but not of a deadlock, nor of an entry that is lost or
// counted twice.
TEST_F(registration_cache_test, threads_share_it) {
  cache_.emplace(importer_, cache_limits{.entries = 8});
  const auto memory = take();
  constexpr int rounds = 300;
  constexpr int count = 4;
  std::atomic<int> wrong = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < rounds; ++round) {
          const auto offset = static_cast<std::uint64_t>((round * (i + 1)) % 12);
          const auto region = cache_->get(memory, {.offset = offset, .length = 1});
          if (region->address() != offset) ++wrong;
          if (round % 100 == 99) cache_->clear();
        }
      });
    }
  }
  EXPECT_EQ(wrong, 0);
  const auto seen = cache_->counters();
  EXPECT_EQ(seen.hits + seen.misses, static_cast<std::uint64_t>(rounds * count));
  EXPECT_LE(seen.entries, 8U);
  EXPECT_EQ(seen.bytes, seen.entries);
  cache_.reset();
  EXPECT_EQ(provider_.deregistered, provider_.registered) << "none is lost";
}

}  // namespace
}  // namespace dmabridge

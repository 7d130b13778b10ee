// SPDX-License-Identifier: MIT
// Transfers over a ring that behaves as badly as a real one can.
#include "dmabridge/transfer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <optional>
#include <random>
#include <stdexcept>
#include <vector>

#include "error_of.hpp"
#include "fake_ring.hpp"
#include "transfer_run.hpp"

namespace dmabridge {
namespace {

using test::align;
using test::error_of;
using test::fake_ring;
using testing::HasSubstr;

auto run(fake_ring& ring, const transfer_range& range, unsigned depth = 4,
         std::uint32_t block = 4096, transfer_options options = {}) -> transfer_result {
  transfer_slots slots(depth);
  auto result = run_transfer(ring, slots, ring.writing ? direction::write : direction::read, range,
                             align, block, options);
  EXPECT_TRUE(ring.pending.empty()) << "commands left in flight";
  EXPECT_EQ(slots.free.size(), depth);
  EXPECT_LE(ring.most_in_flight, depth);
  return result;
}

auto same(const fake_ring& ring, const transfer_range& range) -> bool {
  return std::equal(
      ring.file_bytes.begin() + static_cast<std::ptrdiff_t>(range.file_offset),
      ring.file_bytes.begin() + static_cast<std::ptrdiff_t>(range.file_offset + range.length),
      ring.buffer_bytes.begin() + static_cast<std::ptrdiff_t>(range.buffer_offset));
}

TEST(transfer, nothing_is_done_for_no_bytes) {
  fake_ring ring(0, 4096, 1);
  const auto result = run(ring, {});
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.commands, 0U);
  EXPECT_FALSE(result.ended_early);
}

TEST(transfer, any_range_arrives_whatever_the_order_and_however_short_the_completions) {
  std::mt19937 random(20260105);
  for (int round = 0; round < 2000; ++round) {
    const auto size = random() % 100000;
    fake_ring ring(size, 128 << 10, static_cast<unsigned>(random()));
    ring.short_ones = round % 2 == 1;
    const auto offset = random() % (size + 1) / align * align;
    const transfer_range range{.file_offset = offset,
                               .buffer_offset = random() % 8 * align,
                               .length = random() % (size - offset + 1)};
    const auto depth = static_cast<unsigned>(1 + random() % 16);
    const auto block = static_cast<std::uint32_t>((1 + random() % 32) * align);
    const auto result = run(ring, range, depth, block);
    ASSERT_EQ(result.error, 0);
    ASSERT_FALSE(result.ended_early);
    ASSERT_EQ(result.bytes, range.length);
    ASSERT_EQ(result.commands, ring.served);
    ASSERT_TRUE(same(ring, range)) << "round " << round;
  }
}

TEST(transfer, saves_too) {
  std::mt19937 random(20260106);
  for (int round = 0; round < 500; ++round) {
    const auto length = random() % 60000;
    fake_ring ring(64 << 10, 64 << 10, static_cast<unsigned>(random()));
    ring.writing = true;
    ring.short_ones = round % 2 == 1;
    for (auto& byte : ring.buffer_bytes) byte = static_cast<std::byte>(random());
    const transfer_range range{.length = length};
    const auto result = run(ring, range, 8);
    ASSERT_EQ(result.error, 0);
    ASSERT_EQ(result.bytes, length);
    ASSERT_TRUE(same(ring, range));
  }
}

TEST(transfer, keeps_the_queue_full) {
  fake_ring ring(1 << 20, 1 << 20, 7);
  EXPECT_EQ(run(ring, {.length = 1 << 20}, 8).commands, 256U);
  EXPECT_EQ(ring.most_in_flight, 8U);
}

TEST(transfer, file_that_shrank_is_told_and_counted) {
  for (const std::size_t left : {0U, 512U, 5000U, 8192U, 40000U}) {
    fake_ring ring(left, 128 << 10, 11);
    const auto result = run(ring, {.length = 65536});
    EXPECT_EQ(result.error, 0);
    EXPECT_TRUE(result.ended_early) << left;
    EXPECT_EQ(result.bytes, left);
  }
}

TEST(transfer, bytes_behind_the_range_are_not_counted) {
  fake_ring ring(8192, 8192, 13);
  const auto result = run(ring, {.length = 1000});
  EXPECT_EQ(result.bytes, 1000U);
  EXPECT_FALSE(result.ended_early);
}

TEST(transfer, error_in_the_middle_ends_it_and_names_the_place) {
  fake_ring ring(1 << 20, 1 << 20, 17);
  ring.fault = [](const command& what) -> std::optional<int> {
    if (what.file_offset == 65536) return -EIO;
    return {};
  };
  const auto result = run(ring, {.length = 1 << 20}, 8);
  EXPECT_EQ(result.error, -EIO);
  EXPECT_EQ(result.error_offset, 65536U);
  EXPECT_LT(ring.served, 64U) << "went on after the error";
}

TEST(transfer, of_several_errors_the_first_in_the_file_is_reported) {
  for (unsigned seed = 0; seed < 50; ++seed) {
    fake_ring ring(32768, 32768, seed);
    ring.fault = [](const command& what) -> std::optional<int> {
      if (what.file_offset == 4096) return -EREMOTEIO;
      if (what.file_offset == 8192) return -EIO;
      return {};
    };
    const auto result = run(ring, {.length = 32768}, 8);
    EXPECT_EQ(result.error, -EREMOTEIO);
    EXPECT_EQ(result.error_offset, 4096U);
  }
}

TEST(transfer, write_that_gets_nowhere_is_an_error_not_a_loop) {
  fake_ring ring(65536, 65536, 19);
  ring.writing = true;
  ring.fault = [](const command& what) -> std::optional<int> {
    if (what.file_offset == 8192) return 0;
    return {};
  };
  EXPECT_EQ(run(ring, {.length = 65536}).error, -EIO);
  ring.fault = [](const command&) -> std::optional<int> { return 100; };
  EXPECT_EQ(run(ring, {.length = 65536}).error, -EIO);
}

TEST(transfer, command_that_is_to_be_asked_again_is) {
  for (const int passing : {-EAGAIN, -EINTR}) {
    std::mt19937 random(20261129);
    fake_ring ring(65536, 65536, 21);
    ring.short_ones = true;
    std::uint64_t refused = 0;
    ring.fault = [&](const command&) -> std::optional<int> {
      if (random() % 2 == 0) return {};
      ++refused;
      return passing;
    };
    const auto result = run(ring, {.length = 65536});
    EXPECT_EQ(result.error, 0);
    EXPECT_EQ(result.bytes, 65536U);
    EXPECT_TRUE(same(ring, {.length = 65536}));
    EXPECT_GT(refused, 0U);
    EXPECT_EQ(result.commands, ring.served);
  }
}

TEST(transfer, command_that_is_never_taken_is_an_error_not_a_loop) {
  fake_ring ring(65536, 65536, 22);
  ring.fault = [](const command& what) -> std::optional<int> {
    if (what.file_offset == 8192) return -EAGAIN;
    return {};
  };
  const auto result = run(ring, {.length = 65536});
  EXPECT_EQ(result.error, -EAGAIN);
  EXPECT_EQ(result.error_offset, 8192U);
}

TEST(transfer, nothing_is_asked_again_once_it_is_to_stop) {
  fake_ring ring(65536, 65536, 24);
  std::atomic<bool> stop = false;
  ring.on_command = [&] { stop = true; };
  ring.fault = [](const command&) -> std::optional<int> { return -EAGAIN; };
  EXPECT_EQ(run(ring, {.length = 65536}, 4, 4096, {.stop = &stop}).error, -EAGAIN);
  EXPECT_EQ(ring.served, 4U);
}

TEST(transfer, interrupted_wait_is_repeated) {
  fake_ring ring(65536, 65536, 23);
  ring.waits = {-EINTR, 0, -EINTR, -EINTR};
  const auto result = run(ring, {.length = 65536});
  EXPECT_EQ(result.error, 0);
  EXPECT_EQ(result.bytes, 65536U);
}

TEST(transfer, stops_when_told_and_waits_for_what_is_in_flight) {
  fake_ring ring(1 << 20, 1 << 20, 29);
  std::atomic<bool> stop = false;
  ring.on_command = [&] { stop = ring.served >= 10; };
  const auto result = run(ring, {.length = 1 << 20}, 8, 4096, {.stop = &stop});
  EXPECT_EQ(result.error, -ECANCELED);
  EXPECT_LT(ring.served, 30U);
}

TEST(transfer, stop_that_comes_too_late_changes_nothing) {
  fake_ring ring(8192, 8192, 31);
  std::atomic<bool> stop = false;
  ring.on_command = [&] { stop = ring.served == 2; };
  EXPECT_EQ(run(ring, {.length = 8192}, 8, 4096, {.stop = &stop}).error, 0);
}

TEST(transfer, broken_ring_ends_it) {
  fake_ring ring(65536, 65536, 37);
  ring.waits = {-ENXIO};
  transfer_slots slots(4);
  const auto result =
      run_transfer(ring, slots, direction::read, {.length = 65536}, align, 4096, {});
  EXPECT_EQ(result.error, -ENXIO);
  EXPECT_LT(slots.free.size(), 4U) << "slots that the ring still has must stay taken";
}

TEST(transfer, progress_that_throws_leaves_nothing_in_flight) {
  for (const std::size_t at : {1U, 3U, 9U}) {
    fake_ring ring(1 << 20, 1 << 20, 11);
    transfer_slots slots(8);
    std::size_t told = 0;
    const auto note = [&](std::uint64_t) {
      if (++told >= at) throw std::runtime_error("the terminal is gone");
    };
    EXPECT_THROW(run_transfer(ring, slots, direction::read, {.length = 1 << 20}, align, 4096,
                              {.progress = note}),
                 std::runtime_error);
    EXPECT_TRUE(ring.pending.empty());
    EXPECT_EQ(slots.free.size(), 8U);
    EXPECT_EQ(told, at) << "told again after it threw";
  }
}

TEST(transfer, progress_only_grows_and_ends_at_all_of_it) {
  fake_ring ring(65536, 65536, 41);
  std::uint64_t last = 0;
  const auto note = [&](std::uint64_t done) {
    EXPECT_GE(done, last);
    last = done;
  };
  run(ring, {.length = 60001}, 4, 4096, {.progress = note});
  EXPECT_EQ(last, 60001U);
}

auto limits() -> binding_info {
  return {.offset_align = align, .memory_align = 4096, .max_length = 1 << 20, .buffer_size = 65536};
}

TEST(transfer_check, cuts_blocks_to_what_the_binding_takes) {
  EXPECT_EQ(check_transfer(limits(), {.length = 65536}, {.block_size = 8192}), 8192U);
  EXPECT_EQ(check_transfer(limits(), {.length = 65536}, {.block_size = 4 << 20}), 1U << 20);
  auto odd = limits();
  odd.max_length = 10000;
  EXPECT_EQ(check_transfer(odd, {.length = 65536}, {}), 8192U);
}

TEST(transfer_check, refuses_what_cannot_be) {
  const auto refused = [](const transfer_range& range, transfer_options options = {}) {
    const auto failure = error_of([&] { check_transfer(limits(), range, options); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    return std::string(failure.what());
  };
  EXPECT_THAT(refused({.file_offset = 100, .length = 1}), HasSubstr("no multiple of 512"));
  EXPECT_THAT(refused({.file_offset = 1000, .length = 1}), HasSubstr("to fix it: use 512 or 1024"));
  EXPECT_THAT(refused({.file_offset = 1000, .length = 1}), HasSubstr("--offset"));
  EXPECT_THAT(refused({.buffer_offset = 5000, .length = 1}), HasSubstr("use 4096 or 8192"));
  EXPECT_THAT(refused({.buffer_offset = 5000, .length = 1}), HasSubstr("--at"));
  EXPECT_THAT(refused({.buffer_offset = 512, .length = 1}), HasSubstr("no multiple of 4096"));
  EXPECT_THAT(refused({.length = 65537}), HasSubstr("do not fit the 65536 bytes"));
  EXPECT_THAT(refused({.buffer_offset = 61440, .length = 4097}), HasSubstr("do not fit"));
  EXPECT_THAT(refused({.buffer_offset = 1 << 20, .length = 1}),
              HasSubstr("do not fit the 0 bytes"));
  EXPECT_THAT(refused({.file_offset = ~std::uint64_t{511}, .length = 4096}),
              HasSubstr("more than a file can have"));
  EXPECT_THAT(refused({.file_offset = std::uint64_t{1} << 63, .length = 1}),
              HasSubstr("more than a file can have"));
  EXPECT_THAT(refused({.length = 1}, {.block_size = 1000}), HasSubstr("block size of 1000"));
  EXPECT_THAT(refused({.length = 1}, {.block_size = 1000}), HasSubstr("use 4096 or 8192"));
  EXPECT_THAT(refused({.length = 1}, {.block_size = 5000}), HasSubstr("use 4096 or 8192"));
  EXPECT_THAT(refused({.length = 1}, {.block_size = 0}), HasSubstr("block size of 0"));
  EXPECT_THAT(refused({.length = ~std::uint64_t{0}}), HasSubstr("more than a file can have"));
}

TEST(transfer_engine, refuses_queue_depths_that_are_none) {
  for (const auto depth : {0U, 4097U}) {
    EXPECT_THAT(error_of([&] { transfer_engine engine({.queue_depth = depth}); }).what(),
                HasSubstr("between 1 and 4096"));
  }
}

}  // namespace
}  // namespace dmabridge

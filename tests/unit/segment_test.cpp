// SPDX-License-Identifier: MIT
// How the kernel cuts DMA ranges into entries of a scatterlist (exporter/segment.c), compiled here
// as it is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

extern "C" {
#include "../../exporter/segment.h"
}

namespace {

constexpr std::uint32_t page = 4096;
constexpr std::uint64_t KiB = 1 << 10;
constexpr std::uint64_t GiB = 1 << 30;
constexpr std::uint64_t no_boundary = ~std::uint64_t{0};
constexpr std::uint64_t four_gib_boundary = 4 * GiB - 1;

struct segment {
  std::uint64_t address;
  std::uint64_t length;

  auto operator==(const segment&) const -> bool = default;
};

auto limits_of(std::uint64_t size, std::uint64_t boundary) -> dmabridge_segment_limits {
  return dmabridge_limit_segments(size, boundary, page);
}

// As the kernel fills in a table.
auto cut(const dmabridge_segment_limits& limits, std::uint64_t address, std::uint64_t length)
    -> std::vector<segment> {
  std::vector<segment> result;
  while (length != 0) {
    const std::uint64_t bytes = dmabridge_segment_length(&limits, address, length);
    result.push_back({address, bytes});
    if (bytes == 0 || bytes > length) break;
    address += bytes;
    length -= bytes;
  }
  return result;
}

TEST(segment, one_if_the_device_takes_it) {
  const auto limits = limits_of(64 * KiB, no_boundary);
  EXPECT_EQ(cut(limits, 0x10000, page), (std::vector<segment>{{0x10000, page}}));
  EXPECT_EQ(cut(limits, 0x13000, 64 * KiB), (std::vector<segment>{{0x13000, 64 * KiB}}));
  EXPECT_EQ(dmabridge_segment_count(&limits, 0x13000, 64 * KiB), 1U);
}

TEST(segment, the_last_one_is_what_is_left) {
  const auto limits = limits_of(64 * KiB, no_boundary);
  EXPECT_EQ(cut(limits, 0x1000, 128 * KiB + page),
            (std::vector<segment>{{0x1000, 64 * KiB}, {0x11000, 64 * KiB}, {0x21000, page}}));
  EXPECT_EQ(dmabridge_segment_count(&limits, 0x1000, 128 * KiB + page), 3U);
}

TEST(segment, more_than_4_gib_are_several_whole_pages) {
  const auto limits = limits_of(UINT32_MAX, no_boundary);
  EXPECT_EQ(limits.size, 4 * GiB - page);
  EXPECT_EQ(cut(limits, 0, 4 * GiB),
            (std::vector<segment>{{0, 4 * GiB - page}, {4 * GiB - page, page}}));
  const auto pieces = cut(limits, 5 * GiB, 20 * GiB);
  ASSERT_EQ(pieces.size(), 6U);
  EXPECT_EQ(pieces.back().address, 5 * GiB + 5 * (4 * GiB - page));
  EXPECT_EQ(pieces.back().length, std::uint64_t{5} * page);
}

// What PCI functions have unless their driver says otherwise.
TEST(segment, none_goes_across_a_boundary) {
  const auto limits = limits_of(UINT32_MAX, four_gib_boundary);
  EXPECT_EQ(cut(limits, 4 * GiB - page, 2 * page),
            (std::vector<segment>{{4 * GiB - page, page}, {4 * GiB, page}}));
  EXPECT_EQ(cut(limits, 3 * GiB, GiB), (std::vector<segment>{{3 * GiB, GiB}}));
  EXPECT_EQ(
      cut(limits, 3 * GiB, 6 * GiB),
      (std::vector<segment>{
          {3 * GiB, GiB}, {4 * GiB, 4 * GiB - page}, {8 * GiB - page, page}, {8 * GiB, GiB}}));
}

TEST(segment, the_end_of_the_address_space_is_an_end) {
  const std::uint64_t last = ~std::uint64_t{0} - page + 1;
  for (const auto boundary : {no_boundary, four_gib_boundary}) {
    const auto limits = limits_of(64 * KiB, boundary);
    EXPECT_EQ(cut(limits, last, page), (std::vector<segment>{{last, page}}));
    EXPECT_EQ(dmabridge_segment_count(&limits, last, page), 1U);
  }
}

TEST(segment, nothing_is_no_segment) {
  const auto limits = limits_of(64 * KiB, no_boundary);
  EXPECT_EQ(dmabridge_segment_count(&limits, 0x1000, 0), 0U);
}

TEST(segment, limits_are_whole_pages_and_one_at_least) {
  EXPECT_EQ(limits_of(64 * KiB + 512, no_boundary).size, 64 * KiB);
  EXPECT_EQ(limits_of(page, no_boundary).size, page);
  EXPECT_EQ(limits_of(512, no_boundary).size, page);
  EXPECT_EQ(limits_of(0, no_boundary).size, page);
  EXPECT_EQ(limits_of(4 * GiB - page, no_boundary).size, 4 * GiB - page);
  EXPECT_EQ(limits_of(4 * GiB, no_boundary).size, 4 * GiB - page);
  EXPECT_EQ(limits_of(~std::uint64_t{0}, no_boundary).size, 4 * GiB - page);
  EXPECT_EQ(limits_of(page, 511).boundary, page - 1);
  EXPECT_EQ(limits_of(page, four_gib_boundary).boundary, four_gib_boundary);
}

// Over all kinds of devices and ranges, also beyond 4 GiB: all of the range and nothing else, in
// order, no more than the device takes, and no less than could be.
TEST(segment, property) {
  std::mt19937_64 random(20261121);
  const auto pages_below = [&](std::uint64_t bytes) {
    return std::uniform_int_distribution<std::uint64_t>(1, bytes / page)(random) * page;
  };
  for (int round = 0; round < 20'000; ++round) {
    const std::uint64_t boundary =
        random() % 4 == 0 ? no_boundary : (std::uint64_t{page} << random() % 24) - 1;
    const std::uint64_t most =
        random() % 4 == 0 ? random() >> random() % 64 : std::uint64_t{page} << random() % 21;
    const auto limits = limits_of(most, boundary);
    // Few enough pieces to look at each.
    const std::uint64_t piece = std::min<std::uint64_t>(limits.size, boundary);
    const std::uint64_t length = pages_below(
        std::max<std::uint64_t>(page, std::min<std::uint64_t>(64 * GiB, piece / page * page * 32)));
    const std::uint64_t address = pages_below(std::uint64_t{1} << (12 + random() % 40));
    SCOPED_TRACE(testing::Message() << std::hex << "most " << most << " boundary " << boundary
                                    << " range " << address << "+" << length);

    const auto pieces = cut(limits, address, length);
    EXPECT_EQ(dmabridge_segment_count(&limits, address, length), pieces.size());
    std::uint64_t at = address;
    for (const auto& [start, bytes] : pieces) {
      ASSERT_EQ(start, at);
      ASSERT_GT(bytes, 0U);
      ASSERT_EQ(bytes % page, 0U);
      ASSERT_LE(bytes, limits.size);
      ASSERT_EQ((start ^ (start + bytes - 1)) & ~boundary, 0U) << "across a boundary";
      at += bytes;
      const bool full = bytes == limits.size;
      const bool at_boundary = (at & boundary) == 0;
      ASSERT_TRUE(full || at_boundary || at == address + length) << "shorter than need be";
    }
    ASSERT_EQ(at, address + length);
  }
}

}  // namespace

// SPDX-License-Identifier: MIT
#include "dmabridge/size.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cctype>
#include <cstdint>
#include <random>
#include <string>
#include <utility>

namespace dmabridge {
namespace {

TEST(size, reads_what_people_write) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("4096"), 4096U);
  EXPECT_EQ(parse_size("7B"), 7U);
  EXPECT_EQ(parse_size("64k"), 65536U);
  EXPECT_EQ(parse_size("1M"), 1048576U);
  EXPECT_EQ(parse_size("1MiB"), 1048576U);
  EXPECT_EQ(parse_size("1MB"), 1000000U);
  EXPECT_EQ(parse_size("2gib"), std::uint64_t{2} << 30);
  EXPECT_EQ(parse_size("3T"), std::uint64_t{3} << 40);
  EXPECT_EQ(parse_size("16383P"), std::uint64_t{16383} << 50);
}

TEST(size, refuses_everything_else) {
  for (const auto* text : {"", " ", "K", "-1", "+1", "1 M", "1M ", "1.5M", "0x10", "1Mi", "1MiBs",
                           "1KK", "1E", "16384P", "18446744073709551616", "99999999999999P"}) {
    EXPECT_FALSE(parse_size(text)) << text;
  }
}

TEST(size, any_number_with_any_suffix_is_their_product_or_refused) {
  std::mt19937_64 random(20260101);  // a fixed seed: a failure comes again
  const std::array<std::pair<std::string, std::uint64_t>, 6> suffixes = {
      {{"", 1},
       {"K", 1 << 10},
       {"MiB", 1 << 20},
       {"GB", 1000000000},
       {"t", std::uint64_t{1} << 40},
       {"P", std::uint64_t{1} << 50}}};
  for (int i = 0; i < 20000; ++i) {
    const auto number = random() >> random() % 64;
    const auto& [suffix, unit] = suffixes[random() % suffixes.size()];
    const auto parsed = parse_size(std::to_string(number) + suffix);
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(number, unit, &product)) {
      EXPECT_FALSE(parsed) << number << suffix;
    } else {
      EXPECT_EQ(parsed, product) << number << suffix;
    }
  }
}

TEST(size, arbitrary_text_is_never_misread) {
  std::mt19937_64 random(20260102);
  const std::string letters = "0123456789kKmMgGtTiIbB .-+x";
  for (int i = 0; i < 50000; ++i) {
    std::string text(random() % 8, ' ');
    for (auto& letter : text) letter = letters[random() % letters.size()];
    const auto parsed = parse_size(text);
    if (!parsed) continue;
    // Whatever is accepted begins with a digit and has digits and letters only.
    ASSERT_TRUE(std::isdigit(static_cast<unsigned char>(text.front()))) << text;
    for (const auto letter : text) {
      ASSERT_TRUE(std::isalnum(static_cast<unsigned char>(letter))) << text;
    }
  }
}

TEST(size, formats_exactly_or_with_one_decimal) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(1023), "1023 B");
  EXPECT_EQ(format_size(1024), "1 KiB");
  EXPECT_EQ(format_size(1025), "1.0 KiB");
  EXPECT_EQ(format_size(256 << 20), "256 MiB");
  EXPECT_EQ(format_size(135585792), "129.3 MiB");
  EXPECT_EQ(format_size(~std::uint64_t{0}), "16.0 EiB");
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <sstream>
#include <string_view>
#include <thread>

namespace dmabridge::command {
namespace {

constexpr auto longer_than_a_redraw = std::chrono::milliseconds(120);

TEST(progress, is_drawn_now_and_then_and_taken_away) {
  std::ostringstream out;
  {
    progress_line line(out, 80, "loading", 100 << 20);
    line.update(1);
    EXPECT_EQ(out.str(), "") << "drawn at once";
    std::this_thread::sleep_for(longer_than_a_redraw);
    line.update(50 << 20);
    EXPECT_THAT(out.str(), testing::HasSubstr("loading  50%  50 MiB of 100 MiB"));
    const auto drawn = out.str().size();
    line.update(51 << 20);
    EXPECT_EQ(out.str().size(), drawn);
  }
  EXPECT_TRUE(out.str().ends_with("\r\033[K"));
}

TEST(progress, never_fills_the_last_column) {
  for (const auto columns : {0U, 1U, 2U, 20U, 21U}) {
    std::ostringstream out;
    {
      progress_line line(out, columns, "loading", std::uint64_t{1} << 40);
      std::this_thread::sleep_for(longer_than_a_redraw);
      line.update(std::uint64_t{1} << 39);
    }
    constexpr std::string_view erase = "\r\033[K";
    const auto drawn = out.str().size() - 2 * erase.size();
    EXPECT_EQ(drawn, std::max(columns, 1U) - 1) << out.str();
  }
}

TEST(progress, is_silent_where_nobody_looks) {
  std::ostringstream out;
  {
    progress_line line(out, {}, "loading", 100);
    std::this_thread::sleep_for(longer_than_a_redraw);
    line.update(50);
  }
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace dmabridge::command

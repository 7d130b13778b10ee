// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <sstream>
#include <thread>

namespace dmabridge::command {
namespace {

constexpr auto longer_than_a_redraw = std::chrono::milliseconds(120);

TEST(progress, is_drawn_now_and_then_and_taken_away) {
  std::ostringstream out;
  {
    progress_line line(out, true, "loading", 100 << 20);
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

TEST(progress, is_silent_where_nobody_looks) {
  std::ostringstream out;
  {
    progress_line line(out, false, "loading", 100);
    std::this_thread::sleep_for(longer_than_a_redraw);
    line.update(50);
  }
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>

#include "abi.hpp"
#include "drives.hpp"
#include "host_view.hpp"
#include "mapping.hpp"
#include "patience.hpp"
#include "ring.hpp"

namespace dmabridge::test {

inline constexpr std::uint64_t KiB = 1 << 10;
inline constexpr std::uint64_t MiB = 1 << 20;

// Every test in a guest: ends with all device memory given back and no buffer left, or fails.
class GuestTest : public testing::Test {
 protected:
  void TearDown() override;
};

// Polls until the condition holds; false if it never did in this time (see patience). For what the
// kernel finishes in the background.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = std::chrono::seconds(10));

// Writes a text to a file in sysfs or procfs: 0 or -errno.
int write_text(const std::string& path, const std::string& text);

// What a shell command printed on both outputs, and its exit status.
struct Output {
  int status;
  std::string text;
};
Output shell(const std::string& command);

}  // namespace dmabridge::test

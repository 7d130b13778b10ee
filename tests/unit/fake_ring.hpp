// SPDX-License-Identifier: MIT
// A ring that behaves as badly as a real one can.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "command_ring.hpp"

namespace dmabridge::test {

inline constexpr std::uint32_t align = 512;

// A file and a buffer, and a kernel between the two that completes in any order.
class fake_ring : public command_ring {
 public:
  fake_ring(std::size_t file, std::size_t buffer, unsigned seed)
      : file_bytes(file), buffer_bytes(buffer), random(seed) {
    for (auto& byte : file_bytes) byte = static_cast<std::byte>(random());
  }

  void queue(const command& what) override {
    EXPECT_EQ(what.file_offset % align, 0U);
    EXPECT_EQ(what.buffer_offset % align, 0U);
    EXPECT_EQ(what.length % align, 0U);
    EXPECT_GT(what.length, 0U);
    EXPECT_LE(what.buffer_offset + what.length, buffer_bytes.size());
    pending.push_back(what);
    most_in_flight = std::max(most_in_flight, pending.size());
  }

  void submit() override {}

  auto submit_and_wait(std::span<completion> done) -> int override {
    if (!waits.empty()) {
      const auto result = waits.back();
      waits.pop_back();
      if (result < 0) return result;
    }
    EXPECT_FALSE(pending.empty()) << "waiting for nothing hangs";
    if (pending.empty()) return -EDEADLK;
    const auto count = std::min(1 + random() % pending.size(), done.size());
    for (std::size_t i = 0; i < count; ++i) {
      const auto chosen = static_cast<std::ptrdiff_t>(random() % pending.size());
      const auto what = pending[static_cast<std::size_t>(chosen)];
      pending.erase(pending.begin() + chosen);
      done[i] = {.tag = what.tag, .result = result_of(what)};
    }
    return static_cast<int>(count);
  }

  auto result_of(const command& what) -> int {
    ++served;
    if (on_command) on_command();
    if (fault) {
      if (const auto result = fault(what)) return *result;
    }
    const auto start = std::min<std::size_t>(what.file_offset, file_bytes.size());
    auto length = std::min<std::size_t>(what.length, file_bytes.size() - start);
    // A short one is whole units, as nothing else can come of direct I/O short of the end.
    if (short_ones && length > align && random() % 3 == 0) {
      length = (1 + random() % (length / align)) * align;
    }
    const auto from = file_bytes.begin() + static_cast<std::ptrdiff_t>(start);
    const auto into = buffer_bytes.begin() + static_cast<std::ptrdiff_t>(what.buffer_offset);
    if (writing) {
      std::copy_n(into, length, from);
    } else {
      std::copy_n(from, length, into);
    }
    return static_cast<int>(length);
  }

  std::vector<std::byte> file_bytes;
  std::vector<std::byte> buffer_bytes;
  std::mt19937 random;
  std::vector<command> pending;
  std::vector<int> waits;  // results of the next waits, last first; 0: a real one
  std::function<std::optional<int>(const command&)> fault;
  std::function<void()> on_command;
  bool short_ones = false;
  bool writing = false;
  std::size_t most_in_flight = 0;
  std::size_t served = 0;
};

}  // namespace dmabridge::test

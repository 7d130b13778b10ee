// SPDX-License-Identifier: MIT
// What adaptors for GPU APIs are tested in: a made-up loader, and a kernel that counts descriptors.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "dmabridge/exported_memory.hpp"
#include "error_of.hpp"
#include "fake_loader.hpp"
#include "page.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::test {

constexpr int vendor_fd = 120;  // what a made-up API hands out

class gpu_fixture : public testing::Test {
 protected:
  gpu_fixture() {
    ON_CALL(module_.calls, close).WillByDefault([this](int descriptor) {
      closed_.push_back(descriptor);
      happened_.emplace_back("close " + std::to_string(descriptor));
      return 0;
    });
  }
  // Whatever a test did with libraries: each that was opened is closed.
  ~gpu_fixture() override { EXPECT_EQ(loader_.closed, loader_.opened.size()); }

  // Each of them once, and no other.
  void expect_closed(const std::vector<int>& descriptors) {
    EXPECT_THAT(closed_, testing::UnorderedElementsAreArray(descriptors));
    closed_.clear();
  }

  static auto pattern(std::size_t length) -> std::vector<std::byte> {
    std::vector<std::byte> bytes(length);
    for (std::size_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
    return bytes;
  }

  // What the kernel can refuse when a descriptor becomes a buffer; each is undone by the next.
  struct refusal {
    const char* what;
    std::function<void()> arrange;
  };
  auto refusals() -> std::vector<refusal> {
    using testing::_;
    using testing::Return;
    return {
        {"no more descriptors",
         [this] { ON_CALL(module_.calls, duplicate).WillByDefault(Return(-EMFILE)); }},
        {"no dma-buf",
         [this] {
           ON_CALL(module_.calls, duplicate).WillByDefault(Return(buffer_fd));
           ON_CALL(module_.calls, read_link).WillByDefault([](const char*, std::string& target) {
             target = "/dev/null";
             return 0;
           });
         }},
        {"too short",
         [this] {
           ON_CALL(module_.calls, read_link).WillByDefault([](const char*, std::string& target) {
             target = "/dmabuf:";
             return 0;
           });
           module_.buffer_size = static_cast<std::int64_t>(page_size()) / 2;
         }},
    };
  }

  fake_module module_;
  fake_loader loader_;
  loader_override active_{loader_};
  std::vector<int> closed_;
  std::vector<std::string> happened_;  // closes, and what a test adds
};

}  // namespace dmabridge::test

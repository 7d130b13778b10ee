// SPDX-License-Identifier: MIT
#include "dmabridge/block_attachment.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <utility>

#include "error_of.hpp"
#include "mock_system_calls.hpp"
#include "quiet_owner.hpp"

namespace dmabridge {
namespace {

using test::binding_fd;
using test::buffer_fd;
using test::control_fd;
using test::error_of;
using test::quiet_owner;
using testing::_;
using testing::HasSubstr;
using testing::Return;
using testing::StrEq;

constexpr int target_fd = 60, direct_fd = 61, buffered_fd = 62;

// The module takes nobody's memory, unless `answer_` says otherwise; the file has direct I/O.
class block_attachment_test : public testing::Test {
 protected:
  block_attachment_test() {
    EXPECT_CALL(module_.calls, close).Times(testing::AnyNumber());
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          return bind(*static_cast<dmabridge_bind*>(argument));
        });
    ON_CALL(module_.calls, ioctl(binding_fd, DMABRIDGE_IOCTL_BINDING, _))
        .WillByDefault([](int, unsigned long, void* argument) {
          static_cast<dmabridge_binding_info*>(argument)->buffer_size = 1 << 20;
          return 0;
        });
    ON_CALL(module_.calls, open(StrEq("/proc/self/fd/60"), _, _))
        .WillByDefault([this](const char*, int flags, mode_t) {
          opened_ = flags;
          if ((flags & O_DIRECT) == 0) return buffered_fd;
          return has_direct_ ? direct_fd : -EINVAL;
        });
    ON_CALL(module_.calls, statx(direct_fd, _, _))
        .WillByDefault([this](int, unsigned, struct statx& told) {
          told = told_;
          return 0;
        });
    told_.stx_mask = STATX_DIOALIGN;
    told_.stx_dio_offset_align = 512;
    told_.stx_dio_mem_align = 4;
  }

  auto bind(dmabridge_bind& raw) -> int {
    if (refusal_ == 0) {
      raw.binding_fd = binding_fd;
      raw.verdict.route = DMABRIDGE_ROUTE_SYSTEM;
      return 0;
    }
    raw.verdict.nr_reasons = 1;
    raw.verdict.reasons[0].code = refusal_;
    return -EOPNOTSUPP;
  }
  auto join(bool with_module = true, policy wanted = policy::prefer,
            direction way = direction::read) -> block_attachment {
    memory_.emplace(buffer::from_fd(fd(buffer_fd)), 4096, 8192,
                    std::make_unique<quiet_owner>(pinnable_));
    return {with_module ? &control_ : nullptr, *memory_, target_fd, "model.bin", wanted, way};
  }
  static auto has(const verdict& word, std::uint32_t code) -> bool {
    return std::ranges::find(word.reasons, code, &reason::code) != word.reasons.end();
  }

  test::fake_module module_;
  const control control_{};
  std::uint32_t refusal_ = DMABRIDGE_REASON_FOREIGN_BUFFER;
  bool has_direct_ = true;
  struct statx told_{};
  int opened_ = 0;
  std::array<std::byte, 8192> pages_{};
  std::span<std::byte> pinnable_ = pages_;
  std::optional<exported_memory> memory_{};
};

TEST_F(block_attachment_test, binding_comes_first) {
  refusal_ = 0;
  const auto joined = join();
  EXPECT_EQ(joined.method(), block_method::binding);
  EXPECT_EQ(joined.verdict().state, verdict_state::confirmed);
  EXPECT_EQ(joined.info().buffer_size, 8192U) << "the exported range, not the dma-buf";
}

TEST_F(block_attachment_test, then_a_mapping_that_can_be_pinned) {
  const auto joined = join();
  EXPECT_EQ(joined.method(), block_method::pinned_mapping);
  EXPECT_EQ(joined.verdict().route, route::system);
  EXPECT_EQ(joined.verdict().state, verdict_state::predicted);
  EXPECT_TRUE(has(joined.verdict(), DMABRIDGE_REASON_FOREIGN_BUFFER));
  EXPECT_EQ(joined.info().offset_align, 512U);
  EXPECT_EQ(joined.info().memory_align, 4U);
  EXPECT_EQ(opened_ & (O_DIRECT | O_ACCMODE), O_DIRECT | O_RDONLY);
}

TEST_F(block_attachment_test, then_the_owners_copy) {
  pinnable_ = {};
  const auto joined = join();
  EXPECT_EQ(joined.method(), block_method::bounce);
  EXPECT_EQ(joined.verdict().route, route::bounce);
  EXPECT_EQ(joined.info().offset_align, 512U) << "into memory of ours it is direct all the same";
  EXPECT_EQ(joined.info().memory_align, 1U);
}

TEST_F(block_attachment_test, needs_no_module) {
  const auto joined = join(false);
  EXPECT_EQ(joined.method(), block_method::pinned_mapping);
  EXPECT_TRUE(has(joined.verdict(), DMABRIDGE_REASON_FOREIGN_BUFFER));
}

TEST_F(block_attachment_test, file_without_direct_io_bounces_and_says_so) {
  has_direct_ = false;
  const auto joined = join();
  EXPECT_EQ(joined.method(), block_method::bounce);
  EXPECT_TRUE(has(joined.verdict(), DMABRIDGE_REASON_FILE_NO_DIRECT_IO));
  EXPECT_EQ(joined.info().offset_align, 1U);
}

TEST_F(block_attachment_test, file_that_opens_for_direct_io_and_has_none_is_opened_again) {
  told_.stx_dio_offset_align = told_.stx_dio_mem_align = 0;
  EXPECT_EQ(join().method(), block_method::bounce);
  EXPECT_EQ(opened_ & O_DIRECT, 0);
}

TEST_F(block_attachment_test, alignment_that_nobody_tells_is_not_taken_for_none) {
  told_.stx_mask = 0;
  EXPECT_EQ(join().info().offset_align, 4096U);
}

TEST_F(block_attachment_test, is_opened_for_its_direction_only) {
  join(true, policy::prefer, direction::write);
  EXPECT_EQ(opened_ & O_ACCMODE, O_WRONLY);
}

TEST_F(block_attachment_test, what_the_module_refuses_of_its_own_memory_stays_refused) {
  for (const auto code : {DMABRIDGE_REASON_TARGET_BUSY, DMABRIDGE_REASON_POLICY_CONFLICT}) {
    refusal_ = code;
    const auto failure = error_of([&] { join(); });
    EXPECT_EQ(failure.kind(), error_kind::refused);
    EXPECT_EQ(failure.reasons().at(0).code, static_cast<std::uint32_t>(code));
  }
}

TEST_F(block_attachment_test, require_is_refused_with_the_reason_with_and_without_a_module) {
  for (const auto with_module : {true, false}) {
    const auto failure = error_of([&] { join(with_module, policy::require); });
    EXPECT_EQ(failure.kind(), error_kind::refused);
    EXPECT_THAT(failure.what(), HasSubstr("[foreign_buffer]"));
  }
  EXPECT_EQ(opened_, 0) << "nothing was opened for it";
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
//
// P2P and ordinary requests side by side. A driver maps a request by its first segment alone: a
// request made of both kinds fails, or loses data in silence. So they must never be merged, whoever
// sends them.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>

#include "machine.hpp"
#include "support/block_fixture.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint32_t block = 4096;
constexpr unsigned blocks = 32;

struct Place {
  const char* name;
  const char* fs;  // "": raw
  const char* scheduler;
};

class Merge : public BlockTest, public testing::WithParamInterface<Place> {
 protected:
  void SetUp() override {
    drive_ = drive("SAMESW", GetParam().fs);
    scheduler_ = fmt::format("/sys/block/{}/queue/scheduler", drive_.disk);
    ASSERT_EQ(shell("modprobe mq-deadline; true").status, 0);
    ASSERT_EQ(write_text(scheduler_, GetParam().scheduler), 0);
    if (*GetParam().fs == '\0') {
      path_ = drive_.path();
      tag_ = 0xa0;
      first_ = 64 * MiB;
    } else {
      mount_ = std::make_unique<Mount>(drive_.path(), GetParam().fs);
      path_ = mount_->file("adjacent");
      tag_ = 0x51;
      make_pattern_file(path_, 4 * MiB, tag_);
    }
    bound_ = make(path_, blocks * block, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ,
                  O_RDONLY | O_DIRECT);
    ASSERT_EQ(bound_.binding.error, 0) << describe(bound_.binding.verdict);
    extents_ = oracle::extents_of(bound_.target.get());
  }

  void TearDown() override {
    bound_ = Bound();
    if (mount_) unlink(path_.c_str());
    mount_.reset();
    EXPECT_EQ(write_text(scheduler_, "none"), 0);
    BlockTest::TearDown();
  }

  void prepare_p2p(Ring& ring, unsigned index) {
    ring.prepare(bound_.fd(), DMABRIDGE_URING_READ, index * block, block, first_ + index * block,
                 index);
  }
  void prepare_ordinary(Ring& ring, unsigned index, std::byte* memory) {
    io_uring_sqe* sqe = ring.next();
    io_uring_prep_read(sqe, bound_.target.get(), memory + index * block, block,
                       first_ + index * block);
    sqe->user_data = index;
  }

  // Every command of these blocks went either to the BAR or to system memory, and P2P ones are as
  // long as they were asked for.
  void expect_never_mixed(const TraceWatch& watch, unsigned rounds) {
    const oracle::Window window = region_window();
    const std::uint64_t start = device_offset(first_),
                        end = device_offset(first_ + (blocks - 1) * block) + block;
    const std::vector<oracle::Extent> area{{start, end - start, 0}};
    unsigned p2p = 0;
    std::uint64_t ordinary = 0;
    for (const oracle::Command& command : watch.commands()) {
      if (command.nsid != drive_.nsid || command.operation != oracle::Operation::read ||
          !oracle::touches(command, area))
        continue;
      const auto inside = static_cast<std::size_t>(std::ranges::count_if(
          command.targets, [&](const auto& target) { return window.holds(target); }));
      EXPECT_TRUE(inside == 0 || inside == command.targets.size())
          << "a command of " << command.bytes << " bytes at LBA " << command.lba << " mixes both";
      if (inside != 0) {
        p2p++;
        EXPECT_EQ(command.bytes, block)
            << "P2P blocks have ordinary ones between them, and yet were merged";
      } else {
        ordinary += command.bytes;
      }
    }
    EXPECT_EQ(p2p, rounds * blocks / 2);
    EXPECT_EQ(ordinary, static_cast<std::uint64_t>(rounds) * blocks / 2 * block);
  }

  std::uint64_t device_offset(std::uint64_t file_offset) const {
    for (const auto& extent : extents_) {
      if (file_offset >= extent.file_offset && file_offset < extent.file_offset + extent.length)
        return extent.offset + (file_offset - extent.file_offset);
    }
    throw std::runtime_error("the file has a hole here");
  }

  void expect_p2p_data(unsigned parity) {
    for (unsigned i = parity; i < blocks; i += 2)
      EXPECT_EQ(difference(bound_, block, tag_, first_ + i * block, i * block), "")
          << "P2P block " << i;
  }
  void expect_ordinary_data(const std::byte* memory, unsigned parity) {
    for (unsigned i = parity; i < blocks; i += 2) {
      EXPECT_EQ(pattern_difference(memory + i * block, block, tag_, first_ + i * block), "")
          << "ordinary block " << i;
    }
  }

  Drive drive_;
  std::string scheduler_, path_;
  std::uint8_t tag_ = 0;
  std::uint64_t first_ = 0;
  std::unique_ptr<Mount> mount_;
  Bound bound_;
  std::vector<oracle::Extent> extents_;
};

TEST_P(Merge, NeverWithinOneSubmit) {
  const Mapping memory = Mapping::anonymous(blocks * block);
  TraceWatch watch;
  for (const unsigned parity : {0u, 1u}) {  // either kind comes first
    std::ranges::fill(memory.bytes(), std::byte(0));
    for (unsigned i = 0; i < blocks; i++) {
      if (i % 2 == parity) {
        prepare_p2p(ring_, i);
      } else {
        prepare_ordinary(ring_, i, memory.data());
      }
    }
    ring_.submit();
    for (unsigned i = 0; i < blocks; i++) EXPECT_EQ(ring_.wait(), static_cast<int>(block));
    expect_p2p_data(parity);
    expect_ordinary_data(memory.data(), 1 - parity);
  }
  expect_never_mixed(watch, 2);
}

// Two processes that send at the same moment, again and again.
TEST_P(Merge, NeverBetweenTwoProcesses) {
  constexpr unsigned rounds = 20;
  struct Shared {
    std::atomic<unsigned> ready;
    std::atomic<unsigned> wrong;
  };
  const Mapping page = Mapping(open_file("/dev/zero", O_RDWR).get(), 4096);
  auto* shared = new (page.data()) Shared{};
  const auto meet = [&](unsigned round) {
    shared->ready++;
    while (shared->ready < 2 * (round + 1)) sched_yield();
  };
  TraceWatch watch;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Mapping memory = Mapping::anonymous(blocks * block);
    Ring ring(64);
    for (unsigned round = 0; round < rounds; round++) {
      std::ranges::fill(memory.bytes(), std::byte(0));
      for (unsigned i = 1; i < blocks; i += 2) prepare_ordinary(ring, i, memory.data());
      meet(round);
      ring.submit();
      for (unsigned i = 1; i < blocks; i += 2)
        shared->wrong += ring.wait() != static_cast<int>(block);
      for (unsigned i = 1; i < blocks; i += 2) {
        shared->wrong +=
            !pattern_difference(memory.data() + i * block, block, tag_, first_ + i * block).empty();
      }
    }
    _exit(0);
  }
  for (unsigned round = 0; round < rounds; round++) {
    for (unsigned i = 0; i < blocks; i += 2) prepare_p2p(ring_, i);
    meet(round);
    ring_.submit();
    for (unsigned i = 0; i < blocks; i += 2) EXPECT_EQ(ring_.wait(), static_cast<int>(block));
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(shared->wrong, 0u) << "ordinary reads that failed or got wrong data";
  expect_p2p_data(0);
  expect_never_mixed(watch, rounds);
}

INSTANTIATE_TEST_SUITE_P(Block, Merge,
                         testing::Values(Place{"Raw", "", "none"},
                                         Place{"RawDeadline", "", "mq-deadline"},
                                         Place{"Ext4", "ext4", "none"},
                                         Place{"Ext4Deadline", "ext4", "mq-deadline"},
                                         Place{"Xfs", "xfs", "none"}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace dmabridge::test

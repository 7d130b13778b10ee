// SPDX-License-Identifier: MIT
//
// Stolen memory: RAM that lies behind a BAR too. Every importer gets the RAM, wherever it is;
// whatever it does is seen through the BAR.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <stdexcept>
#include <vector>

#include "support/block_fixture.hpp"
#include "support/patience.hpp"
#include "support/pci_driver.hpp"
#include "support/silent_fuse.hpp"
#include "support/test_importer.hpp"

namespace dmabridge::test {
namespace {

dmabridge_region_info stolen_region() {
  for (const auto& region : regions()) {
    if (region.kind == DMABRIDGE_REGION_STOLEN) return region;
  }
  throw std::runtime_error("this topology has no stolen memory");
}

bool in_quarantine(const dmabridge_region_info& region) {
  return (region.flags & DMABRIDGE_REGION_QUARANTINED) != 0;
}

class Stolen : public BlockTest {
 protected:
  void TearDown() override {
    // After a failed test, too, the next one is to find what it needs.
    EXPECT_TRUE(eventually(unregistered_are_gone)) << "memory is still in quarantine";
    if (access((driver_ + "/" + function_).c_str(), F_OK) != 0) {
      EXPECT_EQ(bind_function(function_, "dmabridge_pci"), 0);
    }
    BlockTest::TearDown();
  }

  static Fd take(std::uint64_t size, std::uint32_t policy = DMABRIDGE_POLICY_PREFER) {
    return allocate_in(stolen_region(), size, policy);
  }

  Bound make_stolen(const std::string& path, std::uint64_t size, std::uint32_t policy,
                    std::uint32_t flags = DMABRIDGE_BIND_READ) {
    Bound bound;
    bound.buffer = take(size);
    bound.target = open_file(path, O_RDWR);
    bound.binding = bind(bound.buffer.get(), bound.target.get(), policy, flags);
    return bound;
  }

  // The function's memory by way of its BAR, which another driver may have claimed.
  Mapping bar() const {
    const Fd resource = open_file(
        fmt::format("/sys/bus/pci/devices/{}/resource{}", function_, region_.bar), O_RDWR);
    return Mapping(resource.get(), region_.size);
  }

  const dmabridge_region_info region_ = stolen_region();
  const std::string function_ = pci_address(region_.device);
  const std::string driver_ = "/sys/bus/pci/drivers/dmabridge_pci";
};

TEST_F(Stolen, EveryDriveReachesIt) {
  for (const Drive& drive : drives()) {
    if (!drive.fs.empty()) continue;
    SCOPED_TRACE(drive.serial);
    const Bound bound = make_stolen(drive.path(), 2 * MiB, DMABRIDGE_POLICY_REQUIRE);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_STOLEN));
    EXPECT_EQ(bound.binding.verdict.nr_reasons, 0U) << describe(bound.binding.verdict);
    ASSERT_EQ(load(bound, 2 * MiB), static_cast<int>(2 * MiB));
    expect_only(bound, DMABRIDGE_ROUTE_STOLEN, 2 * MiB);
    // As the host sees the memory, and by what the drive's image holds.
    EXPECT_EQ(host_bytes(bound.buffer.get(), 0, 2 * MiB), host_read(drive.image(), 0, 2 * MiB));
  }
}

TEST_F(Stolen, WhatADriveWritesIsReadThroughTheBarAndTheReverse) {
  const Drive raw = drive("SAMESW"), other = drive("OTHERRP");
  const std::uint64_t at = other.size - MiB;
  const auto before = read_file(other.path(), at, MiB);
  {
    const Bound from = make_stolen(raw.path(), MiB, DMABRIDGE_POLICY_REQUIRE);
    ASSERT_EQ(load(from, MiB), static_cast<int>(MiB));
    const Mapping window = bar();
    const std::uint64_t offset = query(from.buffer.get()).chunks.at(0).offset;
    EXPECT_EQ(pattern_difference(window.data() + offset, MiB, 0xa0, 0), "");

    fill_pattern(window.data() + offset, MiB, 0x41, 0);
    const Fd target = open_file(other.path(), O_RDWR);
    const Binding to =
        bind(from.buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(to.error, 0) << describe(to.verdict);
    ASSERT_EQ(ring_.transfer(to.fd.get(), DMABRIDGE_URING_WRITE, 0, MiB, at),
              static_cast<int>(MiB));
    const auto host = host_read(other.image(), at, MiB);
    EXPECT_EQ(pattern_difference(host.data(), host.size(), 0x41, 0), "");
  }
  const Fd file = open_file(other.path(), O_WRONLY);
  EXPECT_EQ(pwrite(file.get(), before.data(), MiB, static_cast<off_t>(at)),
            static_cast<ssize_t>(MiB));
  EXPECT_EQ(fsync(file.get()), 0);
}

TEST_F(Stolen, FilesGoThereDirectly) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  const std::string path = mount.file("stolen");
  make_pattern_file(path, MiB, 0x42);
  const Bound bound = make_stolen(path, MiB, DMABRIDGE_POLICY_REQUIRE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, MiB), static_cast<int>(MiB));
  EXPECT_EQ(difference(bound, MiB, 0x42), "");
  expect_only(bound, DMABRIDGE_ROUTE_STOLEN, MiB);
  unlink(path.c_str());
}

// tmpfs takes O_DIRECT, and copies.
TEST_F(Stolen, WhereTheCpuMayCopyRequireIsRefused) {
  const std::string path = "/dev/shm/stolen";
  make_pattern_file(path, MiB, 0x43);
  {
    const Bound bound = make_stolen(path, MiB, DMABRIDGE_POLICY_PREFER);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_STOLEN));
    EXPECT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
    ASSERT_EQ(load(bound, MiB), static_cast<int>(MiB));
    EXPECT_EQ(difference(bound, MiB, 0x43), "");
    expect_only(bound, DMABRIDGE_ROUTE_UNPROVED, MiB);
  }
  const Bound refused = make_stolen(path, MiB, DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(refused.binding.error, -EOPNOTSUPP);
  EXPECT_NE(find_reason(refused.binding.verdict, DMABRIDGE_REASON_FILESYSTEM_UNLISTED), nullptr)
      << describe(refused.binding.verdict);
  unlink(path.c_str());
}

// Everybody reaches it, so a target's reasons do not count, until they do.
TEST_F(Stolen, FileWithoutDirectIoBouncesForAReason) {
  // The flag has an effect only without delayed allocation.
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4", "nodelalloc");
  const std::string path = mount.file("journalled");
  make_pattern_file(path, MiB, 0x44);
  {
    const Fd file = open_file(path, O_RDWR);
    journal_data(file.get());
    ASSERT_EQ(fsync(file.get()), 0);
  }
  {
    const Bound bound = make_stolen(path, MiB, DMABRIDGE_POLICY_PREFER);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_BOUNCE));
    EXPECT_NE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_FILE_NO_DIRECT_IO), nullptr)
        << describe(bound.binding.verdict);
    ASSERT_EQ(load(bound, MiB), static_cast<int>(MiB));
    EXPECT_EQ(difference(bound, MiB, 0x44), "");
  }
  unlink(path.c_str());
}

TEST_F(Stolen, ItIsMappedPinnedAndReadInto) {
  const Fd buffer = take(4 * MiB);
  const Mapping mapping(buffer.get(), 4 * MiB);
  const Fd file = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  ASSERT_EQ(pread(file.get(), mapping.data(), MiB, 0), static_cast<ssize_t>(MiB));
  EXPECT_EQ(pattern_difference(mapping.data(), MiB, 0xa0, 0), "");

  const iovec vector{mapping.data() + 2 * MiB, MiB};
  ASSERT_EQ(io_uring_register_buffers(ring_.get(), &vector, 1), 0);
  io_uring_prep_read_fixed(ring_.next(), file.get(), vector.iov_base, MiB, MiB, 0);
  ring_.submit();
  EXPECT_EQ(ring_.wait(), static_cast<int>(MiB));
  const auto host = host_bytes(buffer.get(), 2 * MiB, MiB);
  EXPECT_EQ(pattern_difference(host.data(), MiB, 0xa0, MiB), "");

  // Long-term pins keep it where it is.
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict), -EBUSY);
  EXPECT_NE(find_reason(verdict, DMABRIDGE_REASON_PINNED_BY_USER), nullptr) << describe(verdict);
  ASSERT_EQ(io_uring_unregister_buffers(ring_.get()), 0);
  ASSERT_TRUE(eventually([&] {
    return move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict) == 0;
  })) << describe(verdict);
  EXPECT_EQ(pattern_difference(mapping.data() + 2 * MiB, MiB, 0xa0, MiB), "");
}

TEST_F(Stolen, ForbidMovesItToOrdinaryMemory) {
  const Bound bound = make_stolen(drive("SAMESW").path(), MiB, DMABRIDGE_POLICY_FORBID);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_SYSTEM));
  EXPECT_NE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_POLICY_FORBID), nullptr);
  ASSERT_EQ(load(bound, MiB), static_cast<int>(MiB));
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, MiB);
}

TEST_F(Stolen, MemoryOfAFormerOwnerIsCleared) {
  {
    const Fd buffer = take(region_.size);
    const Mapping mapping(buffer.get(), region_.size);
    std::memset(mapping.data(), 0x5a, mapping.size());
  }
  const Fd buffer = take(region_.size);
  const Mapping mapping(buffer.get(), region_.size);
  EXPECT_EQ(std::ranges::count(mapping.bytes(), std::byte(0)),
            static_cast<std::ptrdiff_t>(region_.size));
}

TEST_F(Stolen, MemoryThatAMoveLeftIsCleared) {
  const Fd buffer = take(MiB);
  const Mapping mapping(buffer.get(), MiB);
  std::memset(mapping.data(), 0x5a, MiB);
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  const Fd all = take(region_.size);
  const Mapping others(all.get(), region_.size);
  EXPECT_EQ(std::ranges::count(others.bytes(), std::byte(0)),
            static_cast<std::ptrdiff_t>(region_.size));
}

// A pin that outlives its buffer: nobody else gets that memory.
TEST_F(Stolen, PinnedMemoryIsNotHandedOutAgain) {
  constexpr std::uint64_t pinned = 64 * KiB;
  std::uint64_t first = 0;  // of what is pinned, in the region
  {
    const Fd buffer = take(MiB);
    const Mapping mapping(buffer.get(), MiB);
    first = query(buffer.get()).chunks.at(0).offset + 8 * KiB;
    const iovec vector{mapping.data() + 8 * KiB, pinned};
    ASSERT_EQ(io_uring_register_buffers(ring_.get(), &vector, 1), 0);
  }
  ASSERT_TRUE(eventually([&] { return stolen_region().quarantined == pinned; }))
      << stolen_region().quarantined;
  EXPECT_EQ(stolen_region().available, region_.size - pinned);
  {
    const Fd rest = take(region_.size - pinned);
    for (const dmabridge_chunk& chunk : query(rest.get()).chunks)
      EXPECT_TRUE(chunk.offset + chunk.length <= first || chunk.offset >= first + pinned)
          << chunk.offset;
    EXPECT_THROW(take(4096), std::system_error);
    const Mapping mapping(rest.get(), region_.size - pinned);
    EXPECT_EQ(std::ranges::count(mapping.bytes(), std::byte(0)),
              static_cast<std::ptrdiff_t>(mapping.size()));
  }
  ASSERT_EQ(io_uring_unregister_buffers(ring_.get()), 0);
  EXPECT_TRUE(eventually([&] {
    return stolen_region().quarantined == 0 && stolen_region().available == region_.size;
  }));
}

TEST_F(Stolen, UnbindWithAFixedBufferAliveIsQuarantine) {
  const Fd buffer = take(MiB);
  const Mapping mapping(buffer.get(), MiB);
  const iovec vector{mapping.data(), 16 * KiB};
  ASSERT_EQ(io_uring_register_buffers(ring_.get(), &vector, 1), 0);
  ASSERT_EQ(unbind_function(function_), 0);

  const auto region = stolen_region();
  EXPECT_TRUE(in_quarantine(region));
  EXPECT_EQ(region.quarantined, 16 * KiB);
  EXPECT_EQ(region.available, region.size - 16 * KiB);
  EXPECT_NE(access(region_node(region).c_str(), F_OK), 0);
  EXPECT_EQ(query(buffer.get()).head.placement, static_cast<unsigned>(DMABRIDGE_PLACEMENT_NONE));
  // Nobody gets the memory meanwhile.
  EXPECT_LT(bind_function(function_, "dmabridge_pci"), 0);
  // The pin is as good as ever.
  const Fd file = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  io_uring_prep_read_fixed(ring_.next(), file.get(), vector.iov_base, 16 * KiB, 0, 0);
  ring_.submit();
  EXPECT_EQ(ring_.wait(), static_cast<int>(16 * KiB));

  ASSERT_EQ(io_uring_unregister_buffers(ring_.get()), 0);
  EXPECT_TRUE(eventually(unregistered_are_gone));
  ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
  EXPECT_FALSE(in_quarantine(stolen_region()));
}

// The memory is RAM, and stays for those who use it: the device need not wait for them.
TEST_F(Stolen, UnbindWithIoThatNeverEndsIsQuarantine) {
  SilentFuse fuse;
  {
    const Bound bound = make_stolen(fuse.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    ASSERT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
    ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0);
    ring_.submit();
    EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "the command reads nothing";

    std::future<int> unbound =
        std::async(std::launch::async, [&] { return unbind_function(function_); });
    const bool ended =
        unbound.wait_for(patience(std::chrono::seconds(20))) == std::future_status::ready;
    EXPECT_TRUE(ended) << "unbinding waits for the I/O";
    if (ended) {
      EXPECT_TRUE(in_quarantine(stolen_region()));
      EXPECT_EQ(stolen_region().quarantined, 64 * KiB);
    }
    int result = 0;
    EXPECT_FALSE(ring_.wait_for(100, &result)) << "it has ended; result " << result;
    fuse.abort();
    EXPECT_EQ(unbound.get(), 0);
    ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
    EXPECT_LT(result, 0);
  }
  EXPECT_TRUE(eventually(unregistered_are_gone));
}

// Whoever would move the buffer is refused after a while, and keeps nobody for longer: neither I/O
// that comes meanwhile, nor an importer's driver that detaches, which cannot be killed.
TEST_F(Stolen, MoveWithIoThatNeverEndsIsRefused) {
  constexpr std::uint64_t size = 64 * KiB, at = 32 * KiB;
  SilentFuse fuse;
  const Bound bound = make_stolen(fuse.path(), size, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const Mapping mapping(bound.buffer.get(), size);
  fill_pattern(mapping.data(), size, 0x45, 0);
  const auto expect_whole = [&] {
    EXPECT_EQ(pattern_difference(mapping.data(), at, 0x45, 0), "");
    EXPECT_EQ(pattern_difference(mapping.data() + at, 4096, 0xa0, 0), "");
    EXPECT_EQ(pattern_difference(mapping.data() + at + 4096, size - at - 4096, 0x45, at + 4096),
              "");
  };
  Attached second = attach(bound.buffer.get(), dynamic);
  ASSERT_EQ(second.error, 0);
  const Fd disk = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  const Binding reader = bind(bound.buffer.get(), disk.get(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(reader.error, 0) << describe(reader.verdict);
  const Query before = query(bound.buffer.get());

  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0);
  ring_.submit();
  EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "the command reads nothing";
  dmabridge_verdict verdict{};
  std::future<int> moved = std::async(std::launch::async, [&] {
    return move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict);
  });
  Ring later;
  int result = 0;
  EXPECT_TRUE(eventually([&] {
    later.prepare(reader.fd.get(), DMABRIDGE_URING_READ, at, 4096, 0);
    later.submit();
    return !later.wait_for(100, &result);
  })) << "nobody moves the buffer";
  std::future<void> detached = std::async(std::launch::async, [&] { second.attachment.detach(); });

  EXPECT_EQ(detached.wait_for(patience(std::chrono::seconds(20))), std::future_status::ready)
      << "detaching waits for the I/O";
  const bool ended =
      moved.wait_for(patience(std::chrono::seconds(20))) == std::future_status::ready;
  EXPECT_TRUE(ended) << "the mover waits for the I/O";
  if (ended) {
    EXPECT_EQ(moved.get(), -EBUSY);
    const dmabridge_reason* reason = find_reason(verdict, DMABRIDGE_REASON_IO_IN_FLIGHT);
    EXPECT_TRUE(reason != nullptr && (reason->flags & DMABRIDGE_REASON_BLOCKS_MOVE) != 0 &&
                reason->value > 0)
        << describe(verdict);
    EXPECT_TRUE(later.wait_for(10000, &result)) << "what came meanwhile hangs";
    EXPECT_EQ(result, 4096);
    const Query after = query(bound.buffer.get());
    EXPECT_EQ(after.head.placement, static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
    EXPECT_EQ(after.head.generation, before.head.generation);
    EXPECT_EQ(after.head.moves, before.head.moves);
    expect_whole();

    // So is whoever wants the buffer elsewhere when he comes.
    const Hold held = hold(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
    EXPECT_EQ(held.error, -EBUSY);
    EXPECT_NE(find_reason(held.verdict, DMABRIDGE_REASON_IO_IN_FLIGHT), nullptr)
        << describe(held.verdict);
    const Binding redirected = bind(bound.buffer.get(), disk.get(), DMABRIDGE_POLICY_FORBID);
    EXPECT_EQ(redirected.error, -EBUSY);
    EXPECT_NE(find_reason(redirected.verdict, DMABRIDGE_REASON_IO_IN_FLIGHT), nullptr)
        << describe(redirected.verdict);
  }
  fuse.abort();
  ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
  EXPECT_LT(result, 0);
  EXPECT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_SYSTEM));
  expect_whole();
}

// Who leaves is not refused: the buffer stays where it was.
TEST_F(Stolen, LeavingWithIoThatNeverEndsDoesNotWaitForIt) {
  SilentFuse fuse;
  const Bound bound = make_stolen(fuse.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  Hold held = hold(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(held.error, 0) << describe(held.verdict);
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0);
  ring_.submit();
  EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "the command reads nothing";

  std::future<void> left = std::async(std::launch::async, [&] { held.fd.reset(); });
  EXPECT_EQ(left.wait_for(patience(std::chrono::seconds(20))), std::future_status::ready)
      << "leaving waits for the I/O";
  EXPECT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_SYSTEM));
  fuse.abort();
  int result = 0;
  ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
  EXPECT_LT(result, 0);
  // Another one who leaves takes it home.
  left.wait();
  Hold again = hold(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(again.error, 0) << describe(again.verdict);
  again.fd.reset();
  EXPECT_TRUE(eventually([&] {
    return placement(bound.buffer.get()) == static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE);
  }));
}

TEST_F(Stolen, UnbindWithoutPinsFreesItAtOnce) {
  const Fd buffer = take(MiB);
  const Mapping mapping(buffer.get(), MiB);
  mapping.data()[0] = std::byte(1);
  ASSERT_EQ(unbind_function(function_), 0);
  EXPECT_THROW(stolen_region(), std::runtime_error);
  ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
}

}  // namespace
}  // namespace dmabridge::test

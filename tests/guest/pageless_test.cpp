// SPDX-License-Identifier: MIT
//
// A BAR without struct pages: importers that DMA reach it as ever, user space maps it, block I/O
// bounces and says so.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <future>
#include <vector>

#include "support/block_fixture.hpp"
#include "support/patience.hpp"
#include "support/pci_driver.hpp"
#include "support/silent_fuse.hpp"

namespace dmabridge::test {
namespace {

class Pageless : public BlockTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
    ASSERT_EQ(first_region().flags & DMABRIDGE_REGION_HAS_PAGES, 0U);
  }
  void TearDown() override {
    BlockTest::TearDown();
    parameter_.reset();
    EXPECT_EQ(bind_function(function_, "dmabridge_pci"), 0);
    EXPECT_NE(first_region().flags & DMABRIDGE_REGION_HAS_PAGES, 0U);
  }

  const std::string function_ = pci_address(first_region().device);
  std::unique_ptr<PciParameter> parameter_ = std::make_unique<PciParameter>("no_pages", function_);
  const Drive raw_ = drive("SAMESW");
};

TEST_F(Pageless, ThereAreNoPages) {
  EXPECT_NE(access(fmt::format("/sys/bus/pci/devices/{}/p2pmem", function_).c_str(), F_OK), 0);
  EXPECT_EQ(first_region().kind, static_cast<unsigned>(DMABRIDGE_REGION_BAR));
}

TEST_F(Pageless, WhatTheCpuWritesIsBehindTheBar) {
  const Fd buffer = allocate(2 * MiB);
  const Mapping mapping(buffer.get(), 2 * MiB);
  fill_pattern(mapping.data(), mapping.size(), 0x31, 0);
  const auto bytes = host_bytes(buffer.get(), 0, 2 * MiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x31, 0), "");
  EXPECT_EQ(pattern_difference(mapping.data(), mapping.size(), 0x31, 0), "");
}

TEST_F(Pageless, NobodyCanPinAMapping) {
  const Fd buffer = allocate(MiB);
  const Mapping mapping(buffer.get(), MiB);
  const Fd file = open_file(raw_.path(), O_RDONLY | O_DIRECT);
  // The kernel's word for "present, but no page"; one that is not present yet is EFAULT.
  mapping.data()[0] = std::byte(1);
  EXPECT_EQ(pread(file.get(), mapping.data(), MiB, 0), -1);
  EXPECT_EQ(errno, EEXIST);
}

TEST_F(Pageless, BlockIoBouncesAndSaysWhy) {
  const Bound bound = make(raw_.path(), 4 * MiB, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_BOUNCE));
  EXPECT_NE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_NO_PAGES), nullptr)
      << describe(bound.binding.verdict);
  // Odd ends, more than one piece.
  ASSERT_EQ(load(bound, 3 * MiB + 512, MiB, 4096), static_cast<int>(3 * MiB + 512));
  EXPECT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
  EXPECT_EQ(difference(bound, 3 * MiB + 512, 0xa0, MiB, 4096), "");
  expect_only(bound, DMABRIDGE_ROUTE_BOUNCE, 3 * MiB + 512);
}

TEST_F(Pageless, AFarDriveBouncesAsWell) {
  const Bound bound = make(drive("OTHERRP").path(), MiB, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_BOUNCE));
  ASSERT_EQ(load(bound, MiB), static_cast<int>(MiB));
  EXPECT_EQ(difference(bound, MiB, 0xa1), "");
}

TEST_F(Pageless, RequireIsRefusedWithTheReason) {
  const Bound bound = make(raw_.path(), MiB, DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(bound.binding.error, -EOPNOTSUPP);
  EXPECT_NE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_NO_PAGES), nullptr);
}

TEST_F(Pageless, ForbidMovesTheBytesToSystemMemory) {
  const Fd buffer = allocate(2 * MiB);
  const Mapping mapping(buffer.get(), 2 * MiB);
  fill_pattern(mapping.data(), mapping.size(), 0x32, 0);
  const Fd target = open_file(raw_.path(), O_RDWR);
  const Binding binding = bind(buffer.get(), target.get(), DMABRIDGE_POLICY_FORBID);
  ASSERT_EQ(binding.error, 0) << describe(binding.verdict);
  EXPECT_EQ(binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_SYSTEM));
  EXPECT_EQ(placement(buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_SYSTEM));
  // The same mapping, now of the other memory.
  EXPECT_EQ(pattern_difference(mapping.data(), mapping.size(), 0x32, 0), "");
  mapping.data()[4096] = std::byte(0xee);
  ASSERT_EQ(ring_.transfer(binding.fd.get(), DMABRIDGE_URING_READ, 0, 4096, 0), 4096);
  EXPECT_EQ(pattern_difference(mapping.data(), 4096, 0xa0, 0), "");
  EXPECT_EQ(mapping.data()[4096], std::byte(0xee));
}

TEST_F(Pageless, ABindingFollowsTheBufferToSystemMemoryAndBack) {
  const Bound bound = make(raw_.path(), MiB, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  // It needs no memory in particular, and so keeps the buffer nowhere.
  ASSERT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  ASSERT_EQ(load(bound, MiB, MiB), static_cast<int>(MiB));
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, MiB);
  ASSERT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(difference(bound, MiB, 0xa0, MiB), "");
  ASSERT_EQ(load(bound, MiB, 0), static_cast<int>(MiB));
  EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_BOUNCE), MiB);
  EXPECT_EQ(difference(bound, MiB, 0xa0), "");
}

TEST_F(Pageless, FilesAreReadToTheirEndAndWritten) {
  const Drive ext4 = drive("SAMESW", "ext4");
  const Mount mount(ext4.path(), "ext4");
  const std::string path = mount.file("pageless");
  constexpr std::uint64_t size = MiB + 700;
  make_pattern_file(path, size, 0x33);
  {
    const Bound bound =
        make(path, 2 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(load(bound, 2 * MiB), static_cast<int>(size));
    EXPECT_EQ(difference(bound, size, 0x33), "");
    expect_only(bound, DMABRIDGE_ROUTE_BOUNCE, size);
    // Behind its end, from the device.
    ASSERT_EQ(save(bound, MiB, 4 * MiB), static_cast<int>(MiB));
  }
  const auto written = read_file(path, 4 * MiB, MiB);
  ASSERT_EQ(written.size(), MiB);
  EXPECT_EQ(pattern_difference(written.data(), written.size(), 0x33, 0), "");
  unlink(path.c_str());
}

TEST_F(Pageless, RawDevicesAreWritten) {
  const Drive target = drive("OTHERRP");
  const std::uint64_t at = target.size - MiB;
  const auto before = read_file(target.path(), at, MiB);
  {
    const Bound bound = make(target.path(), MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    const Mapping mapping(bound.buffer.get(), MiB);
    fill_pattern(mapping.data(), MiB, 0x34, 0);
    ASSERT_EQ(save(bound, MiB, at), static_cast<int>(MiB));
    expect_only(bound, DMABRIDGE_ROUTE_BOUNCE, MiB);
    const auto host = host_read(target.image(), at, MiB);
    EXPECT_EQ(pattern_difference(host.data(), host.size(), 0x34, 0), "");
  }
  const Fd file = open_file(target.path(), O_WRONLY);
  EXPECT_EQ(pwrite(file.get(), before.data(), MiB, static_cast<off_t>(at)),
            static_cast<ssize_t>(MiB));
  EXPECT_EQ(fsync(file.get()), 0);
}

TEST_F(Pageless, SeveralChunksAreOneBuffer) {
  const std::uint64_t unit = MiB, size = first_region().size;
  std::vector<Fd> fill;
  for (std::uint64_t at = 0; at < size; at += unit) fill.push_back(allocate(unit));
  for (std::size_t i = 0; i < 16; i += 2) fill[i].reset();
  const Bound bound = make(raw_.path(), 8 * unit, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(query(bound.buffer.get()).chunks.size(), 8U);
  ASSERT_EQ(load(bound, 8 * unit), static_cast<int>(8 * unit));
  EXPECT_EQ(difference(bound, 8 * unit, 0xa0), "");
  const Mapping mapping(bound.buffer.get(), 8 * unit);
  EXPECT_EQ(pattern_difference(mapping.data(), mapping.size(), 0xa0, 0), "");
  ASSERT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(pattern_difference(mapping.data(), mapping.size(), 0xa0, 0), "");
}

TEST_F(Pageless, FullMeansFull) {
  const std::uint64_t size = first_region().size;
  const Fd all = allocate(size);
  EXPECT_EQ(first_region().available, 0U);
  EXPECT_THROW(allocate(4096), std::system_error);
}

TEST_F(Pageless, MemoryOfAFormerOwnerIsCleared) {
  // All of the region, so that it is the same memory; written where it is looked at.
  const std::uint64_t size = first_region().size;
  const std::vector<std::uint64_t> places{0, size / 2, size - MiB};
  {
    const Fd buffer = allocate(size);
    const Mapping mapping(buffer.get(), size);
    for (const std::uint64_t at : places) std::memset(mapping.data() + at, 0x5a, MiB);
  }
  const Fd buffer = allocate(size);
  for (const std::uint64_t at : places) {
    const auto bytes = host_bytes(buffer.get(), at, MiB);
    EXPECT_EQ(std::ranges::count(bytes, std::byte(0)), static_cast<std::ptrdiff_t>(MiB)) << at;
  }
}

// The device is needed for the copies alone.
TEST_F(Pageless, NobodyWaitsForAFileThatNeverAnswers) {
  SilentFuse fuse;
  const Bound bound = make(fuse.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_BOUNCE));
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0);
  ring_.submit();
  EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "the command reads nothing";

  std::future<int> ended = std::async(std::launch::async, [&] {
    const int moved = move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
    return moved != 0 ? moved : unbind_function(function_);
  });
  EXPECT_EQ(ended.wait_for(patience(std::chrono::seconds(5))), std::future_status::ready)
      << "moving or unbinding waits for the I/O";
  fuse.abort();
  EXPECT_EQ(ended.get(), 0);
  int result = 0;
  ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
  EXPECT_LT(result, 0);
  ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
}

// What was read while the buffer moved gets to where it is by then.
TEST_F(Pageless, MovesBetweenThePiecesOfACommand) {
  const Bound bound = make(raw_.path(), 8 * MiB, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  for (int round = 0; round < 4; round++) {
    ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 8 * MiB, 0);
    ring_.submit();
    int result = 0;
    for (std::uint32_t to = DMABRIDGE_PLACEMENT_SYSTEM; !ring_.wait_for(0, &result);
         to = DMABRIDGE_PLACEMENT_SYSTEM + DMABRIDGE_PLACEMENT_DEVICE - to)
      ASSERT_EQ(move(bound.buffer.get(), to), 0);
    ASSERT_EQ(result, static_cast<int>(8 * MiB));
    EXPECT_EQ(difference(bound, 8 * MiB, 0xa0), "");
  }
}

TEST_F(Pageless, AMappingDiesWithTheDevice) {
  const Fd buffer = allocate(MiB);
  const Mapping mapping(buffer.get(), MiB);
  mapping.data()[0] = std::byte(1);
  ASSERT_EQ(unbind_function(function_), 0);
  const pid_t child = fork();
  if (child == 0) {
    mapping.data()[0] = std::byte(2);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  EXPECT_EQ(query(buffer.get()).head.placement, static_cast<unsigned>(DMABRIDGE_PLACEMENT_NONE));
  ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
}

}  // namespace
}  // namespace dmabridge::test

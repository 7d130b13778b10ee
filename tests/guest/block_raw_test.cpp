// SPDX-License-Identifier: MIT
//
// Bindings of raw block devices.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "machine.hpp"
#include "support/block_fixture.hpp"

namespace dmabridge::test {
namespace {

using oracle::Operation;

class RawDrive : public BlockTest {
 protected:
  const Drive raw_ = drive("SAMESW");
  const Drive other_ = drive("OTHERRP");
  const Drive virtio_ = drive("VIRTIO");
};

// Of a drive that a binding may have claimed a moment ago: the claim ends soon after. Nothing: it
// does not.
std::unique_ptr<Mount> mount_when_free(const Drive& ext4) {
  std::unique_ptr<Mount> mount;
  eventually([&] {
    try {
      mount = std::make_unique<Mount>(ext4.path(), "ext4");
      return true;
    } catch (const std::system_error&) {
      return false;
    }
  });
  return mount;
}

// A loop device, gone at the end.
class Loop {
 public:
  // options: of losetup. Throws std::runtime_error.
  Loop(const std::string& options, const std::string& file) {
    const Output made =
        shell(fmt::format("modprobe loop && losetup --find --show {} {}", options, file));
    if (made.status != 0) throw std::runtime_error("losetup: " + made.text);
    path_ = made.text.substr(0, made.text.find('\n'));
  }
  ~Loop() {
    const Output output = shell("losetup -d " + path_);
    EXPECT_EQ(output.status, 0) << output.text;
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// --- P2P
// ----------------------------------------------------------------------------------------------

TEST_F(RawDrive, LoadIsP2pAndTheTraceAgrees) {
  const Bound bound =
      make(raw_.path(), 16 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  EXPECT_EQ(bound.binding.verdict.policy, DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(bound.binding.verdict.nr_reasons, 0u) << describe(bound.binding.verdict);
  EXPECT_GE(bound.binding.verdict.distance, 0);
  TraceWatch watch;
  ASSERT_EQ(load(bound, 16 * MiB, 32 * MiB), static_cast<std::int64_t>(16 * MiB));
  EXPECT_EQ(difference(bound, 16 * MiB, 0xa0, 32 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, 16 * MiB);
  const auto account = watch.account(raw_, Operation::read, {{32 * MiB, 16 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 16 * MiB);
  EXPECT_EQ(account.payload.outside, 0u);
  EXPECT_EQ(account.payload.unmapped, 0u);
  const std::uint64_t most =
      KiB *
      std::stoull(oracle::read_line(fmt::format("/sys/block/{}/queue/max_sectors_kb", raw_.disk)));
  EXPECT_EQ(account.payload.commands, 16 * MiB / std::min(1 * MiB, most))
      << "neither merged, nor split more than the drive demands";
}

TEST_F(RawDrive, SaveIsP2pAndTheDriveHasTheBytes) {
  const Bound bound = make(raw_.path(), 4 * MiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  {
    const Mapping mapping(bound.buffer.get(), 4 * MiB);
    fill_pattern(mapping.data(), 4 * MiB, 0x31, 0);
  }
  TraceWatch watch;
  ASSERT_EQ(save(bound, 4 * MiB, 100 * MiB), static_cast<std::int64_t>(4 * MiB));
  const auto account = watch.account(raw_, Operation::write, {{100 * MiB, 4 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 4 * MiB);
  EXPECT_EQ(account.payload.outside, 0u);
  const auto image = host_read(raw_.image(), 100 * MiB, 4 * MiB);
  EXPECT_EQ(pattern_difference(image.data(), image.size(), 0x31, 0), "");

  // As it was, for the next test.
  ASSERT_EQ(load(bound, 4 * MiB, 100 * MiB), static_cast<std::int64_t>(4 * MiB));
  const Mapping mapping(bound.buffer.get(), 4 * MiB);
  fill_pattern(mapping.data(), 4 * MiB, 0xa0, 100 * MiB);
  ASSERT_EQ(save(bound, 4 * MiB, 100 * MiB), static_cast<std::int64_t>(4 * MiB));
}

TEST_F(RawDrive, LoadsWithoutODirect) {
  const Bound bound =
      make(raw_.path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, 1 * MiB);
}

// Every alignment that the kernel allows, at random places; nothing beside the range changes.
TEST_F(RawDrive, RandomRangesLandWhereTheyShould) {
  const std::uint64_t size = 4 * MiB;
  const Bound bound =
      make(raw_.path(), size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  const Mapping mapping(bound.buffer.get(), size);
  std::vector<std::byte> expected(size);
  fill_pattern(expected.data(), size, 0x77, 0);
  std::memcpy(mapping.data(), expected.data(), size);
  read_random_ranges(bound, raw_.size, 0xa0, 200, 3, expected);
  const auto bytes = host_bytes(bound.buffer.get(), 0, size);
  const auto [is, should] = std::ranges::mismatch(bytes, expected);
  EXPECT_EQ(is, bytes.end()) << "first difference at " << is - bytes.begin();
}

TEST_F(RawDrive, DeepQueueOfSmallCommands) {
  const Bound bound =
      make(raw_.path(), 4 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  TraceWatch watch;
  ASSERT_EQ(ring_.transfer_all(bound.fd(), DMABRIDGE_URING_READ, 0, 4 * MiB, 0, 4096, 64),
            static_cast<std::int64_t>(4 * MiB));
  EXPECT_EQ(difference(bound, 4 * MiB, 0xa0), "");
  const auto account = watch.account(raw_, Operation::read, {{0, 4 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 4 * MiB);
  EXPECT_EQ(account.payload.commands, 1024u);
}

TEST_F(RawDrive, OneCommandOfTheGreatestLength) {
  const Bound bound =
      make(raw_.path(), 64 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  const auto length =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(bound.info().max_length, 64 * MiB));
  ASSERT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, length, 0),
            static_cast<int>(length));
  EXPECT_EQ(difference(bound, length, 0xa0), "");
}

TEST_F(RawDrive, EndOfTheDevice) {
  const Bound bound = make(raw_.path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 64 * KiB, raw_.size - 8 * KiB),
            static_cast<int>(8 * KiB));
  EXPECT_EQ(difference(bound, 8 * KiB, 0xa0, raw_.size - 8 * KiB), "");
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, raw_.size), 0);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, raw_.size + 1 * MiB), 0);
  EXPECT_LT(ring_.transfer(bound.fd(), DMABRIDGE_URING_WRITE, 0, 4096, raw_.size), 0)
      << "nothing may be lost";
}

TEST_F(RawDrive, ManyBindingsOfOneBuffer) {
  const Fd buffer = allocate(8 * MiB);
  std::vector<Fd> targets;
  std::vector<Binding> bindings;
  for (int i = 0; i < 8; i++) {
    targets.push_back(open_file(raw_.path(), O_RDONLY));
    bindings.push_back(bind(buffer.get(), targets.back().get()));
    ASSERT_EQ(bindings.back().error, 0);
    ring_.prepare(bindings.back().fd.get(), DMABRIDGE_URING_READ,
                  static_cast<std::uint64_t>(i) * MiB, 1 * MiB,
                  static_cast<std::uint64_t>(i) * MiB);
  }
  const Query found = query(buffer.get());
  EXPECT_EQ(found.users.size(), 8u);
  for (const auto& user : found.users) {
    EXPECT_EQ(user.kind, DMABRIDGE_USER_BINDING);
    EXPECT_TRUE(user.flags & DMABRIDGE_USER_P2P);
    EXPECT_EQ(std::string(user.name), raw_.disk);
  }
  ring_.submit();
  for (int i = 0; i < 8; i++) EXPECT_EQ(ring_.wait(), static_cast<int>(1 * MiB));
  const auto bytes = host_bytes(buffer.get(), 0, 8 * MiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0xa0, 0), "");
}

TEST_F(RawDrive, BindingIsEnoughToKeepItsFilesAlive) {
  Bound bound = make(raw_.path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  bound.target.reset();
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(difference(bound, 1 * MiB, 0xa0), "");
  bound.buffer.reset();
  EXPECT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
}

// --- redirect and refusal
// -------------------------------------------------------------------------------

TEST_F(RawDrive, UnreachableDriveIsRefusedWithTheReason) {
  const Bound bound = make(other_.path(), 1 * MiB);
  EXPECT_EQ(bound.binding.error, -EOPNOTSUPP);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_NONE);
  const dmabridge_reason* reason =
      find_reason(bound.binding.verdict, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED);
  ASSERT_TRUE(reason) << describe(bound.binding.verdict);
  EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_HAS_DEVICE);
  EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_BLOCKS_P2P);
  EXPECT_EQ(reason->value >> 16, 0x8086u);
  EXPECT_EQ(placement(bound.buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
}

TEST_F(RawDrive, UnreachableDriveIsRedirectedAndAllAgree) {
  Bound bound =
      make(other_.path(), 4 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED))
      << describe(bound.binding.verdict);
  const Query found = query(bound.buffer.get());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(found.users.size(), 1u);
  EXPECT_TRUE(found.users[0].flags & DMABRIDGE_USER_NEEDS_SYSTEM);
  EXPECT_FALSE(found.users[0].flags & DMABRIDGE_USER_P2P);
  TraceWatch watch;
  ASSERT_EQ(load(bound, 4 * MiB, 8 * MiB), static_cast<std::int64_t>(4 * MiB));
  EXPECT_EQ(difference(bound, 4 * MiB, 0xa1, 8 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 4 * MiB);
  const auto account = watch.account(other_, Operation::read, {{8 * MiB, 4 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 0u);
  EXPECT_EQ(account.payload.outside, 4 * MiB);
  // Home again, with the bytes, when the binding goes.
  bound.binding.fd.reset();
  EXPECT_TRUE(
      eventually([&] { return placement(bound.buffer.get()) == DMABRIDGE_PLACEMENT_DEVICE; }));
  EXPECT_EQ(difference(bound, 4 * MiB, 0xa1, 8 * MiB), "");
}

TEST_F(RawDrive, OneUnreachableImporterDemotesTheOtherAndIsNamed) {
  const Fd buffer = allocate(2 * MiB);
  const Fd far = open_file(other_.path(), O_RDONLY), near = open_file(raw_.path(), O_RDONLY);
  Binding far_binding = bind(buffer.get(), far.get(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(far_binding.error, 0);
  const Binding refused = bind(buffer.get(), near.get(), DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(refused.error, -EOPNOTSUPP);
  const dmabridge_reason* reason = find_reason(refused.verdict, DMABRIDGE_REASON_DEMOTED);
  ASSERT_TRUE(reason) << describe(refused.verdict);
  EXPECT_EQ(std::string(reason->name), other_.disk);
  const Binding near_binding = bind(buffer.get(), near.get(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(near_binding.error, 0);
  EXPECT_EQ(near_binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(near_binding.verdict, DMABRIDGE_REASON_DEMOTED))
      << describe(near_binding.verdict);
  // Once the far one is gone, the same binding goes P2P: it follows the buffer.
  EXPECT_EQ(ring_.transfer(near_binding.fd.get(), DMABRIDGE_URING_READ, 0, 1 * MiB, 0),
            static_cast<int>(1 * MiB));
  far_binding.fd.reset();
  ASSERT_TRUE(eventually([&] { return placement(buffer.get()) == DMABRIDGE_PLACEMENT_DEVICE; }));
  EXPECT_EQ(ring_.transfer(near_binding.fd.get(), DMABRIDGE_URING_READ, 1 * MiB, 1 * MiB, 1 * MiB),
            static_cast<int>(1 * MiB));
  const auto info = binding_info(near_binding.fd.get());
  EXPECT_EQ(info.routes[DMABRIDGE_ROUTE_SYSTEM].bytes, 1 * MiB);
  EXPECT_EQ(info.routes[DMABRIDGE_ROUTE_P2P_BUS].bytes, 1 * MiB);
  const auto bytes = host_bytes(buffer.get(), 0, 2 * MiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0xa0, 0), "");
}

TEST_F(RawDrive, RequireKeepsTheBufferOnItsDevice) {
  const Bound bound =
      make(raw_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  const Fd far = open_file(other_.path(), O_RDONLY);
  const Binding refused = bind(bound.buffer.get(), far.get(), DMABRIDGE_POLICY_PREFER);
  EXPECT_EQ(refused.error, -EBUSY);
  EXPECT_TRUE(find_reason(refused.verdict, DMABRIDGE_REASON_HELD)) << describe(refused.verdict);
  EXPECT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), -EBUSY);
}

TEST_F(RawDrive, ForbidNeverGoesP2p) {
  const Bound bound =
      make(raw_.path(), 1 * MiB, DMABRIDGE_POLICY_FORBID, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_POLICY_FORBID))
      << describe(bound.binding.verdict);
  TraceWatch watch;
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 1 * MiB);
  EXPECT_EQ(watch.account(raw_, Operation::read, {{0, 1 * MiB, 0}}).payload.inside, 0u);
  EXPECT_EQ(difference(bound, 1 * MiB, 0xa0), "");
}

TEST_F(RawDrive, PoliciesThatConflictAreRefused) {
  const Fd require = allocate(4096, DMABRIDGE_POLICY_REQUIRE),
           forbid = allocate(4096, DMABRIDGE_POLICY_FORBID);
  const Fd target = open_file(raw_.path(), O_RDONLY);
  for (const Binding& binding : {bind(require.get(), target.get(), DMABRIDGE_POLICY_FORBID),
                                 bind(forbid.get(), target.get(), DMABRIDGE_POLICY_REQUIRE)}) {
    EXPECT_EQ(binding.error, -EOPNOTSUPP);
    EXPECT_EQ(binding.verdict.policy, 0u);
    EXPECT_TRUE(find_reason(binding.verdict, DMABRIDGE_REASON_POLICY_CONFLICT))
        << describe(binding.verdict);
  }
}

TEST_F(RawDrive, QueueWithoutP2pIsRefusedWithTheReason) {
  const Bound bound =
      make(virtio_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  EXPECT_EQ(bound.binding.error, -EOPNOTSUPP);
  const dmabridge_reason* reason =
      find_reason(bound.binding.verdict, DMABRIDGE_REASON_QUEUE_NO_P2P);
  ASSERT_TRUE(reason) << describe(bound.binding.verdict);
  EXPECT_EQ(std::string(reason->name), virtio_.disk);
}

TEST_F(RawDrive, QueueWithoutP2pIsRedirected) {
  const Bound bound =
      make(virtio_.path(), 2 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_QUEUE_NO_P2P))
      << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, 2 * MiB, 1 * MiB), static_cast<std::int64_t>(2 * MiB));
  EXPECT_EQ(difference(bound, 2 * MiB, 0xa2, 1 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 2 * MiB);
}

// A loop device's own queue tells nothing about the drive behind it.
TEST_F(RawDrive, StackedDeviceIsNeverP2p) {
  const Loop loop("--direct-io=on", raw_.path());
  const Bound refused =
      make(loop.path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  EXPECT_LT(refused.binding.error, 0);
  EXPECT_GT(refused.binding.verdict.nr_reasons, 0u);
  const Bound bound =
      make(loop.path(), 1 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  if (bound.binding.error == 0) {
    ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
    EXPECT_EQ(difference(bound, 1 * MiB, 0xa0), "");
    EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 0u);
  } else {
    EXPECT_GT(bound.binding.verdict.nr_reasons, 0u) << "refused without a reason";
  }
}

// What is left there is no block: no request can be made of it, and none must be tried for ever.
TEST_F(RawDrive, DeviceThatEndsInsideABlock) {
  const Mount tmpfs("tmpfs", "tmpfs");
  const std::string path = tmpfs.file("odd");
  make_pattern_file(path, 1 * MiB + 512, 0x46);
  const Loop loop("--sector-size 4096 --direct-io=off", path);
  const Bound bound =
      make(loop.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  std::uint64_t size = 0;
  ASSERT_EQ(ioctl(bound.target.get(), BLKGETSIZE64, &size), 0);
  ASSERT_EQ(size, 1 * MiB + 512);
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 1 * MiB);
  ring_.submit();
  int result = 0;
  ASSERT_TRUE(ring_.wait_for(5000, &result)) << "it hangs";
  EXPECT_EQ(result, -EINVAL);
  EXPECT_EQ(load(bound, 64 * KiB, 1 * MiB - 64 * KiB), static_cast<std::int64_t>(64 * KiB));
  EXPECT_EQ(difference(bound, 64 * KiB, 0x46, 1 * MiB - 64 * KiB), "");
}

// --- the page cache
// -------------------------------------------------------------------------------------

TEST_F(RawDrive, DirtyPageIsSeenByAP2pRead) {
  const std::uint64_t at = 120 * MiB;
  const Fd cached = open_file(raw_.path(), O_RDWR);
  std::vector<std::byte> page(4096), original(4096);
  fill_pattern(original.data(), original.size(), 0xa0, at);
  fill_pattern(page.data(), page.size(), 0x44, 0);
  ASSERT_EQ(pwrite(cached.get(), page.data(), page.size(), static_cast<off_t>(at)), 4096);
  const Bound bound =
      make(raw_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(load(bound, 64 * KiB, at - 16 * KiB), static_cast<std::int64_t>(64 * KiB));
  EXPECT_EQ(difference(bound, 4096, 0x44, 0, 16 * KiB), "");
  EXPECT_EQ(difference(bound, 16 * KiB, 0xa0, at - 16 * KiB), "");
  ASSERT_EQ(pwrite(cached.get(), original.data(), original.size(), static_cast<off_t>(at)), 4096);
  ASSERT_EQ(fsync(cached.get()), 0);
}

TEST_F(RawDrive, P2pWriteReplacesACachedPage) {
  const std::uint64_t at = 130 * MiB;
  EXPECT_EQ(read_file(raw_.path(), at, 8192).size(), 8192u);  // now cached
  const Bound bound = make(raw_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const Mapping mapping(bound.buffer.get(), 64 * KiB);
  fill_pattern(mapping.data(), 8192, 0x45, 0);
  ASSERT_EQ(save(bound, 8192, at), 8192);
  const auto bytes = read_file(raw_.path(), at, 8192);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x45, 0), "")
      << "a buffered read gets stale bytes";
  fill_pattern(mapping.data(), 8192, 0xa0, at);
  ASSERT_EQ(save(bound, 8192, at), 8192);
}

// --- who may write
// ------------------------------------------------------------------------------------------

TEST_F(RawDrive, WriteToAMountedDeviceIsRefused) {
  const Drive ext4 = drive("SAMESW", "ext4");
  const auto mount = mount_when_free(ext4);
  ASSERT_TRUE(mount);
  const Bound bound = make(ext4.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE);
  EXPECT_EQ(bound.binding.error, -EBUSY);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_TARGET_BUSY))
      << describe(bound.binding.verdict);
  const Bound reading =
      make(ext4.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  EXPECT_EQ(reading.binding.error, 0) << describe(reading.binding.verdict);
}

TEST_F(RawDrive, DeviceIsClaimedWhileItCanBeWritten) {
  const Drive ext4 = drive("SAMESW", "ext4");
  {
    const Bound bound = make(ext4.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_THROW(Mount(ext4.path(), "ext4"), std::system_error);
    EXPECT_LT(open(ext4.path().c_str(), O_RDONLY | O_EXCL | O_CLOEXEC), 0);
  }
  EXPECT_TRUE(mount_when_free(ext4)) << "the claim goes with the binding";
}

TEST_F(RawDrive, ReadOnlyDeviceIsReadButNotWritten) {
  ASSERT_EQ(shell("blockdev --setro " + virtio_.path()).status, 0);
  {
    const Bound writing =
        make(virtio_.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE, O_RDONLY);
    EXPECT_LT(writing.binding.error, 0);
    EXPECT_TRUE(find_reason(writing.binding.verdict, DMABRIDGE_REASON_TARGET_READ_ONLY) ||
                find_reason(writing.binding.verdict, DMABRIDGE_REASON_TARGET_NOT_READABLE))
        << describe(writing.binding.verdict);
    const Bound reading =
        make(virtio_.path(), 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
    EXPECT_EQ(reading.binding.error, 0);
  }
  EXPECT_EQ(shell("blockdev --setrw " + virtio_.path()).status, 0);
}

// It becomes read-only only after the bind.
TEST_F(RawDrive, DeviceThatBecomesReadOnlyIsNotWritten) {
  const Bound bound = make(raw_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(shell("blockdev --setro " + raw_.path()).status, 0);
  TraceWatch watch;
  EXPECT_LT(save(bound, 4096, 140 * MiB), 0);
  EXPECT_EQ(watch.account(raw_, Operation::write, {{0, raw_.size, 0}}).payload.commands, 0u);
  EXPECT_EQ(bound.bytes_on_all(), 0u);
  EXPECT_EQ(shell("blockdev --setrw " + raw_.path()).status, 0);
}

TEST_F(RawDrive, AccessOfTheFdCounts) {
  const Bound writing =
      make(raw_.path(), 4096, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE, O_RDONLY);
  EXPECT_LT(writing.binding.error, 0);
  EXPECT_TRUE(find_reason(writing.binding.verdict, DMABRIDGE_REASON_TARGET_NOT_READABLE))
      << describe(writing.binding.verdict);
  const Bound reading =
      make(raw_.path(), 4096, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_WRONLY);
  EXPECT_LT(reading.binding.error, 0);
  const dmabridge_reason* reason =
      find_reason(reading.binding.verdict, DMABRIDGE_REASON_TARGET_NOT_READABLE);
  ASSERT_TRUE(reason) << describe(reading.binding.verdict);
  EXPECT_EQ(reason->value, DMABRIDGE_BIND_READ);
}

// --- fences
// -----------------------------------------------------------------------------------------------------

TEST_F(RawDrive, CommandWaitsForAFence) {
  Vgem vgem;
  const Bound bound =
      make(raw_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  const Fd source = vgem.export_new(4096);
  const std::uint32_t fence = vgem.attach_fence(source.get());
  copy_fences(source.get(), bound.buffer.get());
  TraceWatch watch;
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 64 * KiB, 0);
  const auto start = std::chrono::steady_clock::now();
  ring_.submit();
  EXPECT_LT(std::chrono::steady_clock::now() - start, patience(std::chrono::seconds(2)))
      << "submitting must not wait for the fence";
  int result = 0;
  EXPECT_FALSE(ring_.wait_for(300, &result)) << "did not wait; result " << result;
  EXPECT_EQ(watch.account(raw_, Operation::read, {{0, 64 * KiB, 0}}).payload.commands, 0u)
      << "DMA before the fence";
  vgem.signal_fence(fence);
  ASSERT_TRUE(ring_.wait_for(5000, &result));
  EXPECT_EQ(result, static_cast<int>(64 * KiB));
  EXPECT_EQ(difference(bound, 64 * KiB, 0xa0), "");
}

TEST_F(RawDrive, ExitWhileACommandWaitsForAFence) {
  Vgem vgem;
  const Bound bound =
      make(raw_.path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  const Fd source = vgem.export_new(4096);
  const std::uint32_t fence = vgem.attach_fence(source.get());
  copy_fences(source.get(), bound.buffer.get());
  EXPECT_TRUE(dies_with_a_read_in_flight(bound.fd())) << "a killed process hangs";
  vgem.signal_fence(fence);
}

}  // namespace
}  // namespace dmabridge::test

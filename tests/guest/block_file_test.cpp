// SPDX-License-Identifier: MIT
//
// Bindings of files.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <future>
#include <initializer_list>
#include <memory>
#include <thread>

#include "support/block_fixture.hpp"
#include "support/patience.hpp"
#include "support/silent_fuse.hpp"

namespace dmabridge::test {
namespace {

using oracle::Operation;

bool all_zero(const std::vector<std::byte>& bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte(0); });
}

// On a file system of a drive that reaches the device.
class File : public BlockTest, public testing::WithParamInterface<const char*> {
 protected:
  File() { mount_ = std::make_unique<Mount>(drive_.path(), GetParam()); }

  void TearDown() override {
    for (const std::string& path : made_) unlink(path.c_str());
    mount_.reset();
    BlockTest::TearDown();
  }

  std::string pattern_file(std::uint64_t size, std::uint8_t tag = 0x61) {
    const std::string path = mount_->file(fmt::format("pattern-{}", made_.size()));
    make_pattern_file(path, size, tag);
    made_.push_back(path);
    return path;
  }

  std::vector<oracle::Extent> extents(const Bound& bound) {
    return oracle::extents_of(bound.target.get());
  }

  const Drive drive_ = drive("SAMESW", GetParam());
  std::unique_ptr<Mount> mount_;
  std::vector<std::string> made_;
};

INSTANTIATE_TEST_SUITE_P(Block, File, testing::Values("ext4", "xfs"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(File, LoadIsP2pAndTheTraceAgrees) {
  const std::uint64_t size = 8 * MiB;
  const Bound bound =
      make(pattern_file(size), size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  const auto places = extents(bound);
  TraceWatch watch;
  ASSERT_EQ(load(bound, size), static_cast<std::int64_t>(size));
  EXPECT_EQ(difference(bound, size, 0x61), "");
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, size);
  const auto account = watch.account(drive_, Operation::read, places);
  EXPECT_EQ(account.payload.inside, size);
  EXPECT_EQ(account.payload.outside, 0u);
  EXPECT_EQ(account.payload.unmapped, 0u);
  EXPECT_EQ(account.metadata.inside, 0u);
}

TEST_P(File, SaveIsP2pAndTheFileHasTheBytes) {
  const std::uint64_t size = 4 * MiB;
  const std::string path = pattern_file(size);
  const Bound bound =
      make(path, size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const Mapping mapping(bound.buffer.get(), size);
  fill_pattern(mapping.data(), size, 0x62, 0);
  const auto places = extents(bound);
  TraceWatch watch;
  ASSERT_EQ(save(bound, size), static_cast<std::int64_t>(size));
  ASSERT_EQ(fsync(bound.target.get()), 0);
  const auto account = watch.account(drive_, Operation::write, places);
  EXPECT_EQ(account.payload.inside, size);
  EXPECT_EQ(account.payload.outside, 0u);
  const auto image = host_read(drive_.image(), places.front().offset,
                               std::min<std::uint64_t>(places.front().length, 1 * MiB));
  EXPECT_EQ(pattern_difference(image.data(), image.size(), 0x62, 0), "");
  const auto bytes = read_file(path, 0, size);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x62, 0), "");
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, size);
}

// The file is dense, so that the part within the limit needs no waiting: what goes on with the rest
// is no task of the process, and knows none of its limits.
TEST_P(File, SaveStopsAtTheLimitOnFileSize) {
  const std::uint64_t size = 2 * MiB, limit = 1 * MiB;
  const std::string path = pattern_file(size);
  const Bound bound = make(path, size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_GE(bound.info().max_length, size);
  {
    const Mapping mapping(bound.buffer.get(), size);
    fill_pattern(mapping.data(), size, 0x69, 0);
  }
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const rlimit limits{limit, limit};
    if (signal(SIGXFSZ, SIG_IGN) == SIG_ERR || setrlimit(RLIMIT_FSIZE, &limits) != 0) _exit(2);
    Ring ring;
    std::array<int, 2> results{};
    results[0] = ring.transfer(bound.fd(), DMABRIDGE_URING_WRITE, 0, size, 0);
    results[1] = ring.transfer(bound.fd(), DMABRIDGE_URING_WRITE, limit, size - limit, limit);
    _exit(write(writer.get(), results.data(), sizeof(results)) == sizeof(results) ? 0 : 1);
  }
  writer.reset();
  std::array<int, 2> results{};
  const ssize_t got = read(reader.get(), results.data(), sizeof(results));
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_EQ(got, static_cast<ssize_t>(sizeof(results)));
  EXPECT_EQ(results[0], static_cast<int>(limit));
  EXPECT_EQ(results[1], -EFBIG);
  const auto bytes = read_file(path, 0, size);
  ASSERT_EQ(bytes.size(), size);
  EXPECT_EQ(pattern_difference(bytes.data(), limit, 0x69, 0), "");
  EXPECT_EQ(pattern_difference(bytes.data() + limit, size - limit, 0x61, limit), "")
      << "written beyond the limit";
}

TEST_P(File, SaveCanMakeAFileGrow) {
  const std::string path = mount_->file("grown");
  made_.push_back(path);
  const Bound bound =
      make(path, 1 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE, O_RDWR | O_CREAT);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const Mapping mapping(bound.buffer.get(), 1 * MiB);
  fill_pattern(mapping.data(), 1 * MiB, 0x63, 0);
  ASSERT_EQ(save(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  ASSERT_EQ(fsync(bound.target.get()), 0);
  const auto bytes = read_file(path, 0, 2 * MiB);
  ASSERT_EQ(bytes.size(), 1 * MiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x63, 0), "");
  EXPECT_EQ(bound.bytes_on_all(), 1 * MiB);
}

TEST_P(File, SizeThatIsNoMultipleOfABlock) {
  for (const std::uint64_t size :
       std::initializer_list<std::uint64_t>{1, 511, 513, 4095, 4097, 1 * MiB - 1, 1 * MiB + 777}) {
    const Bound bound =
        make(pattern_file(size), 2 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << size << ": " << describe(bound.binding.verdict);
    ASSERT_EQ(load(bound, 2 * MiB), static_cast<std::int64_t>(size))
        << "the result is the file's size, not the block's";
    EXPECT_EQ(difference(bound, size, 0x61), "") << size;
    EXPECT_EQ(bound.bytes_on_all(), size);
    EXPECT_EQ(
        ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, (size + 4095) / 4096 * 4096), 0)
        << "past its end";
  }
}

TEST_P(File, Empty) {
  const Bound bound =
      make(pattern_file(0), 64 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(load(bound, 64 * KiB), 0);
  EXPECT_EQ(bound.bytes_on_all(), 0u);
}

// What lies in a hole comes from the CPU: nobody may call that P2P.
TEST_P(File, HolesAreZeroAndNotCountedAsP2p) {
  const std::string path = mount_->file("holes");
  made_.push_back(path);
  {
    const Fd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
    std::vector<std::byte> piece(256 * KiB);
    fill_pattern(piece.data(), piece.size(), 0x64, 1 * MiB);
    ASSERT_EQ(pwrite(file.get(), piece.data(), piece.size(), 1 * MiB),
              static_cast<ssize_t>(piece.size()));
    ASSERT_EQ(ftruncate(file.get(), 3 * MiB), 0);
    ASSERT_EQ(fsync(file.get()), 0);
    drop_page_cache(file.get());
  }
  const Bound bound = make(path, 3 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  {
    const Mapping mapping(bound.buffer.get(), 3 * MiB);
    fill_pattern(mapping.data(), 3 * MiB, 0x11, 0);  // a hole has to overwrite it
  }
  const auto places = extents(bound);
  TraceWatch watch;
  ASSERT_EQ(load(bound, 3 * MiB), static_cast<std::int64_t>(3 * MiB));
  EXPECT_TRUE(all_zero(contents(bound, 0, 1 * MiB)));
  EXPECT_EQ(difference(bound, 256 * KiB, 0x64, 1 * MiB, 1 * MiB), "");
  EXPECT_TRUE(all_zero(contents(bound, 1 * MiB + 256 * KiB, 3 * MiB - 1 * MiB - 256 * KiB)));
  EXPECT_EQ(bound.bytes_on_all(), 3 * MiB);
  const auto moved = watch.account(drive_, Operation::read, places).payload.inside;
  EXPECT_LE(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), moved)
      << "reported as P2P, but no drive wrote it";
}

TEST_P(File, UnwrittenExtentsAreZero) {
  const std::string path = mount_->file("unwritten");
  made_.push_back(path);
  {
    const Fd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
    ASSERT_EQ(fallocate(file.get(), 0, 0, 1 * MiB), 0);
    ASSERT_EQ(fsync(file.get()), 0);
  }
  const Bound bound = make(path, 1 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  {
    const Mapping mapping(bound.buffer.get(), 1 * MiB);
    fill_pattern(mapping.data(), 1 * MiB, 0x11, 0);
  }
  TraceWatch watch;
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_TRUE(all_zero(contents(bound, 0, 1 * MiB)));
  EXPECT_EQ(watch.account(drive_, Operation::read, extents(bound)).payload.commands, 0u);
  EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 0u)
      << "reported as P2P, but no drive wrote it";
}

TEST_P(File, DirtyPageIsSeenByAP2pRead) {
  const std::uint64_t size = 1 * MiB;
  const std::string path = pattern_file(size);
  const Fd cached = open_file(path, O_RDWR);
  std::vector<std::byte> page(4096);
  fill_pattern(page.data(), page.size(), 0x65, 0);
  ASSERT_EQ(pwrite(cached.get(), page.data(), page.size(), 64 * KiB), 4096);
  const Bound bound = make(path, size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(load(bound, size), static_cast<std::int64_t>(size));
  EXPECT_EQ(difference(bound, 4096, 0x65, 0, 64 * KiB), "");
  EXPECT_EQ(difference(bound, 64 * KiB, 0x61), "");
}

TEST_P(File, P2pWriteReplacesACachedPage) {
  const std::uint64_t size = 1 * MiB;
  const std::string path = pattern_file(size);
  EXPECT_EQ(read_file(path, 0, size).size(), size);  // now cached
  const Bound bound = make(path, size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0);
  const Mapping mapping(bound.buffer.get(), size);
  fill_pattern(mapping.data(), size, 0x66, 0);
  ASSERT_EQ(save(bound, 64 * KiB, 128 * KiB, 128 * KiB), static_cast<std::int64_t>(64 * KiB));
  const auto bytes = read_file(path, 128 * KiB, 64 * KiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x66, 128 * KiB), "")
      << "a buffered read gets stale bytes";
}

TEST_P(File, MisalignedOffsetIsInvalid) {
  const Bound bound = make(pattern_file(64 * KiB), 64 * KiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 1), -EINVAL);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 1, 4096, 0), -EINVAL);
}

TEST_P(File, BufferSmallerThanTheFile) {
  const Bound bound = make(pattern_file(1 * MiB), 256 * KiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 1 * MiB, 0), -ERANGE);
  ASSERT_EQ(load(bound, 256 * KiB, 512 * KiB), static_cast<std::int64_t>(256 * KiB));
  EXPECT_EQ(difference(bound, 256 * KiB, 0x61, 512 * KiB), "");
}

// Whatever it returns, it returns no byte that is not the file's.
TEST_P(File, ThatShrinksWhileItIsRead) {
  const std::uint64_t size = 4 * MiB;
  const std::string path = pattern_file(size);
  const Bound bound = make(path, size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  std::atomic<bool> done{false};
  std::thread shrinker([&] {
    for (std::uint64_t now = size; now > 0 && !done; now -= 64 * KiB)
      static_cast<void>(truncate(path.c_str(), static_cast<off_t>(now)));
  });
  for (int round = 0; round < 4; round++) {
    for (std::uint64_t at = 0; at < size; at += 256 * KiB) {
      const int got = ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, at, 256 * KiB, at);
      ASSERT_GE(got, 0) << "at " << at;
      ASSERT_LE(got, static_cast<int>(256 * KiB));
      if (got > 0) {
        // Blocks past the new end read as zeros or not at all; up to it they are the file's.
        const auto bytes = contents(bound, at, static_cast<std::uint64_t>(got));
        const std::string wrong = pattern_difference(bytes.data(), bytes.size(), 0x61, at);
        if (!wrong.empty()) {
          struct stat status;
          ASSERT_EQ(fstat(bound.target.get(), &status), 0);
          EXPECT_LT(static_cast<std::uint64_t>(status.st_size),
                    at + static_cast<std::uint64_t>(got))
              << wrong;
        }
      }
    }
  }
  done = true;
  shrinker.join();
}

TEST_P(File, UnlinkedFileIsReadToTheEnd) {
  const std::string path = pattern_file(1 * MiB);
  const Bound bound = make(path, 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  unlink(path.c_str());
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(difference(bound, 1 * MiB, 0x61), "");
}

TEST_P(File, AppendOnlyReadOnlyMountAndAccess) {
  const std::string path = pattern_file(64 * KiB);
  const Bound reading =
      make(path, 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE, O_RDONLY);
  EXPECT_LT(reading.binding.error, 0);
  EXPECT_TRUE(find_reason(reading.binding.verdict, DMABRIDGE_REASON_TARGET_NOT_READABLE))
      << describe(reading.binding.verdict);
  const Bound writing =
      make(path, 64 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_WRONLY);
  EXPECT_LT(writing.binding.error, 0);
  EXPECT_TRUE(find_reason(writing.binding.verdict, DMABRIDGE_REASON_TARGET_NOT_READABLE))
      << describe(writing.binding.verdict);
}

TEST_P(File, UnmountIsRefusedWhileBound) {
  const Bound bound = make(pattern_file(64 * KiB), 64 * KiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_NE(shell("umount " + drive_.path()).status, 0);
}

// --- the other drive: redirect
// -------------------------------------------------------------------------------

class FarFile : public BlockTest {
 protected:
  const Drive drive_ = drive("OTHERRP", "ext4");
};

TEST_F(FarFile, IsRefusedOrRedirectedAndAllAgree) {
  const Mount mount(drive_.path(), "ext4");
  const std::string path = mount.file("far");
  const std::uint64_t size = 2 * MiB + 100;
  make_pattern_file(path, size, 0x71);
  {
    const Bound refused =
        make(path, 3 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    EXPECT_EQ(refused.binding.error, -EOPNOTSUPP);
    EXPECT_TRUE(find_reason(refused.binding.verdict, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED))
        << describe(refused.binding.verdict);

    const Bound bound = make(path, 3 * MiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
    TraceWatch watch;
    ASSERT_EQ(load(bound, 3 * MiB), static_cast<std::int64_t>(size));
    EXPECT_EQ(difference(bound, size, 0x71), "");
    EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 0u);
    EXPECT_EQ(bound.bytes_on_all(), size);
    const auto account =
        watch.account(drive_, Operation::read, oracle::extents_of(bound.target.get()));
    EXPECT_EQ(account.payload.inside, 0u);
    EXPECT_GE(account.payload.outside, size);
  }
  unlink(path.c_str());
}

// --- what is no file for P2P
// -------------------------------------------------------------------------------------

class OtherTarget : public BlockTest {};

TEST_F(OtherTarget, TmpfsIsNeverP2p) {
  make_pattern_file("/tmp/pattern", 300001, 0x72);
  const Bound refused =
      make("/tmp/pattern", 512 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  EXPECT_LT(refused.binding.error, 0);
  EXPECT_TRUE(find_reason(refused.binding.verdict, DMABRIDGE_REASON_FILESYSTEM_UNLISTED) ||
              find_reason(refused.binding.verdict, DMABRIDGE_REASON_TARGET_NOT_BLOCK))
      << describe(refused.binding.verdict);
  const Bound bound =
      make("/tmp/pattern", 512 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  if (bound.binding.error != 0) {
    EXPECT_GT(bound.binding.verdict.nr_reasons, 0u) << "refused without a reason";
  } else {
    EXPECT_NE(bound.binding.verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
    ASSERT_EQ(load(bound, 512 * KiB), 300001);
    EXPECT_EQ(difference(bound, 300001, 0x72), "");
    EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 0u);
    EXPECT_EQ(bound.bytes_on_all(), 300001u);
  }
  unlink("/tmp/pattern");
}

// The flag has an effect only without delayed allocation.
TEST_F(OtherTarget, FileWithDataJournalIsNotP2p) {
  const Drive ext4 = drive("SAMESW", "ext4");
  const Mount mount(ext4.path(), "ext4", "nodelalloc");
  const std::string path = mount.file("journalled");
  make_pattern_file(path, 256 * KiB, 0x73);
  {
    const Fd file = open_file(path, O_RDWR);
    journal_data(file.get());
    ASSERT_EQ(fsync(file.get()), 0);
    const Bound refused =
        make(path, 256 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    EXPECT_LT(refused.binding.error, 0);
    EXPECT_TRUE(find_reason(refused.binding.verdict, DMABRIDGE_REASON_FILE_NO_DIRECT_IO))
        << describe(refused.binding.verdict);
    const Bound bound =
        make(path, 256 * KiB, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
    if (bound.binding.error == 0) {
      ASSERT_EQ(load(bound, 256 * KiB), static_cast<std::int64_t>(256 * KiB));
      EXPECT_EQ(difference(bound, 256 * KiB, 0x73), "");
      EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 0u);
    }
  }
  unlink(path.c_str());
}

// It comes after the bind: the conditions are looked at again at each command.
TEST_F(OtherTarget, FileThatGetsADataJournalIsNotP2pAnyMore) {
  const Drive ext4 = drive("SAMESW", "ext4");
  const Mount mount(ext4.path(), "ext4", "nodelalloc");
  const std::string path = mount.file("journalled-later");
  make_pattern_file(path, 256 * KiB, 0x74);
  {
    const Bound bound =
        make(path, 256 * KiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDWR);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    journal_data(bound.target.get());
    EXPECT_LT(load(bound, 256 * KiB), 0);
    EXPECT_EQ(bound.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 0u);
  }
  unlink(path.c_str());
}

// Nor does peer-to-peer I/O always end: a file that grows is locked for as long as the memory that
// is written to it does not come.
TEST_F(OtherTarget, MoveWithAFileThatStaysLockedIsRefused) {
  constexpr std::uint64_t size = 64 * KiB;
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  const std::string path = mount.file("locked");
  make_pattern_file(path, size, 0x75);
  {
    SilentFuse fuse;
    const Bound bound = make(path, size, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    ASSERT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
    ASSERT_EQ(load(bound, size), static_cast<std::int64_t>(size));

    const Fd silent = open_file(fuse.path(), O_RDONLY), file = open_file(path, O_WRONLY | O_DIRECT);
    const Mapping source(silent.get(), 4096, 0, PROT_READ);
    std::future<ssize_t> written = std::async(
        std::launch::async, [&] { return pwrite(file.get(), source.data(), 4096, size); });
    EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "nobody writes";
    ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0);
    ring_.submit();
    int result = 0;
    EXPECT_FALSE(ring_.wait_for(500, &result)) << "the file is not locked; result " << result;

    dmabridge_verdict verdict{};
    std::future<int> moved = std::async(std::launch::async, [&] {
      return move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict);
    });
    const bool ended =
        moved.wait_for(patience(std::chrono::seconds(20))) == std::future_status::ready;
    EXPECT_TRUE(ended) << "the mover waits for the I/O";
    if (ended) {
      EXPECT_EQ(moved.get(), -EBUSY);
      EXPECT_NE(find_reason(verdict, DMABRIDGE_REASON_IO_IN_FLIGHT), nullptr) << describe(verdict);
      EXPECT_EQ(placement(bound.buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
      EXPECT_EQ(difference(bound, size, 0x75), "");
    }
    fuse.abort();
    EXPECT_EQ(written.get(), -1);
    ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
    EXPECT_EQ(result, 4096);
    EXPECT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
    EXPECT_EQ(difference(bound, size, 0x75), "");
  }
  unlink(path.c_str());
}

TEST_F(OtherTarget, WhatIsNoFileIsRefusedCleanly) {
  const Fd buffer = allocate(64 * KiB);
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const Fd reading(ends[0]), writing(ends[1]);
  const Fd folder = open_file("/tmp", O_RDONLY | O_DIRECTORY),
           null = open_file("/dev/null", O_RDWR), path = open_file("/etc/passwd", O_PATH);
  for (const int target : {reading.get(), folder.get(), null.get(), buffer.get(), control()}) {
    for (const std::uint32_t policy : {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_PREFER}) {
      const Binding binding = bind(buffer.get(), target, policy);
      EXPECT_LT(binding.error, 0);
      EXPECT_GT(binding.verdict.nr_reasons, 0u) << "refused without a reason";
    }
  }
  EXPECT_EQ(bind(buffer.get(), path.get()).error, -EBADF);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_DEVICE) << "a refused bind moves nothing";
}

}  // namespace
}  // namespace dmabridge::test

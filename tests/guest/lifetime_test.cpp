// SPDX-License-Identifier: MIT
//
// Ends that come at the wrong moment: killed processes, devices and modules that go away, rings and
// bindings closed in mid-flight. Nothing may leak, hang, or upset the kernel (tests/vm fails the
// run if it is upset).
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <future>
#include <memory>
#include <new>
#include <thread>

#include "support/block_fixture.hpp"
#include "support/kernel_log.hpp"
#include "support/silent_fuse.hpp"

namespace dmabridge::test {
namespace {

constexpr unsigned depth = load_depth;
constexpr std::uint32_t piece = load_piece;

class Lifetime : public BlockTest, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    const std::string fs = GetParam();
    drive_ = drive("SAMESW", fs == "raw" ? "" : fs);
    if (fs == "raw") {
      path_ = drive_.path();
      size_ = drive_.size;
    } else {
      mount_ = std::make_unique<Mount>(drive_.path(), fs);
      path_ = mount_->file("long");
      size_ = 8 * MiB;
      make_pattern_file(path_, size_, 0x21);
    }
  }
  void TearDown() override {
    if (mount_) unlink(path_.c_str());
    mount_.reset();
    if (regions().empty()) {
      EXPECT_EQ(write_text(driver_ + "/bind", address_), 0);
    }
    BlockTest::TearDown();
  }

  // A process that loads for ever. counter: shared memory.
  pid_t start_loader(std::atomic<unsigned>& counter, int* report_fd = nullptr) {
    std::array<int, 2> ends{-1, -1};
    if (report_fd != nullptr && pipe2(ends.data(), O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category(), "pipe2");
    const pid_t child = fork();
    if (child == 0) {
      Bound bound =
          make(path_, depth * piece, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
      if (bound.binding.error != 0) _exit(2);
      const int result = load_for_ever(bound.fd(), size_ / piece * piece, counter);
      if (report_fd != nullptr) static_cast<void>(write(ends[1], &result, sizeof(result)));
      _exit(1);
    }
    if (report_fd != nullptr) {
      close(ends[1]);
      *report_fd = ends[0];
    }
    return child;
  }

  static bool ends(pid_t child, int* status,
                   std::chrono::seconds limit = std::chrono::seconds(20)) {
    return eventually([&] { return waitpid(child, status, WNOHANG) == child; }, limit);
  }

  Drive drive_;
  std::unique_ptr<Mount> mount_;
  std::string path_;
  std::uint64_t size_ = 0;
  const std::string driver_ = "/sys/bus/pci/drivers/dmabridge_pci";
  const std::string address_ = pci_address(first_region().device);
  const Mapping shared_{open_file("/dev/zero", O_RDWR).get(), 4096};
  std::atomic<unsigned>& counter_ = *new (shared_.data()) std::atomic<unsigned>(0);
};

INSTANTIATE_TEST_SUITE_P(Block, Lifetime, testing::Values("raw", "ext4"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(Lifetime, KillInMidLoad) {
  for (int round = 0; round < 5; round++) {
    counter_ = 0;
    const pid_t child = start_loader(counter_);
    ASSERT_TRUE(eventually([&] { return counter_ > 20; })) << "it does not load";
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_TRUE(ends(child, &status)) << "a killed process hangs";
    EXPECT_TRUE(WIFSIGNALED(status));
  }
}

TEST_P(Lifetime, UnbindInMidLoad) {
  int report = -1;
  const pid_t child = start_loader(counter_, &report);
  const Fd reader(report);
  ASSERT_TRUE(eventually([&] { return counter_ > 20; })) << "it does not load";
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(write_text(driver_ + "/unbind", address_), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - start, patience(std::chrono::seconds(10)))
      << "unbinding waits for something";
  int status = 0;
  ASSERT_TRUE(ends(child, &status)) << "the loader hangs";
  int result = 0;
  ASSERT_EQ(read(reader.get(), &result, sizeof(result)), static_cast<ssize_t>(sizeof(result)));
  EXPECT_EQ(result, -ENODEV);
  ASSERT_EQ(write_text(driver_ + "/bind", address_), 0);
  // The new region works.
  ASSERT_TRUE(eventually([] { return access(region_node(first_region()).c_str(), W_OK) == 0; }));
  const Bound bound = make(path_, piece, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(load(bound, piece), static_cast<std::int64_t>(piece));
}

TEST_P(Lifetime, MoveInMidLoad) {
  const Bound bound =
      make(path_, depth * piece, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  std::atomic<bool> done{false};
  std::thread mover([&] {
    for (int i = 0; i < 20; i++) {
      EXPECT_EQ(move(bound.buffer.get(),
                     i % 2 == 0 ? DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_DEVICE),
                0);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    done = true;
  });
  std::uint64_t rounds = 0;
  while (!done) {
    ASSERT_EQ(ring_.transfer_all(bound.fd(), DMABRIDGE_URING_READ, 0, depth * piece,
                                 rounds % 4 * depth * piece, piece, depth),
              static_cast<std::int64_t>(depth * piece));
    rounds++;
  }
  mover.join();
  const std::uint64_t offset = (rounds - 1) % 4 * depth * piece;
  EXPECT_EQ(difference(bound, depth * piece, *GetParam() == 'r' ? 0xa0 : 0x21, offset), "");
  EXPECT_EQ(bound.bytes_on_all(), rounds * depth * piece);
}

TEST_P(Lifetime, BindingClosedWithCommandsInFlight) {
  for (int round = 0; round < 20; round++) {
    Bound bound =
        make(path_, depth * piece, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0);
    for (unsigned i = 0; i < depth; i++)
      ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, i * piece, piece, i * piece);
    ring_.submit();
    bound = Bound();
    for (unsigned i = 0; i < depth; i++)
      EXPECT_EQ(ring_.wait(), static_cast<int>(piece)) << "a command that was taken is carried out";
  }
}

TEST_P(Lifetime, RingClosedWithCommandsInFlight) {
  for (int round = 0; round < 20; round++) {
    const Bound bound =
        make(path_, depth * piece, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0);
    Ring ring(depth);
    for (unsigned i = 0; i < depth; i++)
      ring.prepare(bound.fd(), DMABRIDGE_URING_READ, i * piece, piece, i * piece);
    ring.submit();
  }
}

TEST_P(Lifetime, AHundredLoadsInARow) {
  for (int i = 0; i < 100; i++) {
    const Bound bound =
        make(path_, 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << "at " << i;
    ASSERT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 1 * MiB, 0),
              static_cast<int>(1 * MiB))
        << "at " << i;
  }
}

TEST_P(Lifetime, ManyProcessesAtOnce) {
  std::vector<pid_t> children;
  for (int i = 0; i < 4; i++) children.push_back(start_loader(counter_));
  EXPECT_TRUE(eventually([&] { return counter_ > 200; }));
  for (const pid_t child : children) EXPECT_EQ(kill(child, SIGKILL), 0);
  for (const pid_t child : children) {
    int status = 0;
    EXPECT_TRUE(ends(child, &status)) << "a killed process hangs";
  }
}

// --- files that stay locked
// -----------------------------------------------------------------------------

class Locked : public Lifetime {};

INSTANTIATE_TEST_SUITE_P(Block, Locked, testing::Values("ext4"),
                         [](const auto& test) { return std::string(test.param); });

// The DMA may come as soon as the file is free. A file that grows is locked for as long as the
// memory that is written to it does not come.
TEST_P(Locked, UnbindWaitsAndTheLogSaysForWhom) {
  SilentFuse fuse;
  const Bound bound = make(path_, piece, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const Fd silent = open_file(fuse.path(), O_RDONLY), file = open_file(path_, O_WRONLY | O_DIRECT);
  const Mapping source(silent.get(), 4096, 0, PROT_READ);
  std::future<ssize_t> written = std::async(std::launch::async, [&] {
    return pwrite(file.get(), source.data(), 4096, static_cast<off_t>(size_));
  });
  EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "nobody writes";
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, piece, 0);
  ring_.submit();
  int result = 0;
  EXPECT_FALSE(ring_.wait_for(500, &result)) << "the file is not locked; result " << result;

  const KernelLog log;
  std::future<int> unbound =
      std::async(std::launch::async, [&] { return write_text(driver_ + "/unbind", address_); });
  std::string line;
  EXPECT_TRUE(eventually(
      [&] {
        const auto found = log.find("dmabridge_pci " + address_ + ": still waiting");
        if (found) line = *found;
        return found.has_value();
      },
      std::chrono::seconds(20)))
      << "nothing tells why unbinding hangs";
  EXPECT_NE(line.find(drive_.disk), std::string::npos) << line;
  EXPECT_EQ(unbound.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  fuse.abort();
  EXPECT_EQ(written.get(), -1);
  EXPECT_EQ(unbound.get(), 0);
  ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
  EXPECT_EQ(result, static_cast<int>(piece)) << "what was waited for is carried out";
}

// --- frozen file systems
// -----------------------------------------------------------------------------

class Frozen : public Lifetime {
 protected:
  // Thawed whatever becomes of the test: nobody else does it, and an unmount waits for it.
  class Freeze {
   public:
    explicit Freeze(int file) : file_(file) {
      if (ioctl(file_, FIFREEZE, 0) != 0)
        throw std::system_error(errno, std::generic_category(), "FIFREEZE");
    }
    ~Freeze() {
      if (frozen_) {
        EXPECT_EQ(thaw(), 0);
      }
    }
    Freeze(const Freeze&) = delete;
    Freeze& operator=(const Freeze&) = delete;

    // 0 or -errno.
    int thaw() {
      frozen_ = false;
      return ioctl(file_, FITHAW, 0) != 0 ? -errno : 0;
    }

   private:
    int file_;
    bool frozen_ = true;
  };
};

INSTANTIATE_TEST_SUITE_P(Block, Frozen, testing::Values("ext4"),
                         [](const auto& test) { return std::string(test.param); });

// A thaw can be hours away: what waits for it must not hold the buffer.
TEST_P(Frozen, UnbindWhileAWriteWaits) {
  const Bound bound = make(path_, piece, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  Freeze freeze(bound.target.get());
  ring_.prepare(bound.fd(), DMABRIDGE_URING_WRITE, 0, piece, 0);
  ring_.submit();
  int result = 0;
  EXPECT_FALSE(ring_.wait_for(300, &result)) << "did not wait; result " << result;

  std::future<int> unbound =
      std::async(std::launch::async, [&] { return write_text(driver_ + "/unbind", address_); });
  EXPECT_EQ(unbound.wait_for(patience(std::chrono::seconds(5))), std::future_status::ready)
      << "unbinding waits for the thaw";
  ASSERT_EQ(freeze.thaw(), 0);
  EXPECT_EQ(unbound.get(), 0);
  ASSERT_TRUE(ring_.wait_for(10000, &result)) << "the command hangs";
  EXPECT_EQ(result, -ENODEV);
  const auto bytes = read_file(path_, 0, piece);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x21, 0), "");
}

// --- modules
// ----------------------------------------------------------------------------------------

int unload(const char* module) {
  return syscall(SYS_delete_module, module, O_NONBLOCK) < 0 ? -errno : 0;
}

class Modules : public BlockTest {
 protected:
  void TearDown() override {
    const Output loaded = shell("modprobe dmabridge_block; modprobe dmabridge_pci");
    EXPECT_EQ(loaded.status, 0) << loaded.text;
    // The function is bound by its driver_override as soon as there is a driver again.
    ASSERT_TRUE(eventually([] {
      return !regions().empty() && access(region_node(first_region()).c_str(), W_OK) == 0;
    }));
    BlockTest::TearDown();
  }
  static bool is_busy(int error) { return error == -EBUSY || error == -EAGAIN; }
};

TEST_F(Modules, CannotGoWhileInUse) {
  Bound bound = make(drive("SAMESW").path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ,
                     O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_TRUE(is_busy(unload("dmabridge_block")));
  EXPECT_TRUE(is_busy(unload("dmabridge")));
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB))
      << "an attempt leaves no trace";
  bound.binding.fd.reset();
  EXPECT_TRUE(eventually([] { return unload("dmabridge_block") == 0; }))
      << "nothing uses it any more";
  const Binding none = bind(bound.buffer.get(), bound.target.get(), DMABRIDGE_POLICY_PREFER);
  EXPECT_LT(none.error, 0);
  EXPECT_TRUE(find_reason(none.verdict, DMABRIDGE_REASON_NO_IMPORTER)) << describe(none.verdict);
}

TEST_F(Modules, DriverCanGoWhileABufferIsInUse) {
  Bound bound = make(drive("SAMESW").path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ,
                     O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(unload("dmabridge_pci"), 0);
  EXPECT_TRUE(regions().empty());
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0), -ENODEV);
  EXPECT_TRUE(is_busy(unload("dmabridge"))) << "its buffer is still there";
}

TEST_F(Modules, ImporterAndDriverCanGoAndComeBack) {
  for (int round = 0; round < 3; round++) {
    // dmabridge itself stays: control() keeps /dev/dmabridge open in this process.
    ASSERT_EQ(unload("dmabridge_block"), 0);
    ASSERT_EQ(unload("dmabridge_pci"), 0);
    const Output loaded = shell("modprobe dmabridge_block && modprobe dmabridge_pci");
    ASSERT_EQ(loaded.status, 0) << loaded.text;
    ASSERT_TRUE(eventually([] {
      return !regions().empty() && access(region_node(first_region()).c_str(), W_OK) == 0;
    }));
    const Bound bound = make(drive("SAMESW").path(), 64 * KiB, DMABRIDGE_POLICY_REQUIRE,
                             DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0);
    EXPECT_EQ(load(bound, 64 * KiB), static_cast<std::int64_t>(64 * KiB));
  }
}

TEST_F(Modules, AllCanGoAndComeBack) {
  close_control();
  const Output output = shell(
      "rmmod dmabridge_block dmabridge_pci dmabridge && [ ! -e /dev/dmabridge ] && "
      "modprobe dmabridge_block && modprobe dmabridge_pci && [ -e /dev/dmabridge ]");
  EXPECT_EQ(output.status, 0) << output.text;
}

}  // namespace
}  // namespace dmabridge::test

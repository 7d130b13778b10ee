// SPDX-License-Identifier: MIT
//
// What tells of buffers: watches, tracepoints, debugfs.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <future>
#include <thread>

#include "machine.hpp"
#include "support/fixture.hpp"
#include "support/test_importer.hpp"
#include "support/tracing.hpp"
#include "support/unbind.hpp"
#include "support/vgem.hpp"

namespace dmabridge::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr int whole_event = sizeof(dmabridge_event);

// What poll() says at once.
int polled(int fd) {
  pollfd entry{fd, POLLIN | POLLOUT | POLLPRI, 0};
  EXPECT_GE(poll(&entry, 1, 0), 0);
  return entry.revents;
}

void set_nonblocking(int fd) {
  ASSERT_EQ(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

// The count of an eventfd that is non-blocking, and 0 thereafter.
std::uint64_t taken(int eventfd) {
  std::uint64_t count = 0;
  if (read(eventfd, &count, sizeof(count)) < 0) {
    EXPECT_EQ(errno, EAGAIN);
    return 0;
  }
  return count;
}

Fd new_eventfd() {
  return Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

ino_t inode(int fd) {
  struct stat status{};
  EXPECT_EQ(fstat(fd, &status), 0);
  return status.st_ino;
}

// As much of a file as can be read: debugfs' end with their region.
std::string text_of(const std::string& path) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> part;
  for (ssize_t got; (got = read(file.get(), part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<std::size_t>(got));
  return text;
}

// --- watches: moves -----------------------------------------------------------------------------

class Events : public GuestTest {
 protected:
  // A watch whose read() does not block. Fails the test if there is none to be had.
  Watch watching(int buffer, int eventfd = -1) {
    Watch made = watch(buffer, eventfd);
    EXPECT_EQ(made.error, 0);
    if (made.error == 0) set_nonblocking(made.fd.get());
    return made;
  }
};

TEST_F(Events, NothingHasHappened) {
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watching(buffer.get());
  EXPECT_EQ(made.generation, query(buffer.get()).head.generation);
  EXPECT_EQ(polled(made.fd.get()), 0);
  dmabridge_event event{};
  EXPECT_EQ(read_event(made.fd.get(), &event), -EAGAIN);
}

TEST_F(Events, MoveToSystemMemoryAndBack) {
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watching(buffer.get());
  for (const std::uint32_t to : {DMABRIDGE_PLACEMENT_SYSTEM, DMABRIDGE_PLACEMENT_DEVICE}) {
    ASSERT_EQ(move(buffer.get(), to), 0);
    EXPECT_EQ(polled(made.fd.get()), POLLIN);
    dmabridge_event event{};
    ASSERT_EQ(read_event(made.fd.get(), &event), whole_event);
    EXPECT_EQ(event.generation, query(buffer.get()).head.generation);
    EXPECT_GT(event.generation, made.generation);
    EXPECT_EQ(event.placement, to);
    EXPECT_EQ(event.flags, 0u);
    EXPECT_EQ(event.reason.code, static_cast<std::uint32_t>(DMABRIDGE_REASON_MOVED));
    EXPECT_EQ(polled(made.fd.get()), 0);
    EXPECT_EQ(read_event(made.fd.get(), &event), -EAGAIN);
  }
}

TEST_F(Events, WhatDoesNotMoveIsNoEvent) {
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watching(buffer.get());
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE), 0) << "where it is";
  Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), -EBUSY);
  held.fd.reset();
  EXPECT_EQ(polled(made.fd.get()), 0);
}

TEST_F(Events, ManyMovesAreOneEventWithTheLastGeneration) {
  const Fd buffer = allocate(64 * KiB), count = new_eventfd();
  const Watch made = watching(buffer.get(), count.get());
  for (int i = 0; i < 21; i++)
    ASSERT_EQ(
        move(buffer.get(), i % 2 == 0 ? DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_DEVICE),
        0);
  dmabridge_event event{};
  ASSERT_EQ(read_event(made.fd.get(), &event), whole_event);
  EXPECT_EQ(event.generation, made.generation + 21);
  EXPECT_EQ(event.generation, query(buffer.get()).head.generation);
  EXPECT_EQ(event.placement, static_cast<std::uint32_t>(DMABRIDGE_PLACEMENT_SYSTEM));
  EXPECT_EQ(read_event(made.fd.get(), &event), -EAGAIN);
  EXPECT_EQ(taken(count.get()), 21u) << "an eventfd counts each";
}

TEST_F(Events, RedirectNamesWhoDemotedTheBuffer) {
  Vgem vgem;
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watching(buffer.get());
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(buffer.get(), &handle), 0);
  dmabridge_event event{};
  ASSERT_EQ(read_event(made.fd.get(), &event), whole_event);
  EXPECT_EQ(event.placement, static_cast<std::uint32_t>(DMABRIDGE_PLACEMENT_SYSTEM));
  EXPECT_EQ(event.reason.code, static_cast<std::uint32_t>(DMABRIDGE_REASON_DEMOTED));
  EXPECT_THAT(event.reason.name, HasSubstr("vgem"));
  vgem.close(handle);
  EXPECT_TRUE(eventually([&] { return polled(made.fd.get()) == POLLIN; }));
  ASSERT_EQ(read_event(made.fd.get(), &event), whole_event);
  EXPECT_EQ(event.placement, static_cast<std::uint32_t>(DMABRIDGE_PLACEMENT_DEVICE));
  EXPECT_EQ(event.reason.code, static_cast<std::uint32_t>(DMABRIDGE_REASON_RESTORED));
}

TEST_F(Events, EachWatchIsToldByItself) {
  const Fd buffer = allocate(64 * KiB), other = allocate(64 * KiB);
  const Fd shared = new_eventfd();
  const Watch first = watching(buffer.get(), shared.get()),
              second = watching(buffer.get(), shared.get()), elsewhere = watching(other.get());
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  const Watch late = watching(buffer.get());
  EXPECT_EQ(late.generation, first.generation + 1);
  dmabridge_event event{};
  EXPECT_EQ(read_event(first.fd.get(), &event), whole_event);
  EXPECT_EQ(polled(second.fd.get()), POLLIN) << "what one read the other has still to read";
  EXPECT_EQ(read_event(second.fd.get(), &event), whole_event);
  EXPECT_EQ(taken(shared.get()), 2u);
  EXPECT_EQ(polled(elsewhere.fd.get()), 0) << "another buffer's";
  EXPECT_EQ(polled(late.fd.get()), 0) << "what was before it";
}

TEST_F(Events, ClosedWatchSignalsNoMore) {
  const Fd buffer = allocate(64 * KiB), count = new_eventfd();
  Watch first = watching(buffer.get(), count.get());
  const Watch second = watching(buffer.get(), count.get());
  first.fd.reset();
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(taken(count.get()), 1u);
}

// The eventfd lives as long as the watch.
TEST_F(Events, EventfdMayBeClosedBeforeTheWatch) {
  const Fd buffer = allocate(64 * KiB);
  Fd count = new_eventfd();
  const Watch made = watching(buffer.get(), count.get());
  count.reset();
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(polled(made.fd.get()), POLLIN);
}

TEST_F(Events, EpollReportsEachChangeOnce) {
  const Fd buffer = allocate(64 * KiB), epoll(epoll_create1(EPOLL_CLOEXEC));
  const Watch made = watching(buffer.get());
  epoll_event wanted{EPOLLIN | EPOLLET, {}};
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, made.fd.get(), &wanted), 0);
  epoll_event event{};
  EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 0);
  for (const std::uint32_t to : {DMABRIDGE_PLACEMENT_SYSTEM, DMABRIDGE_PLACEMENT_DEVICE}) {
    ASSERT_EQ(move(buffer.get(), to), 0);
    EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 1);
    EXPECT_EQ(event.events, static_cast<std::uint32_t>(EPOLLIN));
    EXPECT_EQ(epoll_wait(epoll.get(), &event, 1, 0), 0);
  }
}

// --- watches: reads that wait -------------------------------------------------------------------

// Whether a thread of this process sleeps, interruptibly.
bool sleeps(pid_t thread) {
  const std::string text = text_of(fmt::format("/proc/self/task/{}/stat", thread));
  const auto end = text.rfind(')');
  return end != std::string::npos && text.compare(end, 3, ") S") == 0;
}

// read_event() in a thread of its own.
class BlockedRead {
 public:
  explicit BlockedRead(int watch)
      : result_(std::async(std::launch::async, [this, watch] {
          handle_ = pthread_self();
          thread_ = gettid();
          return read_event(watch, &event_);
        })) {}

  bool blocks() {
    return eventually([&] { return thread_ != 0 && sleeps(thread_); });
  }
  bool ended() { return result_.wait_for(std::chrono::seconds(10)) == std::future_status::ready; }
  void interrupt() { pthread_kill(handle_, SIGUSR1); }
  int result() { return result_.get(); }
  const dmabridge_event& event() const { return event_; }

 private:
  dmabridge_event event_{};
  std::atomic<pid_t> thread_ = 0;
  std::atomic<pthread_t> handle_{};
  std::future<int> result_;
};

TEST_F(Events, BlockedReadIsWokenByAMove) {
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  BlockedRead read(made.fd.get());
  ASSERT_TRUE(read.blocks());
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  ASSERT_TRUE(read.ended());
  EXPECT_EQ(read.result(), whole_event);
  EXPECT_EQ(read.event().placement, static_cast<std::uint32_t>(DMABRIDGE_PLACEMENT_SYSTEM));
}

TEST_F(Events, BlockedReadIsWokenByTheRelease) {
  Fd buffer = allocate(64 * KiB);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  BlockedRead read(made.fd.get());
  ASSERT_TRUE(read.blocks());
  buffer.reset();
  ASSERT_TRUE(read.ended());
  EXPECT_EQ(read.result(), whole_event);
  EXPECT_EQ(read.event().flags, static_cast<std::uint32_t>(DMABRIDGE_EVENT_RELEASED));
}

TEST_F(Events, BlockedReadIsEndedByASignal) {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  BlockedRead read(made.fd.get());
  ASSERT_TRUE(read.blocks());
  read.interrupt();
  ASSERT_TRUE(read.ended());
  EXPECT_EQ(read.result(), -EINTR);
  sigaction(SIGUSR1, &before, nullptr);
}

// One event, one reader: the other goes on to wait.
TEST_F(Events, OfTwoBlockedReadersOneHasTheEvent) {
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  BlockedRead first(made.fd.get()), second(made.fd.get());
  ASSERT_TRUE(first.blocks());
  ASSERT_TRUE(second.blocks());
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_TRUE(eventually([&] { return polled(made.fd.get()) == 0; }));
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  ASSERT_TRUE(first.ended());
  ASSERT_TRUE(second.ended());
  EXPECT_EQ(first.result(), whole_event);
  EXPECT_EQ(second.result(), whole_event);
  EXPECT_EQ(first.event().generation + second.event().generation, 2 * made.generation + 3);
}

TEST_F(Events, RingReadsAWatch) {
  const Fd buffer = allocate(64 * KiB);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  Ring ring;
  dmabridge_event event{};
  io_uring_prep_read(ring.next(), made.fd.get(), &event, sizeof(event), 0);
  ring.submit();
  int result = 0;
  EXPECT_FALSE(ring.wait_for(100, &result)) << "result " << result;
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  ASSERT_TRUE(ring.wait_for(10000, &result));
  EXPECT_EQ(result, whole_event);
  EXPECT_EQ(event.generation, made.generation + 1);
}

// --- watches: the end ---------------------------------------------------------------------------

TEST_F(Events, ReleaseIsTheLastEvent) {
  Fd buffer = allocate(64 * KiB);
  const Fd count = new_eventfd();
  const Watch made = watching(buffer.get(), count.get());
  buffer.reset();
  EXPECT_TRUE(eventually([&] { return polled(made.fd.get()) == (POLLIN | POLLHUP); }));
  dmabridge_event event{};
  ASSERT_EQ(read_event(made.fd.get(), &event), whole_event);
  EXPECT_EQ(event.flags, static_cast<std::uint32_t>(DMABRIDGE_EVENT_RELEASED));
  EXPECT_EQ(event.generation, made.generation);
  EXPECT_EQ(event.reason.code, 0u) << "it never moved";
  EXPECT_EQ(polled(made.fd.get()), POLLHUP);
  EXPECT_EQ(read_event(made.fd.get(), &event), 0);
  EXPECT_EQ(read_event(made.fd.get(), &event), 0);
  EXPECT_EQ(taken(count.get()), 1u);
}

// GuestTest holds the test to the pool's own count as well.
TEST_F(Events, WatchDoesNotKeepTheMemory) {
  Fd buffer = allocate(8 * MiB);
  const Watch made = watching(buffer.get());
  const std::string pool =
      fmt::format("/sys/bus/pci/devices/{}/p2pmem/available", pci_address(first_region().device));
  const std::uint64_t size = first_region().size;
  ASSERT_EQ(std::stoull(oracle::read_line(pool)), size - 8 * MiB);
  buffer.reset();
  ASSERT_TRUE(eventually([&] { return (polled(made.fd.get()) & POLLHUP) != 0; }));
  EXPECT_EQ(std::stoull(oracle::read_line(pool)), size) << "free by the time that it is told";
  EXPECT_EQ(first_region().available, first_region().limit);
  EXPECT_EQ(first_region().nr_buffers, 0u);
}

TEST_F(Events, MappingKeepsTheBufferFromItsRelease) {
  Fd buffer = allocate(64 * KiB);
  const Watch made = watching(buffer.get());
  {
    const Mapping mapping(buffer.get(), 64 * KiB);
    buffer.reset();
    EXPECT_EQ(polled(made.fd.get()), 0);
  }
  EXPECT_TRUE(eventually([&] { return (polled(made.fd.get()) & POLLHUP) != 0; }));
}

class WatchedUnbind : public UnbindTest {};

TEST_F(WatchedUnbind, RevokeIsTheLastEvent) {
  const std::uint64_t device = first_region().device;
  Fd buffer = allocate(64 * KiB);
  const Fd count = new_eventfd();
  const Watch made = watch(buffer.get(), count.get());
  ASSERT_EQ(made.error, 0);
  BlockedRead read(made.fd.get());
  ASSERT_TRUE(read.blocks());
  ASSERT_EQ(unbind(), 0);
  ASSERT_TRUE(read.ended());
  EXPECT_EQ(read.result(), whole_event);
  EXPECT_EQ(read.event().flags, static_cast<std::uint32_t>(DMABRIDGE_EVENT_REVOKED));
  EXPECT_EQ(read.event().placement, static_cast<std::uint32_t>(DMABRIDGE_PLACEMENT_NONE));
  EXPECT_EQ(read.event().generation, made.generation + 1);
  EXPECT_EQ(read.event().reason.code, static_cast<std::uint32_t>(DMABRIDGE_REASON_REVOKED));
  EXPECT_EQ(read.event().reason.device, device);
  EXPECT_EQ(polled(made.fd.get()), POLLHUP);
  dmabridge_event event{};
  EXPECT_EQ(read_event(made.fd.get(), &event), 0) << "does not block";
  EXPECT_EQ(watch(buffer.get()).error, -ENODEV);
  buffer.reset();
  EXPECT_EQ(polled(made.fd.get()), POLLHUP) << "the release comes after the end";
  EXPECT_EQ(taken(count.get()), 1u);
}

TEST_F(WatchedUnbind, RevokeAndReleaseCanBeReadTogether) {
  Fd buffer = allocate(64 * KiB, DMABRIDGE_POLICY_FORBID);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  ASSERT_EQ(unbind(), 0);
  EXPECT_EQ(polled(made.fd.get()), POLLIN | POLLHUP);
  buffer.reset();
  dmabridge_event event{};
  EXPECT_EQ(read_event(made.fd.get(), &event), whole_event);
  EXPECT_TRUE(event.flags & DMABRIDGE_EVENT_REVOKED);
  EXPECT_EQ(read_event(made.fd.get(), &event), 0);
}

// --- watches: what goes wrong -------------------------------------------------------------------

TEST_F(Events, WatchValues) {
  const Fd buffer = allocate(4096), file = open_file("/etc/passwd", O_RDONLY);
  const auto watch_with = [&](auto change) {
    dmabridge_watch argument{};
    argument.fd = buffer.get();
    argument.eventfd = -1;
    change(argument);
    const int error = call(control(), DMABRIDGE_IOCTL_WATCH, &argument);
    if (error == 0) close(argument.watch_fd);
    return error;
  };
  EXPECT_EQ(watch_with([](auto&) {}), 0);
  EXPECT_EQ(watch_with([](auto& argument) { argument.watch_fd = 77, argument.generation = 77; }), 0)
      << "what comes out may be anything before";
  EXPECT_EQ(watch_with([](auto& argument) { argument.flags = 1; }), -EINVAL);
  EXPECT_EQ(watch_with([](auto& argument) { argument.flags = 1U << 31; }), -EINVAL);
  EXPECT_EQ(watch_with([](auto& argument) { argument.eventfd = -2; }), -EBADF);
  EXPECT_EQ(watch_with([](auto& argument) { argument.eventfd = 9999; }), -EBADF);
  EXPECT_EQ(watch_with([&](auto& argument) { argument.eventfd = file.get(); }), -EINVAL);
  EXPECT_EQ(watch_with([&](auto& argument) { argument.eventfd = buffer.get(); }), -EINVAL);
}

TEST_F(Events, WatchFdOnlyReadsAndPolls) {
  const Fd buffer = allocate(4096);
  const Watch made = watching(buffer.get());
  EXPECT_EQ(fcntl(made.fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  std::array<char, 256> bytes{};
  EXPECT_EQ(write(made.fd.get(), bytes.data(), bytes.size()), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, made.fd.get(), 0), MAP_FAILED);
  EXPECT_EQ(call(made.fd.get(), DMABRIDGE_IOCTL_INFO, bytes.data()), -ENOTTY);
  EXPECT_EQ(read(made.fd.get(), bytes.data(), sizeof(dmabridge_event) - 1), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(read(made.fd.get(), bytes.data(), bytes.size()), whole_event)
      << "more room than it takes";
}

TEST_F(Events, EventThatCannotBeWrittenIsNotLost) {
  const Fd buffer = allocate(4096);
  const Watch made = watching(buffer.get());
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(read_event(made.fd.get(), reinterpret_cast<dmabridge_event*>(8)), -EFAULT);
  EXPECT_EQ(polled(made.fd.get()), POLLIN);
  dmabridge_event event{};
  EXPECT_EQ(read_event(made.fd.get(), &event), whole_event);
  EXPECT_EQ(event.generation, made.generation + 1);
}

std::uint64_t unreclaimable_slab() {
  const std::string text = text_of("/proc/meminfo"), name = "SUnreclaim:";
  return std::stoull(text.substr(text.find(name) + name.size())) * KiB;
}

TEST_F(Events, TenThousandWatchesDoNotLeak) {
  constexpr int count = 10000, rounds = 10;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit more{count + 1000, std::max<rlim_t>(before.rlim_max, count + 1000)};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &more), 0);
  const auto references = [] { return oracle::read_line("/sys/module/dmabridge/refcnt"); };
  const std::string used = references();
  {
    const Fd buffer = allocate(4096), event = new_eventfd();
    const auto round = [&] {
      std::vector<Watch> watches;
      for (int i = 0; i < count; i++) {
        watches.push_back(watch(buffer.get(), event.get()));
        ASSERT_EQ(watches.back().error, 0) << "at " << i;
      }
      ASSERT_EQ(move(buffer.get(), placement(buffer.get()) == DMABRIDGE_PLACEMENT_SYSTEM
                                       ? DMABRIDGE_PLACEMENT_DEVICE
                                       : DMABRIDGE_PLACEMENT_SYSTEM),
                0);
      EXPECT_EQ(taken(event.get()), static_cast<std::uint64_t>(count));
    };
    // What the kernel keeps for next time it has after the first.
    round();
    const std::uint64_t slab = unreclaimable_slab();
    for (int i = 0; i < rounds && !HasFailure(); i++) round();
    // 64 bytes of each would be this much.
    std::uint64_t now = 0;
    EXPECT_TRUE(eventually([&] {
      now = unreclaimable_slab();
      return now < slab + rounds * count * 64ULL / 2;
    })) << "slabs had "
        << slab << " bytes and have " << now;
  }
  EXPECT_TRUE(eventually([&] { return references() == used; }))
      << "the module has " << references() << " references, and had " << used;
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

// --- tracepoints --------------------------------------------------------------------------------

class Traced : public GuestTest {
 protected:
  static std::string about(int buffer, std::uint64_t size) {
    return fmt::format("ino={} size={} ", inode(buffer), size);
  }
  Tracing tracing_;
};

TEST_F(Traced, VerdictOfABinding) {
  const Drive disk = drive("SAMESW");
  const Fd buffer = allocate(64 * KiB), target = open_file(disk.path(), O_RDONLY | O_DIRECT);
  const Binding binding = bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
  ASSERT_EQ(binding.error, 0) << describe(binding.verdict);
  const Query found = query(buffer.get());
  ASSERT_EQ(found.users.size(), 1u);
  EXPECT_THAT(tracing_.events("dmabridge_verdict"),
              ElementsAre(about(buffer.get(), 64 * KiB) +
                          fmt::format("kind=binding name={} driver=nvme device={} policy=require "
                                      "route=p2p_bus distance={} error=0 reasons=-",
                                      disk.disk, pci_address(found.users[0].device),
                                      binding.verdict.distance)));
  EXPECT_THAT(tracing_.events("dmabridge_move"), IsEmpty());
}

TEST_F(Traced, VerdictOfARefusedBinding) {
  const Fd buffer = allocate(64 * KiB, DMABRIDGE_POLICY_FORBID),
           target = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  const Binding binding = bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
  ASSERT_EQ(binding.error, -EOPNOTSUPP);
  EXPECT_THAT(
      tracing_.events("dmabridge_verdict"),
      ElementsAre(HasSubstr(fmt::format("route=none distance={} error={} reasons=policy_conflict",
                                        binding.verdict.distance, -EOPNOTSUPP))));
}

TEST_F(Traced, AttachThatDemotesTheBuffer) {
  Vgem vgem;
  const Fd buffer = allocate(64 * KiB);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(buffer.get(), &handle), 0);
  EXPECT_THAT(tracing_.events("dmabridge_verdict"),
              ElementsAre(AllOf(
                  HasSubstr(about(buffer.get(), 64 * KiB) + "kind=static_attachment name=vgem"),
                  HasSubstr("device=- policy=prefer route=system distance=-1 error=0 "
                            "reasons=static_importer,not_pci"))));
  EXPECT_THAT(
      tracing_.events("dmabridge_move"),
      ElementsAre(AllOf(HasSubstr(about(buffer.get(), 64 * KiB) +
                                  "generation=2 from=device to=system why=demoted name=vgem"),
                        HasSubstr("device=- error=0 reasons=-"))));
  vgem.close(handle);
  EXPECT_TRUE(eventually([&] { return tracing_.events("dmabridge_move").size() == 2; }));
  EXPECT_THAT(tracing_.events("dmabridge_move").back(),
              HasSubstr("generation=3 from=system to=device why=restored name=- device=- error=0"));
}

TEST_F(Traced, VerdictOfAnAttachment) {
  const Fd buffer = allocate(64 * KiB);
  const Client client = nvme("SAMESW");
  const Attached attached = attach(buffer.get(), p2p_revocable, client);
  ASSERT_EQ(attached.error, 0);
  EXPECT_THAT(tracing_.events("dmabridge_verdict"),
              ElementsAre(AllOf(
                  HasSubstr(about(buffer.get(), 64 * KiB) +
                            fmt::format("kind=dynamic_attachment name={0} driver=nvme device={0} ",
                                        pci_address(client.function))),
                  HasSubstr("route=p2p_bus"), HasSubstr("error=0 reasons=-"))));
}

TEST_F(Traced, HoldAndMove) {
  const Fd buffer = allocate(64 * KiB);
  {
    const Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
    ASSERT_EQ(held.error, 0);
    EXPECT_EQ(hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE).error, -EBUSY);
  }
  EXPECT_THAT(
      tracing_.events("dmabridge_verdict"),
      ElementsAre(AllOf(HasSubstr("kind=hold name=events_test"),
                        HasSubstr("policy=forbid route=none distance=-1 error=0 reasons=-")),
                  HasSubstr(fmt::format("error={} reasons=held", -EBUSY))));
  EXPECT_TRUE(eventually([&] { return tracing_.events("dmabridge_move").size() == 2; }));
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_THAT(tracing_.events("dmabridge_move"),
              ElementsAre(HasSubstr("from=device to=system why=held name=events_test"),
                          HasSubstr("from=system to=device why=restored"),
                          HasSubstr("from=device to=system why=moved name=-")));
}

TEST_F(Traced, MoveThatFailsSaysWhy) {
  const Fd buffer = allocate(64 * KiB);
  Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(held.error, 0);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  const Mapping mapping(buffer.get(), 64 * KiB);
  Ring ring;
  const iovec vector{mapping.data(), 64 * KiB};
  ASSERT_EQ(io_uring_register_buffers(ring.get(), &vector, 1), 0);
  held.fd.reset();  // it wants home now, but cannot
  EXPECT_TRUE(eventually([&] { return tracing_.events("dmabridge_move").size() == 2; }));
  EXPECT_THAT(tracing_.events("dmabridge_move").back(),
              HasSubstr(fmt::format("from=system to=device why=restored name=- device=- error={} "
                                    "reasons=pinned_by_user",
                                    -EBUSY)));
  EXPECT_EQ(polled(made.fd.get()), 0) << "nothing has moved";
  ASSERT_EQ(io_uring_unregister_buffers(ring.get()), 0);
}

TEST_F(Traced, FiltersKnowNamesOfReasonsAndDevices) {
  ASSERT_EQ(tracing_.filter("dmabridge_verdict", "reasons ~ \"*policy_conflict*\" && kind == 3"),
            0);
  const Fd buffer = allocate(64 * KiB), forbidden = allocate(64 * KiB, DMABRIDGE_POLICY_FORBID),
           target = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  ASSERT_EQ(bind(buffer.get(), target.get()).error, 0);
  ASSERT_EQ(bind(forbidden.get(), target.get()).error, -EOPNOTSUPP);
  EXPECT_THAT(tracing_.events("dmabridge_verdict"), ElementsAre(HasSubstr("policy_conflict")));
}

class TracedUnbind : public UnbindTest {
 protected:
  Tracing tracing_;
};

TEST_F(TracedUnbind, Revoke) {
  const std::string region = first_region().name;
  const Fd buffer = allocate(64 * KiB), elsewhere = allocate(4096, DMABRIDGE_POLICY_FORBID);
  ASSERT_EQ(unbind(), 0);
  EXPECT_THAT(tracing_.events("dmabridge_revoke"),
              testing::UnorderedElementsAre(fmt::format("ino={} size={} from=device region={}",
                                                        inode(buffer.get()), 64 * KiB, region),
                                            fmt::format("ino={} size=4096 from=system region={}",
                                                        inode(elsewhere.get()), region)));
}

// --- debugfs ------------------------------------------------------------------------------------

std::string debugfs(const std::string& file) {
  return fmt::format("/sys/kernel/debug/dmabridge/{}/{}", first_region().name, file);
}

// The buffer's part of the text. Empty if it has none.
std::string entry_of(const std::string& text, int buffer) {
  const std::string head = fmt::format("buffer {}\n", inode(buffer));
  const auto start = text.find(head);
  if (start == std::string::npos) return "";
  const auto end = text.find("\nbuffer ", start);
  return text.substr(start, end == std::string::npos ? end : end + 1 - start);
}

using Debugfs = GuestTest;

TEST_F(Debugfs, IsForRootAlone) {
  for (const char* file : {"region", "buffers"}) {
    struct stat status{};
    ASSERT_EQ(stat(debugfs(file).c_str(), &status), 0) << file;
    EXPECT_EQ(status.st_mode & 07777, 0400u) << file;
    EXPECT_EQ(status.st_uid, 0u) << file;
  }
}

TEST_F(Debugfs, RegionIsAsTheAbiSays) {
  const Fd buffer = allocate(1 * MiB);
  const auto region = first_region();
  const std::string text = text_of(debugfs("region"));
  for (const std::string& line :
       {fmt::format("id: {}\n", region.id), std::string("kind: bar\n"),
        std::string("driver: dmabridge_pci\n"),
        fmt::format("device: {}\n", pci_address(region.device)),
        fmt::format("bar: {}\n", region.bar), std::string("flags: has_pages\n"),
        std::string("buffers: 1\n"), fmt::format("size: {}\n", region.size),
        fmt::format("limit: {}\n", region.limit),
        fmt::format("available: {}\n", region.limit - 1 * MiB),
        fmt::format("move limit: {}\n", region.move_limit)})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST_F(Debugfs, EmptyRegionHasNoBuffers) {
  EXPECT_EQ(text_of(debugfs("buffers")), "");
}

TEST_F(Debugfs, NamesWhoDemotedTheBufferAndWhy) {
  Vgem vgem;
  const Fd buffer = allocate(256 * KiB), other = allocate(4096, DMABRIDGE_POLICY_REQUIRE);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(buffer.get(), &handle), 0);
  EXPECT_EQ(vgem.import(other.get(), &handle), -EOPNOTSUPP);
  const std::string text = text_of(debugfs("buffers")), entry = entry_of(text, buffer.get());
  for (const char* part :
       {"  size: 262144\n", "  policy: prefer\n", "  placement: system\n", "  generation: 2\n",
        "  moves: 1\n", "  last move: demoted vgem", "  user: static_attachment vgem",
        "    p2p: no\n", "    flags: needs_system\n", "    route: system\n", "    distance: -1\n",
        "    reason: static_importer blocks_p2p\n", "    reason: not_pci blocks_p2p\n"})
    EXPECT_THAT(entry, HasSubstr(part));
  EXPECT_THAT(entry, Not(HasSubstr("last refused")));

  const std::string refused = entry_of(text, other.get());
  for (const char* part : {"  placement: device\n", "  policy: require\n", "  moves: 0\n",
                           "  last refused: static_attachment vgem", "    route: none\n",
                           "    reason: static_importer blocks_p2p\n"})
    EXPECT_THAT(refused, HasSubstr(part));
  EXPECT_THAT(refused, Not(HasSubstr("  user: ")));
  EXPECT_THAT(refused, Not(HasSubstr("last move")));
}

TEST_F(Debugfs, NamesBindingsAndHolds) {
  const Drive disk = drive("SAMESW");
  const Fd buffer = allocate(64 * KiB), target = open_file(disk.path(), O_RDONLY | O_DIRECT);
  const Binding binding = bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
  ASSERT_EQ(binding.error, 0) << describe(binding.verdict);
  const Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  const std::string address = pci_address(query(buffer.get()).users.at(0).device);
  const std::string entry = entry_of(text_of(debugfs("buffers")), buffer.get());
  for (const std::string& part :
       {fmt::format("  user: binding {} driver nvme device {}\n    p2p: granted\n", disk.disk,
                    address),
        std::string("    flags: needs_device peer2peer revocable\n    policy: require\n"
                    "    route: p2p_bus\n"),
        std::string("  user: hold events_test")})
    EXPECT_THAT(entry, HasSubstr(part));
}

TEST_F(Debugfs, NamesAttachmentsWithTheirPinsAndMappings) {
  const Fd buffer = allocate(64 * KiB);
  const Client client = nvme("SAMESW");
  Attached attached = attach(buffer.get(), p2p_revocable, client);
  ASSERT_EQ(attached.error, 0);
  EXPECT_THAT(entry_of(text_of(debugfs("buffers")), buffer.get()),
              AllOf(HasSubstr("  dma mappings: 0\n  dma mappings of a bar: 0\n"),
                    HasSubstr(fmt::format("  user: dynamic_attachment {0} driver nvme device {0}\n"
                                          "    p2p: granted\n    flags: peer2peer revocable\n",
                                          pci_address(client.function))),
                    Not(HasSubstr("pins"))));
  ASSERT_EQ(attached.attachment.pin(), 0);
  const std::uint32_t mapped = attached.attachment.map();
  EXPECT_THAT(
      entry_of(text_of(debugfs("buffers")), buffer.get()),
      AllOf(HasSubstr("  dma mappings: 1\n  dma mappings of a bar: 1\n"),
            HasSubstr("    flags: peer2peer revocable pinned\n"), HasSubstr("    pins: 1\n")));
  EXPECT_EQ(attached.attachment.unmap(mapped), 0);
  EXPECT_EQ(attached.attachment.unpin(), 0);
}

TEST_F(Debugfs, HasNoPhysicalAddress) {
  const Fd buffer = allocate(64 * KiB);
  const Fd target = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  const Binding binding = bind(buffer.get(), target.get());
  const std::string text = text_of(debugfs("buffers")) + text_of(debugfs("region"));
  const std::uint64_t address = region_window().start + query(buffer.get()).chunks.at(0).offset;
  EXPECT_THAT(text, Not(HasSubstr(fmt::format("{:x}", address))));
  EXPECT_THAT(text, Not(HasSubstr(fmt::format("{}", address))));
}

// The inodes of all buffers, in the order of the text. Read in small pieces, each of which finds
// its place anew.
std::vector<ino_t> listed(std::size_t piece) {
  const Fd file = open_file(debugfs("buffers"), O_RDONLY);
  std::string text, part(piece, '\0');
  for (ssize_t got; (got = read(file.get(), part.data(), part.size())) > 0;)
    text.append(part, 0, static_cast<std::size_t>(got));
  std::vector<ino_t> found;
  for (std::size_t at = 0; (at = text.find("buffer ", at)) != std::string::npos; at++)
    if (at == 0 || text[at - 1] == '\n') found.push_back(std::stoull(text.substr(at + 7)));
  return found;
}

TEST_F(Debugfs, ListsEveryBufferOnce) {
  std::vector<Fd> buffers;
  std::vector<ino_t> inodes;
  for (int i = 0; i < 300; i++) {
    buffers.push_back(allocate(4096));
    inodes.push_back(inode(buffers.back().get()));
  }
  EXPECT_EQ(listed(100), inodes);
  EXPECT_EQ(listed(1 * MiB), inodes);
}

TEST_F(Debugfs, CanBeReadWhileBuffersComeAndGo) {
  const Fd first = allocate(4096);
  std::atomic<bool> done{false};
  std::thread churn([&] {
    while (!done) {
      std::vector<Fd> buffers;
      for (int i = 0; i < 20; i++) {
        buffers.push_back(allocate(4096));
        static_cast<void>(move(buffers.back().get(), DMABRIDGE_PLACEMENT_SYSTEM));
      }
    }
  });
  for (int i = 0; i < 200; i++) {
    const auto found = listed(i % 2 == 0 ? 100 : 1 * MiB);
    ASSERT_FALSE(found.empty());
    EXPECT_EQ(found.front(), inode(first.get()));
  }
  done = true;
  churn.join();
}

class DebugfsUnbind : public UnbindTest {};

TEST_F(DebugfsUnbind, GoesWithItsRegionAndComesBack) {
  const Fd buffer = allocate(4096);
  const std::string path = debugfs("buffers");
  const Fd open_one = open_file(path, O_RDONLY);
  char byte = 0;
  ASSERT_EQ(read(open_one.get(), &byte, 1), 1);
  ASSERT_EQ(unbind(), 0);
  EXPECT_EQ(access(path.c_str(), F_OK), -1);
  EXPECT_EQ(read(open_one.get(), &byte, 1), -1);
  EXPECT_EQ(errno, EIO);
  rebind();
  EXPECT_EQ(access(path.c_str(), R_OK), 0);
  EXPECT_EQ(text_of(path), "") << "the old region's buffer is not of the new one";
}

TEST_F(DebugfsUnbind, WhileItIsRead) {
  for (int i = 0; i < 5; i++) {
    std::vector<Fd> buffers;
    for (int n = 0; n < 50; n++) buffers.push_back(allocate(4096));
    const std::string path = debugfs("buffers");
    std::atomic<bool> done{false};
    std::thread reader([&] {
      while (!done) static_cast<void>(text_of(path));
    });
    EXPECT_EQ(unbind(), 0);
    rebind();
    done = true;
    reader.join();
  }
}

}  // namespace
}  // namespace dmabridge::test

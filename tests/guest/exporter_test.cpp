// SPDX-License-Identifier: MIT
//
// Buffers: allocation, contents, CPU mappings, moves, importers, and the end of their device.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <functional>
#include <future>
#include <utility>

#include "support/child.hpp"
#include "support/fixture.hpp"
#include "support/silent_fuse.hpp"
#include "support/toucher.hpp"
#include "support/unbind.hpp"
#include "support/vgem.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint8_t tag = 0x5c;

void write_pattern(int buffer, std::uint64_t size) {
  const Mapping mapping(buffer, size);
  fill_pattern(mapping.data(), size, tag, 0);
}

std::string mapped_difference(int buffer, std::uint64_t size) {
  const Mapping mapping(buffer, size);
  return pattern_difference(mapping.data(), size, tag, 0);
}

bool all_zero(const std::vector<std::byte>& bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte(0); });
}

using Exporter = GuestTest;

// --- allocation
// ------------------------------------------------------------------------------------

TEST_F(Exporter, RegionIsAsTheBarIs) {
  const auto region = first_region();
  const auto window = region_window();
  EXPECT_EQ(region.kind, DMABRIDGE_REGION_BAR);
  EXPECT_EQ(region.size, window.length);
  EXPECT_EQ(region.limit, window.length);
  EXPECT_TRUE(region.flags & DMABRIDGE_REGION_HAS_PAGES);
  EXPECT_STREQ(region.driver, "dmabridge_pci");
  struct stat status;
  ASSERT_EQ(stat(region_node(region).c_str(), &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
  EXPECT_EQ(status.st_mode & 0777, 0660u);
  ASSERT_EQ(stat("/dev/dmabridge", &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0666u);
}

TEST_F(Exporter, SizeIsRoundedUpToPages) {
  const Fd one = allocate(1), page = allocate(4096), more = allocate(4097);
  EXPECT_EQ(query(one.get()).head.size, 4096u);
  EXPECT_EQ(query(page.get()).head.size, 4096u);
  EXPECT_EQ(query(more.get()).head.size, 8192u);
  EXPECT_EQ(lseek(more.get(), 0, SEEK_END), 8192);
}

TEST_F(Exporter, CountsWhatItHandsOut) {
  const Fd buffer = allocate(3 * MiB);
  const auto region = first_region();
  EXPECT_EQ(region.available, region.limit - 3 * MiB);
  EXPECT_EQ(region.nr_buffers, 1u);
}

TEST_F(Exporter, WholeRegionCanBeHadOnce) {
  const std::uint64_t size = first_region().size;
  const Fd all = allocate(size);
  EXPECT_THROW(allocate(4096), std::system_error);
  std::uint64_t sum = 0;
  for (const auto& chunk : query(all.get()).chunks) sum += chunk.length;
  EXPECT_EQ(sum, size);
}

TEST_F(Exporter, ChunksOfBuffersDoNotOverlap) {
  std::vector<Fd> buffers;
  std::vector<dmabridge_chunk> chunks;
  for (std::uint64_t size : {4096u, 1u << 20, 12288u, 3u << 20}) {
    buffers.push_back(allocate(size));
    const auto found = query(buffers.back().get()).chunks;
    chunks.insert(chunks.end(), found.begin(), found.end());
  }
  std::ranges::sort(chunks, {}, &dmabridge_chunk::offset);
  for (std::size_t i = 1; i < chunks.size(); i++)
    EXPECT_LE(chunks[i - 1].offset + chunks[i - 1].length, chunks[i].offset);
  EXPECT_LE(chunks.back().offset + chunks.back().length, first_region().size);
}

TEST_F(Exporter, MemoryIsClearedBeforeAnyoneGetsIt) {
  const std::uint64_t size = 2 * MiB;
  dmabridge_chunk before{};
  {
    const Fd buffer = allocate(size);
    write_pattern(buffer.get(), size);
    before = query(buffer.get()).chunks.front();
    EXPECT_FALSE(all_zero(host_bytes(buffer.get(), 0, size)));
  }
  // The whole region, so that it comes by these bytes.
  const Fd all = allocate(first_region().size);
  EXPECT_TRUE(all_zero(host_bytes(all.get(), 0, 64 * MiB)))
      << "old bytes, at " << before.offset << " for example";
  const Mapping mapping(all.get(), 64 * MiB);
  EXPECT_TRUE(
      std::ranges::all_of(mapping.bytes(), [](std::byte byte) { return byte == std::byte(0); }));
}

std::uint64_t first_offset(int buffer) {
  return query(buffer).chunks.at(0).offset;
}

TEST_F(Exporter, DeviceMemoryThatAMoveLeftIsCleared) {
  const std::uint64_t size = 1 * MiB;
  const Fd buffer = allocate(size);
  write_pattern(buffer.get(), size);
  const std::uint64_t offset = first_offset(buffer.get());
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  const Fd next = allocate(size);
  ASSERT_EQ(first_offset(next.get()), offset) << "it comes by other bytes";
  EXPECT_TRUE(all_zero(host_bytes(next.get(), 0, size)));
}

TEST_F(Exporter, DeviceMemoryOfAKilledProcessIsCleared) {
  const std::uint64_t size = 1 * MiB;
  Child owner([&](const Child::Say& say) {
    const Fd buffer = allocate(size);
    write_pattern(buffer.get(), size);
    say(first_offset(buffer.get()));
  });
  const auto offset = owner.wait();
  ASSERT_TRUE(offset) << "the child gave up";
  owner.end();
  ASSERT_TRUE(eventually([] { return first_region().nr_buffers == 0; }));
  const Fd next = allocate(size);
  ASSERT_EQ(first_offset(next.get()), offset) << "it comes by other bytes";
  EXPECT_TRUE(all_zero(host_bytes(next.get(), 0, size)));
}

// Whoever had it, and however a buffer came to have it.
TEST_F(Exporter, SystemMemoryIsClearedToo) {
  const std::uint64_t size = 8 * MiB;
  const auto is_clear = [&](int buffer) {
    const Mapping mapping(buffer, size);
    return std::ranges::all_of(mapping.bytes(),
                               [](std::byte byte) { return byte == std::byte(0); });
  };
  for (int round = 0; round < 2; round++) {
    {
      const Fd redirected = allocate(size), forbidden = allocate(size, DMABRIDGE_POLICY_FORBID);
      ASSERT_EQ(move(redirected.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
      write_pattern(redirected.get(), size);
      write_pattern(forbidden.get(), size);
    }
    // What nobody has touched moves without a copy.
    const Fd untouched = allocate(size), fresh = allocate(size, DMABRIDGE_POLICY_FORBID);
    ASSERT_EQ(move(untouched.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
    EXPECT_TRUE(is_clear(fresh.get()));
    EXPECT_TRUE(is_clear(untouched.get()));
  }
}

TEST_F(Exporter, ForbidStartsInSystemMemory) {
  const Fd buffer = allocate(1 * MiB, DMABRIDGE_POLICY_FORBID);
  const Query found = query(buffer.get());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_TRUE(found.chunks.empty());
  EXPECT_EQ(first_region().available, first_region().limit);
}

// --- query
// -----------------------------------------------------------------------------------------

TEST_F(Exporter, QueryTellsWhereTheBytesAreOnTheHost) {
  const std::uint64_t size = 5 * MiB + 4096;
  const Fd buffer = allocate(size);
  write_pattern(buffer.get(), size);
  const Query found = query(buffer.get());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(found.head.policy, DMABRIDGE_POLICY_PREFER);
  EXPECT_EQ(found.head.region_id, first_region().id);
  EXPECT_STREQ(found.head.region, first_region().name);
  EXPECT_EQ(found.head.moves, 0u);
  EXPECT_TRUE(found.users.empty());
  const auto bytes = host_bytes(buffer.get(), 0, size);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), tag, 0), "");
}

TEST_F(Exporter, QueryCountsWhatItHasNoRoomFor) {
  const Fd buffer = allocate(4096);
  const Hold first = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE),
             second = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(first.error, 0);
  ASSERT_EQ(second.error, 0);
  dmabridge_query argument{};
  argument.fd = buffer.get();
  ASSERT_EQ(call(control(), DMABRIDGE_IOCTL_QUERY, &argument), 0);
  EXPECT_EQ(argument.nr_users, 2u);
  EXPECT_GE(argument.nr_chunks, 1u);
}

// --- CPU mappings
// ------------------------------------------------------------------------------------

TEST_F(Exporter, PrivateMappingIsRefused) {
  const Fd buffer = allocate(64 * KiB);
  EXPECT_EQ(mmap(nullptr, 64 * KiB, PROT_READ, MAP_PRIVATE, buffer.get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EINVAL);
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  EXPECT_EQ(mmap(nullptr, 64 * KiB, PROT_READ, MAP_PRIVATE, node.get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EINVAL);
}

TEST_F(Exporter, MappingBeyondTheEndIsRefused) {
  const Fd buffer = allocate(64 * KiB);
  EXPECT_THROW(Mapping(buffer.get(), 68 * KiB), std::system_error);
  EXPECT_THROW(Mapping(buffer.get(), 8192, 60 * KiB), std::system_error);
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  EXPECT_THROW(Mapping(node.get(), 4096, 4096), std::system_error);
}

TEST_F(Exporter, PartialMappingShowsItsPart) {
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  const Mapping part(buffer.get(), 64 * KiB, 256 * KiB);
  EXPECT_EQ(pattern_difference(part.data(), 64 * KiB, tag, 256 * KiB), "");
}

TEST_F(Exporter, MappingOutlivesTheFd) {
  Fd buffer = allocate(1 * MiB);
  const Mapping mapping(buffer.get(), 1 * MiB);
  buffer.reset();
  fill_pattern(mapping.data(), 1 * MiB, tag, 0);
  EXPECT_EQ(pattern_difference(mapping.data(), 1 * MiB, tag, 0), "");
  EXPECT_EQ(first_region().nr_buffers, 1u);
}

TEST_F(Exporter, ForkSharesTheMapping) {
  const Fd buffer = allocate(64 * KiB);
  const Mapping mapping(buffer.get(), 64 * KiB);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    fill_pattern(mapping.data(), 64 * KiB, tag, 0);
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(pattern_difference(mapping.data(), 64 * KiB, tag, 0), "");
  const auto bytes = host_bytes(buffer.get(), 0, 64 * KiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), tag, 0), "");
}

void send_fd(int socket, int fd) {
  char byte = 0;
  iovec vector{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  ASSERT_EQ(sendmsg(socket, &message, 0), 1);
}

Fd receive_fd(int socket) {
  char byte = 0;
  iovec vector{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> space{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = space.data();
  message.msg_controllen = space.size();
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || CMSG_FIRSTHDR(&message) == nullptr)
    return Fd();
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
  return Fd(fd);
}

TEST_F(Exporter, BufferPassesToAnotherProcess) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const Fd ours(ends[0]), theirs(ends[1]);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // The child makes it and goes; the buffer stays.
    const Fd buffer = allocate(64 * KiB);
    write_pattern(buffer.get(), 64 * KiB);
    send_fd(theirs.get(), buffer.get());
    _exit(0);
  }
  const Fd buffer = receive_fd(ours.get());
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "");
  EXPECT_EQ(query(buffer.get()).head.size, 64 * KiB);
}

// Another process, which is told what to do over a socket. It has what this one had when it was
// made.
class Peer {
 public:
  explicit Peer(const std::function<void(int socket)>& work) {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
      throw std::system_error(errno, std::generic_category(), "socketpair");
    ours_ = Fd(ends[0]);
    const Fd theirs(ends[1]);
    process_ = fork();
    if (process_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (process_ == 0) {
      ours_.reset();
      try {
        work(theirs.get());
      } catch (const std::exception&) {
        _exit(1);
      }
      _exit(testing::Test::HasFailure() ? 1 : 0);
    }
  }
  ~Peer() {
    if (process_ < 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  int socket() const { return ours_.get(); }
  // Whether it came to its end without a complaint.
  bool ends_well() {
    int status = -1;
    const bool ended = waitpid(std::exchange(process_, -1), &status, 0) > 0;
    return ended && status == 0;
  }

 private:
  Fd ours_;
  pid_t process_ = -1;
};

void tell(int socket) {
  EXPECT_EQ(write(socket, "", 1), 1);
}
void wait_for_word(int socket) {
  char byte = 0;
  EXPECT_EQ(read(socket, &byte, 1), 1);
}

bool is_freed() {
  return eventually([] { return first_region().nr_buffers == 0; });
}

TEST_F(Exporter, PassedBufferWhoseSenderClosesFirst) {
  Peer peer([](int socket) {
    const Fd buffer = receive_fd(socket);
    wait_for_word(socket);
    EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "");
  });
  Fd buffer = allocate(64 * KiB);
  write_pattern(buffer.get(), 64 * KiB);
  send_fd(peer.socket(), buffer.get());
  buffer.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  tell(peer.socket());
  EXPECT_TRUE(peer.ends_well());
  EXPECT_TRUE(is_freed());
}

TEST_F(Exporter, PassedBufferWhoseReceiverClosesFirst) {
  Peer peer([](int socket) {
    const Fd buffer = receive_fd(socket);
    EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "");
  });
  Fd buffer = allocate(64 * KiB);
  write_pattern(buffer.get(), 64 * KiB);
  send_fd(peer.socket(), buffer.get());
  EXPECT_TRUE(peer.ends_well());
  EXPECT_EQ(first_region().nr_buffers, 1u);
  EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "");
  buffer.reset();
  EXPECT_TRUE(is_freed());
}

TEST_F(Exporter, PassedBufferOfWhichTheReceiverKeepsAMapping) {
  Peer peer([](int socket) {
    Fd buffer = receive_fd(socket);
    const Mapping mapping(buffer.get(), 64 * KiB);
    buffer.reset();
    tell(socket);
    wait_for_word(socket);
    EXPECT_EQ(pattern_difference(mapping.data(), 64 * KiB, tag, 0), "");
    fill_pattern(mapping.data(), 64 * KiB, tag + 1, 0);
    EXPECT_EQ(pattern_difference(mapping.data(), 64 * KiB, tag + 1, 0), "");
  });
  Fd buffer = allocate(64 * KiB);
  write_pattern(buffer.get(), 64 * KiB);
  send_fd(peer.socket(), buffer.get());
  wait_for_word(peer.socket());
  buffer.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  EXPECT_EQ(first_region().available, first_region().limit - 64 * KiB);
  tell(peer.socket());
  EXPECT_TRUE(peer.ends_well());
  EXPECT_TRUE(is_freed());
}

TEST_F(Exporter, PassedBufferThatNobodyReceives) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  Fd near(ends[0]), far(ends[1]), buffer = allocate(64 * KiB);
  send_fd(near.get(), buffer.get());
  buffer.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  far.reset();
  EXPECT_TRUE(is_freed());
}

// The kernel has to find out that nobody can ever receive it.
TEST_F(Exporter, PassedBufferInASocketThatIsInItself) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  Fd near(ends[0]), far(ends[1]), buffer = allocate(64 * KiB);
  send_fd(near.get(), buffer.get());
  send_fd(near.get(), far.get());
  buffer.reset();
  far.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  near.reset();
  // Looks for such sockets.
  Fd another(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  another.reset();
  EXPECT_TRUE(is_freed());
}

TEST_F(Exporter, ForkedProcessKeepsTheBuffer) {
  Fd buffer = allocate(64 * KiB);
  write_pattern(buffer.get(), 64 * KiB);
  Peer peer([&](int socket) {
    wait_for_word(socket);
    EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "");
    EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
    EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "");
  });
  buffer.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  tell(peer.socket());
  EXPECT_TRUE(peer.ends_well());
  EXPECT_TRUE(is_freed());
}

// Another program, in a process that had the buffer when it was started.
class Program {
 public:
  Program() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
      throw std::system_error(errno, std::generic_category(), "pipe2");
    const Fd reader(ends[0]);
    Fd writer(ends[1]);
    process_ = fork();
    if (process_ == 0) {
      execlp("sleep", "sleep", "infinity", nullptr);
      _exit(127);
    }
    writer.reset();
    char byte = 0;
    // The end of the other side: the program runs.
    EXPECT_EQ(read(reader.get(), &byte, 1), 0);
  }
  ~Program() {
    int status = 0;
    EXPECT_EQ(kill(process_, SIGKILL), 0);
    EXPECT_EQ(waitpid(process_, &status, 0), process_);
    EXPECT_TRUE(WIFSIGNALED(status)) << "the program did not run";
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

 private:
  pid_t process_ = -1;
};

TEST_F(Exporter, ProgramThatIsStartedHasNoBufferByAccident) {
  Fd buffer = allocate(64 * KiB);
  Fd other = allocate(64 * KiB);
  {
    const Mapping mapping(other.get(), 64 * KiB);
    const Program program;
    other.reset();
    buffer.reset();
    EXPECT_TRUE(eventually([] { return first_region().nr_buffers == 1; }))
        << "the program has it, or its mapping is gone here too";
  }
  EXPECT_TRUE(is_freed());
}

TEST_F(Exporter, ProgramThatIsGivenABufferKeepsIt) {
  Fd buffer = allocate(64 * KiB);
  ASSERT_EQ(fcntl(buffer.get(), F_SETFD, 0), 0);
  {
    const Program program;
    buffer.reset();
    EXPECT_EQ(first_region().nr_buffers, 1u);
  }
  EXPECT_TRUE(is_freed());
}

TEST_F(Exporter, NodeCanBeMappedByPath) {
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  const Mapping mapping(node.get(), 1 * MiB);
  EXPECT_TRUE(
      std::ranges::all_of(mapping.bytes(), [](std::byte byte) { return byte == std::byte(0); }));
  fill_pattern(mapping.data(), 1 * MiB, tag, 0);
  EXPECT_EQ(pattern_difference(mapping.data(), 1 * MiB, tag, 0), "");
  EXPECT_EQ(first_region().nr_buffers, 1u);
  const Mapping second(node.get(), 1 * MiB);
  EXPECT_TRUE(std::ranges::all_of(second.bytes(), [](std::byte byte) {
    return byte == std::byte(0);
  })) << "each mapping is a buffer of its own";
}

// --- O_DIRECT of user space into a mapping
// -------------------------------------------------------------

TEST_F(Exporter, DirectReadIntoTheMappingIsP2p) {
  const Fd buffer = allocate(4 * MiB);
  const Mapping mapping(buffer.get(), 4 * MiB);
  const Drive raw = drive("SAMESW");
  const Fd file = open_file(raw.path(), O_RDONLY | O_DIRECT);
  TraceWatch watch;
  ASSERT_EQ(pread(file.get(), mapping.data(), 4 * MiB, 8 * MiB), static_cast<ssize_t>(4 * MiB))
      << std::strerror(errno);
  const auto bytes = host_bytes(buffer.get(), 0, 4 * MiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0xa0, 8 * MiB), "");
  const auto account = watch.account(raw, oracle::Operation::read, {{8 * MiB, 4 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 4 * MiB);
  EXPECT_EQ(account.payload.outside, 0u);
}

TEST_F(Exporter, DirectWriteOutOfTheMapping) {
  const Fd buffer = allocate(1 * MiB);
  const Mapping mapping(buffer.get(), 1 * MiB);
  fill_pattern(mapping.data(), 1 * MiB, tag, 0);
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  const Fd file = open_file(mount.file("written"), O_RDWR | O_CREAT | O_DIRECT);
  ASSERT_EQ(pwrite(file.get(), mapping.data(), 1 * MiB, 0), static_cast<ssize_t>(1 * MiB))
      << std::strerror(errno);
  std::vector<std::byte> bytes(1 * MiB);
  const Fd reader = open_file(mount.file("written"), O_RDONLY);
  ASSERT_EQ(pread(reader.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(1 * MiB));
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), tag, 0), "");
  unlink(mount.file("written").c_str());
}

TEST_F(Exporter, DirectReadFromAnUnreachableDriveFails) {
  const Fd buffer = allocate(64 * KiB);
  const Mapping mapping(buffer.get(), 64 * KiB);
  const Fd file = open_file(drive("OTHERRP").path(), O_RDONLY | O_DIRECT);
  EXPECT_LT(pread(file.get(), mapping.data(), 64 * KiB, 0), 0);
}

class Fio : public GuestTest, public testing::WithParamInterface<const char*> {};

TEST_P(Fio, WorksOnTheNodeByPath) {
  const Drive raw = drive("SAMESW");
  TraceWatch watch;
  const Output output =
      shell(fmt::format("fio --name=p2p --filename={} --direct=1 --rw=read --bs=128k --iodepth=8 "
                        "--size=8m --offset=16m --readonly "
                        "--ioengine={} --iomem=mmapshared:{} --output-format=terse",
                        raw.path(), GetParam(), region_node(first_region())));
  ASSERT_EQ(output.status, 0) << output.text;
  const auto account = watch.account(raw, oracle::Operation::read, {{16 * MiB, 8 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 8 * MiB) << output.text;
  EXPECT_EQ(account.payload.outside, 0u);
}

INSTANTIATE_TEST_SUITE_P(Exporter, Fio, testing::Values("io_uring", "libaio", "psync"),
                         [](const auto& test) { return std::string(test.param); });

// --- moves and holds
// ------------------------------------------------------------------------------------

TEST_F(Exporter, MovesKeepTheBytes) {
  const std::uint64_t size = 3 * MiB + 4096;
  const Fd buffer = allocate(size);
  write_pattern(buffer.get(), size);
  const Mapping kept(buffer.get(), size);
  EXPECT_EQ(pattern_difference(kept.data(), size, tag, 0), "");

  const Query before = query(buffer.get());
  dmabridge_verdict verdict{};
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict), 0) << describe(verdict);
  const Query moved = query(buffer.get());
  EXPECT_EQ(moved.head.placement, DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_GT(moved.head.generation, before.head.generation);
  EXPECT_EQ(moved.head.moves, 1u);
  EXPECT_EQ(moved.head.last_move.code, DMABRIDGE_REASON_MOVED);
  EXPECT_TRUE(moved.chunks.empty());
  EXPECT_EQ(first_region().available, first_region().limit) << "the device's memory is free";
  EXPECT_EQ(pattern_difference(kept.data(), size, tag, 0), "")
      << "through a mapping from before the move";

  fill_pattern(kept.data(), size, tag + 1, 0);
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
  const auto bytes = host_bytes(buffer.get(), 0, size);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), tag + 1, 0), "");
  EXPECT_EQ(pattern_difference(kept.data(), size, tag + 1, 0), "");
}

TEST_F(Exporter, MoveToWhereItIsChangesNothing) {
  const Fd buffer = allocate(64 * KiB);
  const auto generation = query(buffer.get()).head.generation;
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(query(buffer.get()).head.generation, generation);
  EXPECT_EQ(query(buffer.get()).head.moves, 0u);
}

TEST_F(Exporter, NoRoomOnTheDeviceIsAReason) {
  const Fd buffer = allocate(64 * KiB);
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  write_pattern(buffer.get(), 64 * KiB);
  const Fd all = allocate(first_region().size);
  dmabridge_verdict verdict{};
  EXPECT_LT(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), 0);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_NO_DEVICE_MEMORY)) << describe(verdict);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(mapped_difference(buffer.get(), 64 * KiB), "") << "a move that fails changes nothing";
}

TEST_F(Exporter, HoldKeepsThePlacement) {
  const Fd buffer = allocate(64 * KiB);
  Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(held.error, 0) << describe(held.verdict);
  EXPECT_EQ(fcntl(held.fd.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  const Query found = query(buffer.get());
  ASSERT_EQ(found.users.size(), 1u);
  EXPECT_EQ(found.users[0].kind, DMABRIDGE_USER_HOLD);
  EXPECT_TRUE(found.users[0].flags & DMABRIDGE_USER_NEEDS_SYSTEM);

  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_HELD)) << describe(verdict);
  const Hold other = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(other.error, -EBUSY);
  EXPECT_TRUE(find_reason(other.verdict, DMABRIDGE_REASON_HELD)) << describe(other.verdict);
  held.fd.reset();
  EXPECT_TRUE(eventually([&] { return placement(buffer.get()) == DMABRIDGE_PLACEMENT_DEVICE; }))
      << "it goes back when the last one lets go";
}

TEST_F(Exporter, HoldOutlivesTheBuffersFd) {
  Fd buffer = allocate(64 * KiB);
  Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  buffer.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  held.fd.reset();
  EXPECT_TRUE(eventually([] { return first_region().nr_buffers == 0; }));
}

// Pages pinned through a mapping cannot be moved away from under the pin.
TEST_F(Exporter, PinnedPagesStopAMove) {
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(held.error, 0);
  {
    const Mapping mapping(buffer.get(), 1 * MiB);
    Ring ring;
    const iovec vector{mapping.data(), 1 * MiB};
    ASSERT_EQ(io_uring_register_buffers(ring.get(), &vector, 1), 0);
    held.fd.reset();  // it wants home now, but cannot
    dmabridge_verdict verdict{};
    EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
    const dmabridge_reason* reason = find_reason(verdict, DMABRIDGE_REASON_PINNED_BY_USER);
    ASSERT_TRUE(reason) << describe(verdict);
    EXPECT_GT(reason->value, 0u);
    EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
    EXPECT_EQ(pattern_difference(mapping.data(), 1 * MiB, tag, 0), "");
    ASSERT_EQ(io_uring_unregister_buffers(ring.get()), 0);
  }
  EXPECT_TRUE(eventually([&] { return move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE) == 0; }));
  EXPECT_EQ(mapped_difference(buffer.get(), 1 * MiB), "");
}

// --- a real static importer
// ------------------------------------------------------------------------------

TEST_F(Exporter, StaticImporterMovesTheBufferAndTheQuerySaysWho) {
  Vgem vgem;
  const Fd buffer = allocate(256 * KiB);
  write_pattern(buffer.get(), 256 * KiB);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(buffer.get(), &handle), 0);

  const Query found = query(buffer.get());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(found.head.last_move.code, DMABRIDGE_REASON_DEMOTED);
  EXPECT_NE(std::string(found.head.last_move.name).find("vgem"), std::string::npos)
      << found.head.last_move.name;
  ASSERT_EQ(found.users.size(), 1u);
  const dmabridge_user& user = found.users[0];
  EXPECT_EQ(user.kind, DMABRIDGE_USER_STATIC);
  EXPECT_TRUE(user.flags & DMABRIDGE_USER_NEEDS_SYSTEM);
  EXPECT_FALSE(user.flags & DMABRIDGE_USER_P2P);
  EXPECT_EQ(user.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(user.verdict, DMABRIDGE_REASON_STATIC_IMPORTER))
      << describe(user.verdict);
  EXPECT_TRUE(find_reason(user.verdict, DMABRIDGE_REASON_NOT_PCI)) << describe(user.verdict);
  EXPECT_EQ(mapped_difference(buffer.get(), 256 * KiB), "");

  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
  const dmabridge_reason* reason = find_reason(verdict, DMABRIDGE_REASON_HELD);
  ASSERT_TRUE(reason) << describe(verdict);
  EXPECT_NE(std::string(reason->name).find("vgem"), std::string::npos);

  vgem.close(handle);
  EXPECT_TRUE(eventually([&] { return placement(buffer.get()) == DMABRIDGE_PLACEMENT_DEVICE; }));
  EXPECT_EQ(query(buffer.get()).head.last_move.code,
            static_cast<std::uint32_t>(DMABRIDGE_REASON_RESTORED));
  const auto bytes = host_bytes(buffer.get(), 0, 256 * KiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), tag, 0), "");
}

TEST_F(Exporter, RequireRefusesAStaticImporter) {
  Vgem vgem;
  const Fd buffer = allocate(64 * KiB, DMABRIDGE_POLICY_REQUIRE);
  std::uint32_t handle = 0;
  EXPECT_EQ(vgem.import(buffer.get(), &handle), -EOPNOTSUPP);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
  const Query found = query(buffer.get());
  EXPECT_TRUE(found.users.empty());
  const dmabridge_user& refused = found.head.last_refused;
  EXPECT_EQ(refused.kind, static_cast<std::uint32_t>(DMABRIDGE_USER_STATIC));
  EXPECT_NE(std::string(refused.name).find("vgem"), std::string::npos) << refused.name;
  EXPECT_TRUE(find_reason(refused.verdict, DMABRIDGE_REASON_STATIC_IMPORTER))
      << describe(refused.verdict);
}

TEST_F(Exporter, HoldOnTheDeviceRefusesAStaticImporter) {
  Vgem vgem;
  const Fd buffer = allocate(64 * KiB);
  const Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  std::uint32_t handle = 0;
  EXPECT_EQ(vgem.import(buffer.get(), &handle), -EBUSY);
}

// --- the end of the device
// -------------------------------------------------------------------------------

using Unbind = UnbindTest;

sigjmp_buf bus_error;
bool touch_raises_bus_error(const volatile std::byte* address) {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) { siglongjmp(bus_error, 1); };
  sigaction(SIGBUS, &action, &before);
  volatile bool raised = true;
  if (sigsetjmp(bus_error, 1) == 0) {
    static_cast<void>(*address);
    raised = false;
  }
  sigaction(SIGBUS, &before, nullptr);
  return raised;
}

TEST_F(Unbind, EndsEverythingCleanly) {
  const Fd buffer = allocate(1 * MiB);
  const Mapping mapping(buffer.get(), 1 * MiB);
  fill_pattern(mapping.data(), 1 * MiB, tag, 0);
  const std::uint32_t id = first_region().id;
  const auto generation = query(buffer.get()).head.generation;
  const Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(unbind(), 0);

  EXPECT_TRUE(regions().empty());
  EXPECT_TRUE(touch_raises_bus_error(mapping.data()));
  const Query found = query(buffer.get());
  EXPECT_TRUE(found.head.flags & DMABRIDGE_BUFFER_REVOKED);
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_NONE);
  EXPECT_GT(found.head.generation, generation);
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), -ENODEV);
  EXPECT_EQ(hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE).error, -ENODEV);
  EXPECT_THROW(Mapping(buffer.get(), 4096), std::system_error);
  Vgem vgem;
  std::uint32_t handle = 0;
  EXPECT_EQ(vgem.import(buffer.get(), &handle), -ENODEV);
  const Fd target = open_file(drive("SAMESW").path(), O_RDONLY | O_DIRECT);
  const Binding binding = bind(buffer.get(), target.get());
  EXPECT_EQ(binding.error, -ENODEV);
  EXPECT_TRUE(find_reason(binding.verdict, DMABRIDGE_REASON_REVOKED)) << describe(binding.verdict);

  rebind();
  EXPECT_GT(first_region().id, id) << "ids are never used twice";
  const Fd fresh = allocate(1 * MiB);
  write_pattern(fresh.get(), 1 * MiB);
  EXPECT_EQ(mapped_difference(fresh.get(), 1 * MiB), "");
  EXPECT_EQ(query(buffer.get()).head.placement, DMABRIDGE_PLACEMENT_NONE)
      << "a revoked buffer stays so";
}

TEST_F(Unbind, BufferInSystemMemoryIsRevokedToo) {
  const Fd buffer = allocate(1 * MiB, DMABRIDGE_POLICY_FORBID);
  const Mapping mapping(buffer.get(), 1 * MiB);
  fill_pattern(mapping.data(), 1 * MiB, tag, 0);
  ASSERT_EQ(unbind(), 0);
  EXPECT_TRUE(touch_raises_bus_error(mapping.data()));
  EXPECT_EQ(query(buffer.get()).head.placement, DMABRIDGE_PLACEMENT_NONE);
}

// Such I/O is no concern of the device.
TEST_F(Unbind, BufferInSystemMemoryWithIoThatNeverEnds) {
  SilentFuse fuse;
  const Fd buffer = allocate(64 * KiB, DMABRIDGE_POLICY_FORBID);
  const Fd target = open_file(fuse.path(), O_RDONLY);
  const Binding binding = bind(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(binding.error, 0) << describe(binding.verdict);
  ASSERT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  Ring ring;
  ring.prepare(binding.fd.get(), DMABRIDGE_URING_READ, 0, 4096, 0);
  ring.submit();
  EXPECT_TRUE(eventually([&] { return fuse.reads() > 0; })) << "the command reads nothing";

  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  EXPECT_EQ(unbound.wait_for(patience(std::chrono::seconds(5))), std::future_status::ready)
      << "unbinding waits for the I/O";
  int result = 0;
  EXPECT_FALSE(ring.wait_for(100, &result)) << "it has ended; result " << result;
  fuse.abort();
  EXPECT_EQ(unbound.get(), 0);
  ASSERT_TRUE(ring.wait_for(10000, &result)) << "the command hangs";
  EXPECT_LT(result, 0);
}

TEST_F(Unbind, WhileTheCpuTouchesTheBuffer) {
  for (const std::uint32_t policy : {DMABRIDGE_POLICY_PREFER, DMABRIDGE_POLICY_FORBID}) {
    for (int round = 0; round < 3; round++) {
      const Fd buffer = allocate(256 * KiB, policy);
      const Mapping mapping(buffer.get(), 256 * KiB);
      Toucher toucher(mapping);
      ASSERT_EQ(unbind(), 0);
      EXPECT_TRUE(toucher.gets_bus_error());
      rebind();
    }
  }
}

TEST_F(Unbind, OpenNodeGivesNothingMore) {
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  ASSERT_EQ(unbind(), 0);
  dmabridge_alloc alloc{};
  alloc.size = 4096;
  alloc.policy = DMABRIDGE_POLICY_PREFER;
  EXPECT_EQ(call(node.get(), DMABRIDGE_IOCTL_ALLOC, &alloc), -ENODEV);
  EXPECT_THROW(Mapping(node.get(), 4096), std::system_error);
}

TEST_F(Unbind, WhileImportedByVgem) {
  Vgem vgem;
  const Fd buffer = allocate(64 * KiB);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(buffer.get(), &handle), 0);
  ASSERT_EQ(unbind(), 0);
  vgem.close(handle);
}

TEST_F(Unbind, AgainAndAgain) {
  for (int i = 0; i < 5; i++) {
    const Fd buffer = allocate(1 * MiB);
    const Mapping mapping(buffer.get(), 1 * MiB);
    fill_pattern(mapping.data(), 4096, tag, 0);
    ASSERT_EQ(unbind(), 0);
    rebind();
  }
}

}  // namespace
}  // namespace dmabridge::test

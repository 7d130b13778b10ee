// SPDX-License-Identifier: MIT
//
// Every call with every fault: memory that is not to be had, user memory that is not there. A call
// either succeeds all the same or says what was wrong, leaves everything as it was, and succeeds
// the next time.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dma-buf.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <thread>

#include "machine.hpp"
#include "support/accelerator.hpp"
#include "support/attach_fixture.hpp"
#include "support/block_fixture.hpp"
#include "support/fault_injection.hpp"
#include "support/pci_driver.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint64_t page = 4 * KiB;
// More than one page, and no power of two: several runs in system memory.
constexpr std::uint64_t size = 7 * page;

constexpr std::uint32_t on_device = DMABRIDGE_PLACEMENT_DEVICE;
constexpr std::uint32_t in_system = DMABRIDGE_PLACEMENT_SYSTEM;

// What a call may say.
const std::set<int> no_memory{ENOMEM};
const std::set<int> no_user_memory{EFAULT};
const std::set<int> either{ENOMEM, EFAULT};
// The kernel takes no memory for a file, for one thing, for too many files.
const std::set<int> file_errors{ENOMEM, EFAULT, ENFILE};
const std::set<int> nothing{};

void expect_no_users(int buffer) {
  EXPECT_TRUE(query(buffer).users.empty());
}

const char* text_of(std::uint32_t placement) {
  return placement == in_system ? "system memory" : "the device";
}

std::uint32_t other(std::uint32_t placement) {
  return placement == in_system ? on_device : in_system;
}

class Fault : public WithFaults<AttachTest> {
 protected:
  // One that has the pattern.
  static Fd make_buffer(std::uint64_t length = size,
                        std::uint32_t policy = DMABRIDGE_POLICY_PREFER) {
    Fd buffer = allocate(length, policy);
    write_pattern(buffer.get(), length);
    return buffer;
  }

  static void expect_whole(int buffer, std::uint64_t length = size) {
    EXPECT_EQ(difference(buffer, length), "");
  }

  // Moved there without a fault, to begin with.
  static void put(int buffer, std::uint32_t to) {
    if (placement(buffer) != to) {
      EXPECT_EQ(move(buffer, to), 0);
    }
  }
};

int opened(const std::string& path, int flags, Fd* fd) {
  *fd = Fd(open(path.c_str(), flags | O_CLOEXEC));
  return *fd ? 0 : -errno;
}

void noop() {}

int call_info(const Binding& binding) {
  dmabridge_binding_info info{};
  return call(binding.fd.get(), DMABRIDGE_IOCTL_BINDING, &info);
}

// --- /dev/dmabridge ----------------------------------------------------------------------------

TEST_F(Fault, Open) {
  for (const std::string& path : {std::string("/dev/dmabridge"), region_node(first_region())}) {
    Fd fd;
    sweep("open " + path, {.call = [&] { return opened(path, O_RDWR, &fd); },
                           .reset = [&] { fd.reset(); },
                           .errors = file_errors});
  }
}

TEST_F(Fault, InfoAndRegion) {
  const auto info = [] {
    dmabridge_info argument{};
    return call(control(), DMABRIDGE_IOCTL_INFO, &argument);
  };
  sweep("info", {.call = info, .reset = noop, .errors = no_user_memory});
  const auto region = [] {
    dmabridge_region_info argument{};
    return call(control(), DMABRIDGE_IOCTL_REGION, &argument);
  };
  sweep("region", {.call = region, .reset = noop, .errors = no_user_memory});
}

TEST_F(Fault, Query) {
  const Fd buffer = make_buffer();
  const Hold held = hold(buffer.get(), on_device);
  ASSERT_EQ(held.error, 0);
  std::array<dmabridge_chunk, 512> chunks{};
  std::array<dmabridge_user, 4> users{};
  const auto query = [&] {
    dmabridge_query argument{};
    argument.fd = buffer.get();
    argument.chunks = reinterpret_cast<std::uintptr_t>(chunks.data());
    argument.max_chunks = chunks.size();
    argument.users = reinterpret_cast<std::uintptr_t>(users.data());
    argument.max_users = users.size();
    argument.user_size = sizeof(dmabridge_user);
    return call(control(), DMABRIDGE_IOCTL_QUERY, &argument);
  };
  sweep("query", {.call = query, .reset = noop, .errors = either});
}

TEST_F(Fault, Move) {
  const Fd buffer = make_buffer();
  for (const std::uint32_t to : {in_system, on_device}) {
    put(buffer.get(), other(to));
    dmabridge_verdict verdict{};
    int result = 0;
    const auto call = [&] { return result = move(buffer.get(), to, &verdict); };
    const auto reset = [&] {
      // After EFAULT it may have moved, but who asked could not be told.
      if (result != -EFAULT) {
        EXPECT_EQ(placement(buffer.get()), result == 0 ? to : other(to));
      }
      if (result == -ENOMEM) {
        EXPECT_NE(verdict.nr_reasons, 0U);
      }
      expect_no_users(buffer.get());
      expect_whole(buffer.get());
      put(buffer.get(), other(to));
    };
    sweep(fmt::format("move to {}", text_of(to)), {.call = call, .reset = reset, .errors = either});
  }
}

// Also when the kernel has some pages, but not enough: it takes small ones where there are no
// large ones, and in the end has to give back what it got.
TEST_F(Fault, MoveWithTooFewPages) {
  constexpr std::uint64_t large = 3 * MiB;
  const Fd buffer = make_buffer(large);
  const auto before = regions();
  unsigned refused = 0;
  for (unsigned pages = 0;; pages = pages == 0 ? 16 : pages * 4) {
    SCOPED_TRACE(fmt::format("{} pages", pages));
    ASSERT_LE(pages, 1U << 20);
    dmabridge_verdict verdict{};
    int result;
    {
      const PageShortage shortage(pages);
      result = move(buffer.get(), in_system, &verdict);
    }
    expect_whole(buffer.get(), large);
    if (result == 0) break;
    refused++;
    ASSERT_EQ(result, -ENOMEM);
    EXPECT_EQ(placement(buffer.get()), on_device);
    const auto* reason = find_reason(verdict, DMABRIDGE_REASON_NO_SYSTEM_MEMORY);
    ASSERT_NE(reason, nullptr) << describe(verdict);
    EXPECT_EQ(reason->value, large);
  }
  EXPECT_GE(refused, 3U);
  put(buffer.get(), on_device);
  expect_regions(before);
}

TEST_F(Fault, Hold) {
  const Fd buffer = make_buffer();
  for (const std::uint32_t to : {in_system, on_device}) {
    put(buffer.get(), other(to));
    Hold held{};
    const auto call = [&] {
      held = hold(buffer.get(), to);
      return held.error;
    };
    const auto reset = [&] {
      if (held.error == 0) {
        EXPECT_EQ(placement(buffer.get()), to);
      }
      held.fd.reset();
      expect_no_users(buffer.get());
      expect_whole(buffer.get());
      put(buffer.get(), other(to));
    };
    sweep(fmt::format("hold in {}", text_of(to)),
          {.call = call, .reset = reset, .errors = file_errors});
  }
}

// The last one who needed system memory goes, and the buffer goes home, if it can.
TEST_F(Fault, LetGoOfAHold) {
  const Fd buffer = make_buffer();
  Hold held = hold(buffer.get(), in_system);
  ASSERT_EQ(held.error, 0);
  const auto call = [&] {
    held.fd.reset();
    return 0;
  };
  const auto reset = [&] {
    expect_no_users(buffer.get());
    expect_whole(buffer.get());
    put(buffer.get(), on_device);
    held = hold(buffer.get(), in_system);
    EXPECT_EQ(held.error, 0);
  };
  sweep("let go of a hold", {.call = call, .reset = reset, .errors = nothing});
}

TEST_F(Fault, Watch) {
  const Fd buffer = make_buffer();
  const Fd event(eventfd(0, EFD_CLOEXEC));
  Watch made{};
  const auto call = [&] {
    made = watch(buffer.get(), event.get());
    return made.error;
  };
  sweep("watch", {.call = call, .reset = [&] { made.fd.reset(); }, .errors = file_errors});
}

// An event that could not be handed over is not lost.
TEST_F(Fault, ReadOfAWatch) {
  const Fd buffer = allocate(size);
  const Watch made = watch(buffer.get());
  ASSERT_EQ(made.error, 0);
  ASSERT_EQ(fcntl(made.fd.get(), F_SETFL, O_NONBLOCK), 0);
  // One event.
  const auto there_and_back = [&] {
    EXPECT_EQ(move(buffer.get(), in_system), 0);
    EXPECT_EQ(move(buffer.get(), on_device), 0);
  };
  there_and_back();
  dmabridge_event event{};
  int result = 0;
  const auto call = [&] { return result = read_event(made.fd.get(), &event); };
  const auto reset = [&] {
    if (result >= 0) {
      EXPECT_EQ(result, static_cast<int>(sizeof(event)));
      EXPECT_EQ(event.generation, query(buffer.get()).head.generation);
      there_and_back();
    }
  };
  sweep("read of a watch", {.call = call, .reset = reset, .errors = no_user_memory});
}

TEST_F(Fault, Debugfs) {
  const Fd buffer = make_buffer();
  const Hold held = hold(buffer.get(), in_system);
  ASSERT_EQ(held.error, 0);
  for (const char* name : {"region", "buffers"}) {
    const std::string path =
        fmt::format("/sys/kernel/debug/dmabridge/{}/{}", first_region().name, name);
    std::array<char, 4096> text{};
    const auto call = [&] {
      Fd file;
      const int error = opened(path, O_RDONLY, &file);
      if (error != 0) return error;
      const ssize_t got = read(file.get(), text.data(), text.size());
      return got < 0 ? -errno : static_cast<int>(got);
    };
    sweep("debugfs " + std::string(name), {.call = call, .reset = noop, .errors = file_errors});
  }
}

// The list of the old stays if there is no memory for the new one.
TEST_F(Fault, Deny) {
  const std::string path = "/sys/module/dmabridge/parameters/deny", before = "00ff:00:00.0",
                    after = "00ff:00:00.0-00ff:00:01.0,00ff:00:02.0";
  ASSERT_EQ(write_text(path, before), 0);
  int result = 0;
  const auto call = [&] { return result = write_text(path, after); };
  const auto reset = [&] {
    EXPECT_EQ(oracle::read_line(path), result == 0 ? after : before);
    EXPECT_EQ(write_text(path, before), 0);
  };
  sweep("deny", {.call = call, .reset = reset, .errors = file_errors});
  EXPECT_EQ(write_text(path, "\n"), 0);
}

// --- buffers -----------------------------------------------------------------------------------

TEST_F(Fault, Allocate) {
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  for (const std::uint32_t policy : {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_FORBID}) {
    dmabridge_alloc argument{};
    int result = 0;
    const auto call = [&] {
      argument = {};
      argument.size = size;
      argument.policy = policy;
      return result = test::call(node.get(), DMABRIDGE_IOCTL_ALLOC, &argument);
    };
    const auto reset = [&] {
      if (result == 0) close(argument.fd);
    };
    sweep(
        policy == DMABRIDGE_POLICY_FORBID ? "allocate in system memory" : "allocate on the device",
        {.call = call, .reset = reset, .errors = file_errors});
  }
}

TEST_F(Fault, Close) {
  for (const std::uint32_t policy : {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_FORBID}) {
    Fd buffer = make_buffer(size, policy);
    const auto call = [&] {
      buffer.reset();
      return 0;
    };
    const auto reset = [&] { buffer = make_buffer(size, policy); };
    sweep(policy == DMABRIDGE_POLICY_FORBID ? "close in system memory" : "close on the device",
          {.call = call, .reset = reset, .errors = nothing, .may_have_none = true});
  }
}

TEST_F(Fault, Mmap) {
  const Fd buffer = make_buffer();
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  for (const int fd : {buffer.get(), node.get()}) {
    void* start = MAP_FAILED;
    const auto call = [&] {
      start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      return start == MAP_FAILED ? -errno : 0;
    };
    const auto reset = [&] {
      if (start != MAP_FAILED) munmap(start, size);
    };
    sweep(fd == buffer.get() ? "mmap of a buffer" : "mmap of the node",
          {.call = call, .reset = reset, .errors = {ENOMEM, ENFILE}});
  }
}

// A mapping that has nothing near it, and so no page tables.
class LonelyMapping {
 public:
  explicit LonelyMapping(int buffer) {
    void* place = mmap(reinterpret_cast<void*>(1UL << 44), size, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED_NOREPLACE, buffer, 0);
    if (place == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    start_ = static_cast<std::byte*>(place);
  }
  ~LonelyMapping() { munmap(start_, size); }
  LonelyMapping(const LonelyMapping&) = delete;
  LonelyMapping& operator=(const LonelyMapping&) = delete;

  std::byte* data() const { return start_; }

 private:
  std::byte* start_;
};

TEST_F(Fault, PageFaults) {
  const Fd buffer = make_buffer();
  for (const std::uint32_t where : {on_device, in_system}) {
    put(buffer.get(), where);
    std::optional<LonelyMapping> mapping(buffer.get());
    const auto reset = [&] {
      EXPECT_EQ(pattern_difference(mapping->data(), size, tag, 0), "");
      mapping.reset();
      mapping.emplace(buffer.get());
    };
    // It takes no peer-to-peer memory.
    if (where == in_system) {
      const auto populate = [&] {
        return madvise(mapping->data(), size, MADV_POPULATE_WRITE) == 0 ? 0 : -errno;
      };
      sweep("populate a mapping of system memory",
            {.call = populate, .reset = reset, .errors = no_memory});
    }
    // The kernel tries again for as long as it takes.
    const auto touch = [&] {
      auto* bytes = static_cast<volatile std::byte*>(mapping->data());
      for (std::uint64_t at = 0; at < size; at += page) bytes[at] = bytes[at];
      return 0;
    };
    sweep(fmt::format("touch a mapping of {}", text_of(where)),
          {.call = touch, .reset = reset, .errors = nothing});
  }
}

TEST_F(Fault, CpuAccess) {
  const Fd buffer = make_buffer();
  const auto call = [&] {
    dma_buf_sync argument{DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW};
    return test::call(buffer.get(), DMA_BUF_IOCTL_SYNC, &argument);
  };
  sweep("begin CPU access", {.call = call, .reset = noop, .errors = either});
}

// --- importers ---------------------------------------------------------------------------------

struct Importer {
  const char* name;
  ImporterKind kind;
  const char* drive;
  std::uint32_t served;  // placement
};
constexpr Importer importers[] = {
    {"static", static_importer, "SAMESW", DMABRIDGE_PLACEMENT_SYSTEM},
    {"dynamic", dynamic, "SAMESW", DMABRIDGE_PLACEMENT_SYSTEM},
    {"too far away", p2p_revocable, "OTHERRP", DMABRIDGE_PLACEMENT_SYSTEM},
    {"peer to peer", p2p_revocable, "SAMESW", DMABRIDGE_PLACEMENT_DEVICE},
};

TEST_F(Fault, Attach) {
  const Fd buffer = make_buffer();
  for (const Importer& importer : importers) {
    const Client client = nvme(importer.drive);
    Attached attached{};
    const auto call = [&] {
      attached = attach(buffer.get(), importer.kind, client);
      return attached.error;
    };
    const auto reset = [&] {
      if (attached.error == 0) {
        EXPECT_EQ(placement(buffer.get()), importer.served);
      }
      attached.attachment.detach();
      expect_no_users(buffer.get());
      expect_whole(buffer.get());
      // Without a fault it goes home.
      EXPECT_EQ(placement(buffer.get()), on_device);
    };
    sweep(fmt::format("attach, {}", importer.name),
          {.call = call, .reset = reset, .errors = file_errors});
  }
}

TEST_F(Fault, Detach) {
  const Fd buffer = make_buffer();
  const Importer& importer = importers[0];
  Attached attached = attach(buffer.get(), importer.kind, nvme(importer.drive));
  const auto call = [&] {
    attached.attachment.detach();
    return 0;
  };
  const auto reset = [&] {
    expect_no_users(buffer.get());
    expect_whole(buffer.get());
    attached = attach(buffer.get(), importer.kind, nvme(importer.drive));
    EXPECT_EQ(attached.error, 0);
  };
  sweep("detach", {.call = call, .reset = reset, .errors = nothing});
}

TEST_F(Fault, MapAndUnmap) {
  const Fd buffer = make_buffer();
  for (const Importer& importer : importers) {
    const auto join = [&] {
      Attached attached = attach(buffer.get(), importer.kind, nvme(importer.drive));
      EXPECT_EQ(attached.error, 0);
      return std::move(attached.attachment);
    };
    Attachment attachment = join();
    std::uint32_t id = 0;
    int result = 0;
    const auto map = [&] { return result = attachment.map(&id); };
    const auto reset_map = [&] {
      if (result == 0) {
        EXPECT_EQ(attachment.table(id).length(), size);
        EXPECT_EQ(attachment.unmap(id), 0);
      } else if (result == -EFAULT && attachment.events().mappings != 0) {
        // It was mapped, but we were not told as what.
        attachment.detach();
        attachment = join();
      }
      EXPECT_EQ(attachment.events().mappings, 0U);
      EXPECT_EQ(placement(buffer.get()), importer.served);
      expect_whole(buffer.get());
    };
    sweep(fmt::format("map, {}", importer.name),
          {.call = map, .reset = reset_map, .errors = either});

    id = attachment.map();
    const auto unmap = [&] { return attachment.unmap(id); };
    const auto reset_unmap = [&] {
      EXPECT_EQ(attachment.events().mappings, 0U);
      id = attachment.map();
    };
    sweep(fmt::format("unmap, {}", importer.name),
          {.call = unmap, .reset = reset_unmap, .errors = nothing, .may_have_none = true});
  }
}

TEST_F(Fault, PinAndUnpin) {
  const Fd buffer = make_buffer();
  for (const Importer& importer : {importers[1], importers[3]}) {
    Attached attached = attach(buffer.get(), importer.kind, nvme(importer.drive));
    ASSERT_EQ(attached.error, 0);
    const auto call = [&] {
      const int error = attached.attachment.pin();
      return error == 0 ? attached.attachment.unpin() : error;
    };
    const auto reset = [&] { EXPECT_EQ(attached.attachment.events().pins, 0U); };
    sweep(fmt::format("pin and unpin, {}", importer.name),
          {.call = call, .reset = reset, .errors = no_memory, .may_have_none = true});
  }
}

// What an importer has mapped moves under it, and it lets go at once, or later.
TEST_F(Fault, MoveOfWhatIsMapped) {
  const Fd buffer = make_buffer();
  for (const std::uint32_t on_invalidate : {TEST_IMPORTER_KEEP, TEST_IMPORTER_UNMAP}) {
    Attached attached = attach(buffer.get(), p2p_revocable, nvme("SAMESW"), on_invalidate);
    ASSERT_EQ(attached.error, 0);
    Attachment& attachment = attached.attachment;
    for (const std::uint32_t to : {in_system, on_device}) {
      put(buffer.get(), other(to));
      std::uint32_t id = attachment.map();
      int result = 0;
      const auto call = [&] { return result = move(buffer.get(), to); };
      const auto reset = [&] {
        EXPECT_EQ(query(buffer.get()).users.size(), 1U);
        expect_whole(buffer.get());
        if (attachment.events().mappings != 0) {
          EXPECT_EQ(attachment.table(id).length(), size);
          EXPECT_EQ(attachment.unmap(id), 0);
        }
        put(buffer.get(), other(to));
        id = attachment.map();
      };
      sweep(fmt::format("move to {}, mapped{}", text_of(to),
                        on_invalidate == TEST_IMPORTER_UNMAP ? " and let go" : ""),
            {.call = call, .reset = reset, .errors = either});
      if (attachment.events().mappings != 0) {
        EXPECT_EQ(attachment.unmap(id), 0);
      }
    }
  }
}

// --- block devices and files -------------------------------------------------------------------

// What io_uring says of itself when it has no memory for a command: try again.
const std::set<int> command_errors{ENOMEM, EAGAIN};

class FaultBlock : public WithFaults<BlockTest> {
 protected:
  void SetUp() override {
    WithFaults::SetUp();
    // One of each kind, so that there is no doubt about whose faults are meant.
    std::array<unsigned, 2> most{1, 1};
    ASSERT_EQ(io_uring_register_iowq_max_workers(ring_.get(), most.data()), 0);
  }

  // One command: bytes or -errno, also of its submission.
  int command(int binding, std::uint32_t operation, std::uint64_t file_offset, unsigned flags = 0) {
    ring_.prepare(binding, operation, 0, size, file_offset)->flags |=
        static_cast<std::uint8_t>(flags);
    const int submitted = io_uring_submit(ring_.get());
    if (submitted < 0) return submitted;
    const int result = ring_.wait();
    // User space is not to see it.
    EXPECT_NE(result, -EAGAIN);
    return result;
  }

  // A command that could not be submitted is in the queue still.
  void drain() {
    while (io_uring_sq_ready(ring_.get()) != 0) {
      ring_.submit();
      EXPECT_EQ(ring_.wait(), static_cast<int>(size));
    }
  }

  // The thread of the ring's that does what cannot be done at once.
  static pid_t worker() {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
      if (oracle::read_line(entry.path() / "comm").starts_with("iou-wrk"))
        return std::stoi(entry.path().filename());
    }
    throw std::runtime_error("the ring has no worker");
  }

  // Reads and writes of a binding of these bytes of a target. thread: as in a sweep.
  void sweep_commands(const std::string& name, const Bound& bound, std::uint64_t file_offset,
                      std::uint8_t pattern, pid_t thread = 0, unsigned flags = 0) {
    int result = 0;
    const auto read = [&] {
      return result = command(bound.fd(), DMABRIDGE_URING_READ, file_offset, flags);
    };
    const auto reset_read = [&] {
      drain();
      if (result >= 0) {
        EXPECT_EQ(result, static_cast<int>(size));
        EXPECT_EQ(difference(bound, size, pattern, file_offset), "");
      }
      const Mapping mapping(bound.buffer.get(), size);
      std::memset(mapping.data(), 0, size);
    };
    sweep("read, " + name,
          {.call = read, .reset = reset_read, .errors = command_errors, .thread = thread});
    ASSERT_EQ(command(bound.fd(), DMABRIDGE_URING_READ, file_offset), static_cast<int>(size));
    const auto write = [&] {
      return result = command(bound.fd(), DMABRIDGE_URING_WRITE, file_offset, flags);
    };
    const auto reset_write = [&] {
      drain();
      if (result >= 0) {
        EXPECT_EQ(result, static_cast<int>(size));
      }
      EXPECT_EQ(difference(bound, size, pattern, file_offset), "");
    };
    sweep("write, " + name,
          {.call = write, .reset = reset_write, .errors = command_errors, .thread = thread});
    // What was written is what was there.
    ASSERT_EQ(command(bound.fd(), DMABRIDGE_URING_READ, file_offset), static_cast<int>(size));
    EXPECT_EQ(difference(bound, size, pattern, file_offset), "");
  }

  static constexpr std::uint32_t both = DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE;
};

struct Disk {
  const char* name;
  const char* drive;
  std::uint8_t pattern;
  std::uint32_t policy;
  std::uint32_t served;  // placement
};
constexpr Disk disks[] = {
    {"peer to peer", "SAMESW", 0xa0, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_PLACEMENT_DEVICE},
    {"redirected", "OTHERRP", 0xa1, DMABRIDGE_POLICY_PREFER, DMABRIDGE_PLACEMENT_SYSTEM},
};

TEST_F(FaultBlock, Bind) {
  const Fd buffer = allocate(size);
  {
    const Mapping mapping(buffer.get(), size);
    fill_pattern(mapping.data(), size, 0x6e, 0);
  }
  for (const Disk& disk : disks) {
    const Mount mount(drive(disk.drive, "ext4").path(), "ext4");
    const std::string file = mount.file("bound");
    make_pattern_file(file, size, disk.pattern);
    for (const std::string& path : {drive(disk.drive).path(), file}) {
      const Fd target = open_file(path, O_RDWR);
      Binding binding{};
      const auto call = [&] {
        binding = bind(buffer.get(), target.get(), disk.policy, both);
        return binding.error;
      };
      const auto reset = [&] {
        if (binding.error == 0) {
          EXPECT_EQ(placement(buffer.get()), disk.served);
          EXPECT_EQ(call_info(binding), 0);
        }
        binding.fd.reset();
        expect_no_users(buffer.get());
        const Mapping mapping(buffer.get(), size);
        EXPECT_EQ(pattern_difference(mapping.data(), size, 0x6e, 0), "");
        EXPECT_EQ(placement(buffer.get()), on_device);
      };
      sweep(fmt::format("bind {}, {}", path == file ? "a file" : "a disk", disk.name),
            {.call = call, .reset = reset, .errors = file_errors});
    }
    unlink(file.c_str());
  }
}

// What it would be told, which leaves nothing behind.
TEST_F(FaultBlock, Negotiate) {
  const Disk& disk = disks[0];
  const Mount mount(drive(disk.drive, "ext4").path(), "ext4");
  const std::string path = mount.file("asked");
  make_pattern_file(path, size, disk.pattern);
  {
    const Fd buffer = allocate(size), file = open_file(path, O_RDWR),
             raw = open_file(drive(disk.drive).path(), O_RDWR);
    const auto region = first_region();
    const std::uint64_t function = nvme(disk.drive).function;
    const auto reset = [&] {
      expect_no_users(buffer.get());
      EXPECT_EQ(placement(buffer.get()), on_device);
    };
    const auto about_file = [&] { return ask_file(buffer.get(), file.get()).error; };
    sweep("negotiate for a file", {.call = about_file, .reset = reset, .errors = file_errors});
    const auto about_disk = [&] {
      return ask_file(region, raw.get(), DMABRIDGE_POLICY_REQUIRE, both).error;
    };
    sweep("negotiate for a disk, of a region",
          {.call = about_disk, .reset = reset, .errors = either});
    const auto about_function = [&] {
      return ask_function(buffer.get(), function, DMABRIDGE_NEGOTIATE_STATIC).error;
    };
    sweep("negotiate for a function", {.call = about_function, .reset = reset, .errors = either});
  }
  unlink(path.c_str());
}

TEST_F(FaultBlock, BindingInfo) {
  const Bound bound = make(drive("SAMESW").path(), size);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  sweep("binding's info",
        {.call = [&] { return call_info(bound.binding); }, .reset = noop, .errors = either});
}

TEST_F(FaultBlock, RawCommands) {
  for (const Disk& disk : disks) {
    const Bound bound = make(drive(disk.drive).path(), size, disk.policy, both);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    sweep_commands(fmt::format("disk, {}", disk.name), bound, MiB, disk.pattern);
  }
}

TEST_F(FaultBlock, FileCommands) {
  for (const Disk& disk : disks) {
    const Mount mount(drive(disk.drive, "ext4").path(), "ext4");
    const std::string path = mount.file("commands");
    make_pattern_file(path, size, disk.pattern);
    {
      const Bound bound = make(path, size, disk.policy, both);
      ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
      sweep_commands(fmt::format("file, {}", disk.name), bound, 0, disk.pattern);
      // Once more as by a thread that may sleep.
      ASSERT_EQ(command(bound.fd(), DMABRIDGE_URING_READ, 0, IOSQE_ASYNC), static_cast<int>(size));
      sweep_commands(fmt::format("file, {}, by a worker", disk.name), bound, 0, disk.pattern,
                     worker(), IOSQE_ASYNC);
    }
    unlink(path.c_str());
  }
}

// The BAR has no pages: a worker copies.
class FaultBounce : public FaultBlock {
 protected:
  void SetUp() override {
    FaultBlock::SetUp();
    if (IsSkipped()) return;
    no_pages_.emplace("no_pages", function_);
    ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
  }
  void TearDown() override {
    if (IsSkipped()) return;
    BlockTest::TearDown();
    no_pages_.reset();
    EXPECT_EQ(bind_function(function_, "dmabridge_pci"), 0);
  }

  const std::string function_ = pci_address(first_region().device);
  std::optional<PciParameter> no_pages_;
};

TEST_F(FaultBounce, Commands) {
  const Bound bound = make(drive("SAMESW").path(), size, DMABRIDGE_POLICY_PREFER, both);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(bound.binding.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_BOUNCE));
  // The first makes the worker.
  ASSERT_EQ(command(bound.fd(), DMABRIDGE_URING_READ, MiB), static_cast<int>(size));
  sweep_commands("disk, bounced, by a worker", bound, MiB, 0xa0, worker(), IOSQE_ASYNC);
}

// --- drivers -----------------------------------------------------------------------------------

// The sample driver, on a small part of the BAR: what is registered in a moment.
class FaultDriver : public WithFaults<AttachTest> {
 protected:
  void TearDown() override {
    if (IsSkipped()) return;
    accelerator_.reset();
    prepare_fault_injection();
    EXPECT_EQ(bind_function(function_, "dmabridge_pci"), 0);
    AttachTest::TearDown();
  }

  void bind_driver(std::map<std::string, std::string> parameters = {}) {
    accelerator_.reset();
    parameters.try_emplace("size", std::to_string(region_size));
    set_accelerator_parameters(parameters);
    ASSERT_EQ(bind_function(function_, "dmabridge_accelerator"), 0);
    ASSERT_TRUE(eventually(
        [&] { return access(("/dev/accelerator-" + function_).c_str(), R_OK | W_OK) == 0; }));
    accelerator_ = std::make_unique<Accelerator>(function_);
  }

  std::uint32_t create(std::uint64_t length) {
    std::uint32_t handle = 0;
    EXPECT_EQ(accelerator_->create(length, DMABRIDGE_POLICY_PREFER, 0, &handle), 0);
    return handle;
  }

  static constexpr std::uint64_t region_size = 2 * MiB;
  const std::string function_ = pci_address(first_region().device);
  std::unique_ptr<Accelerator> accelerator_;
};

// The kernel says EBUSY where it has no memory to note who has an address range.
const std::set<int> probe_errors{ENOMEM, EFAULT, EBUSY};

TEST_F(FaultDriver, Register) {
  const std::map<std::string, std::string> with_pages,
      without{{"pages", "N"}, {"system_limit", std::to_string(MiB)}};
  for (const auto& [name, parameters] : {std::pair("a region with pages", with_pages),
                                         std::pair("one without, and system memory", without)}) {
    bind_driver(parameters);
    accelerator_.reset();
    ASSERT_EQ(unbind_function(function_), 0);
    prepare_fault_injection(Spared::probe);
    const auto call = [&] {
      return write_text("/sys/bus/pci/drivers/dmabridge_accelerator/bind", function_);
    };
    const auto reset = [&] {
      EXPECT_EQ(unbind_function(function_), 0);
      EXPECT_TRUE(regions().empty());
    };
    sweep(fmt::format("register {}", name), {.call = call, .reset = reset, .errors = probe_errors});
  }
}

TEST_F(FaultDriver, CreateAndDestroy) {
  bind_driver();
  int result = 0;
  std::uint32_t handle = 0;
  const auto call = [&] {
    return result = accelerator_->create(size, DMABRIDGE_POLICY_PREFER, 0, &handle);
  };
  const auto reset = [&] {
    if (result == 0) {
      EXPECT_EQ(accelerator_->destroy(handle), 0);
    }
  };
  sweep("driver's buffer", {.call = call, .reset = reset, .errors = either});
}

// Several runs of device memory, as there is no long one.
TEST_F(FaultDriver, AllocateInPieces) {
  bind_driver();
  constexpr std::uint64_t stretch = 256 * KiB;
  std::vector<Fd> kept;
  for (std::uint64_t i = 0; i < region_size / stretch; i++) kept.push_back(allocate(stretch));
  std::erase_if(
      kept, [&](const Fd& fd) { return query(fd.get()).chunks.at(0).offset / stretch % 2 != 0; });
  Fd buffer;
  const Fd node = open_file(region_node(first_region()), O_RDWR);
  int result = 0;
  const auto call = [&] {
    dmabridge_alloc argument{};
    argument.size = 4 * stretch;
    argument.policy = DMABRIDGE_POLICY_REQUIRE;
    result = test::call(node.get(), DMABRIDGE_IOCTL_ALLOC, &argument);
    if (result == 0) buffer = Fd(argument.fd);
    return result;
  };
  const auto reset = [&] {
    if (result == 0) {
      EXPECT_EQ(query(buffer.get()).head.nr_chunks, 4U);
    }
    buffer.reset();
  };
  sweep("allocate four pieces", {.call = call, .reset = reset, .errors = file_errors});
}

TEST_F(FaultDriver, Export) {
  bind_driver();
  const std::uint32_t handle = create(size);
  Fd buffer;
  const auto call = [&] {
    try {
      buffer = accelerator_->dma_buf(handle);
      return 0;
    } catch (const std::system_error& error) {
      return -error.code().value();
    }
  };
  sweep("export", {.call = call, .reset = [&] { buffer.reset(); }, .errors = either});
  EXPECT_EQ(accelerator_->destroy(handle), 0);
}

// The device copies, or the CPU.
TEST_F(FaultDriver, EvictAndMoveBack) {
  for (const char* engine : {"Y", "N"}) {
    bind_driver({{"engine", engine}});
    const std::uint32_t handle = create(size);
    {
      const Fd buffer = accelerator_->dma_buf(handle);
      write_pattern(buffer.get(), size);
      const std::string by = *engine == 'Y' ? "by the device" : "by the CPU";
      int result = 0;
      const auto check = [&](std::uint32_t moved_to) {
        if (result != -EFAULT) {
          EXPECT_EQ(placement(buffer.get()), result == 0 ? moved_to : other(moved_to));
        }
        EXPECT_EQ(accelerator_->look_up(handle, 0).placement, placement(buffer.get()));
        const Mapping mapping(buffer.get(), size);
        EXPECT_EQ(pattern_difference(mapping.data(), size, tag, 0), "");
      };
      const auto evict = [&] { return result = accelerator_->evict(handle); };
      const auto reset_evict = [&] {
        check(in_system);
        EXPECT_EQ(move(buffer.get(), on_device), 0);
      };
      sweep("evict " + by, {.call = evict, .reset = reset_evict, .errors = either});
      const auto back = [&] { return result = move(buffer.get(), on_device); };
      const auto reset_back = [&] {
        check(on_device);
        EXPECT_EQ(accelerator_->evict(handle), 0);
      };
      ASSERT_EQ(accelerator_->evict(handle), 0);
      sweep("move back " + by, {.call = back, .reset = reset_back, .errors = either});
    }
    EXPECT_EQ(accelerator_->destroy(handle), 0);
  }
}

// A job either runs or was refused; its fence is never left behind.
TEST_F(FaultDriver, Run) {
  bind_driver();
  const std::uint32_t handle = create(size);
  {
    const Fd buffer = accelerator_->dma_buf(handle);
    std::uint64_t value = 0;
    int result = 0;
    const auto call = [&] { return result = accelerator_->fill(handle, 0, size, ++value); };
    const auto reset = [&] {
      // Moves wait for fences.
      EXPECT_EQ(move(buffer.get(), in_system), 0);
      EXPECT_EQ(move(buffer.get(), on_device), 0);
      const Mapping mapping(buffer.get(), size);
      std::uint64_t found = 0;
      std::memcpy(&found, mapping.data() + size - sizeof(found), sizeof(found));
      if (result != 0) value--;
      EXPECT_EQ(found, value);
    };
    sweep("run a job", {.call = call, .reset = reset, .errors = either});
  }
  EXPECT_EQ(accelerator_->destroy(handle), 0);
}

TEST_F(FaultDriver, Suspend) {
  bind_driver();
  const Knobs knobs(function_);
  {
    const Fd first = allocate(size), second = allocate(size);
    for (const Fd* buffer : {&first, &second}) write_pattern(buffer->get(), size);
    int result = 0;
    const auto call = [&] { return result = knobs.control("suspend"); };
    const auto reset = [&] {
      if (result == 0) {
        EXPECT_EQ(knobs.control("resume"), 0);
      }
      for (const Fd* buffer : {&first, &second}) {
        EXPECT_EQ(difference(buffer->get(), size), "");
        // One that had moved when another could not stays there.
        if (placement(buffer->get()) != on_device) {
          EXPECT_NE(result, 0);
          EXPECT_EQ(move(buffer->get(), on_device), 0);
        }
      }
    };
    sweep("suspend", {.call = call, .reset = reset, .errors = either});
  }
}

}  // namespace
}  // namespace dmabridge::test

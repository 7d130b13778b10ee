// SPDX-License-Identifier: MIT
//
// The in-kernel API, by way of the sample driver: what a driver that makes its own buffers, copies
// by its own engine and has an opinion gets, and what it can bring about.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dma-buf.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <thread>

#include "machine.hpp"
#include "support/accelerator.hpp"
#include "support/block_fixture.hpp"
#include "support/pci_driver.hpp"
#include "support/rdma_drivers.hpp"
#include "support/test_importer.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint8_t tag = 0x4d;
constexpr std::uint64_t page = 4 * KiB;
constexpr auto a_moment = std::chrono::milliseconds(300);

constexpr std::uint32_t device_memory = 0, system_memory = 1;  // enum accelerator_memory

// A buffer of the driver's, with its dma-buf.
struct Own {
  std::uint32_t handle;
  Fd buffer;
  int fd() const { return buffer.get(); }
};

void write_pattern(int buffer, std::uint64_t size, std::uint8_t with = tag) {
  const Mapping mapping(buffer, size);
  fill_pattern(mapping.data(), size, with, 0);
}

std::string mapped_difference(int buffer, std::uint64_t size, std::uint8_t with = tag) {
  const Mapping mapping(buffer, size, 0, PROT_READ);
  return pattern_difference(mapping.data(), size, with, 0);
}

bool is_done(int buffer) {
  pollfd entry{buffer, POLLOUT, 0};
  return poll(&entry, 1, 0) == 1;
}

bool all_words_are(const std::byte* bytes, std::uint64_t length, std::uint64_t value) {
  for (std::uint64_t at = 0; at < length; at += sizeof(value))
    if (std::memcmp(bytes + at, &value, sizeof(value)) != 0) return false;
  return true;
}

std::string pci_address_of_drive(const std::string& serial) {
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/nvme")) {
    const std::string found = oracle::read_line(entry.path() / "serial");
    if (found.substr(0, found.find(' ')) == serial)
      return std::filesystem::canonical(entry.path() / "device").filename();
  }
  throw std::runtime_error("no drive " + serial);
}

class Driver : public BlockTest {
 protected:
  void SetUp() override { bind_with({}); }

  void TearDown() override {
    // Unbinding would hide what is left.
    expect_nothing_left();
    accelerator_.reset();
    ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
    ASSERT_TRUE(node_appears());
    BlockTest::TearDown();
  }

  // The sample driver, bound anew with these parameters.
  void bind_with(const std::map<std::string, std::string>& parameters) {
    accelerator_.reset();
    set_accelerator_parameters(parameters);
    ASSERT_EQ(bind_function(function_, "dmabridge_accelerator"), 0);
    ASSERT_TRUE(node_appears());
    accelerator_ = std::make_unique<Accelerator>(function_);
  }

  static bool node_appears() {
    return eventually([] {
      const auto found = regions();
      return !found.empty() && std::ranges::all_of(found, [](const auto& region) {
        return access(region_node(region).c_str(), R_OK | W_OK) == 0;
      });
    });
  }

  void expect_nothing_left() {
    for (const dmabridge_region_info& region : regions()) {
      dmabridge_region_info last{};
      const bool clean = eventually([&] {
        for (const dmabridge_region_info& now : regions())
          if (now.id == region.id) last = now;
        return last.available == last.limit && last.nr_buffers == 0;
      });
      EXPECT_TRUE(clean) << "leak in region " << last.name << ": " << last.nr_buffers
                         << " buffers, " << last.available << " of " << last.limit
                         << " bytes are free";
    }
  }

  const Accelerator& accelerator() const { return *accelerator_; }
  void close_node() { accelerator_.reset(); }
  // The device works again, and everybody has let go of what it had before.
  void recover() {
    ASSERT_EQ(knobs_.control("recover"), 0);
    EXPECT_TRUE(eventually([] { return !(first_region().flags & DMABRIDGE_REGION_SUSPENDED); }));
  }

  Own create(std::uint64_t size, std::uint32_t policy = DMABRIDGE_POLICY_PREFER,
             std::uint32_t memory = device_memory) {
    Own own{};
    const int error = accelerator().create(size, policy, memory, &own.handle);
    if (error != 0) throw std::system_error(-error, std::generic_category(), "create");
    own.buffer = accelerator().dma_buf(own.handle);
    return own;
  }

  // The driver lets go of a buffer; others may have it still.
  void forget(const Own& own) { EXPECT_EQ(accelerator().destroy(own.handle), 0); }

  Bound bind_own(const Own& own, const std::string& path,
                 std::uint32_t policy = DMABRIDGE_POLICY_REQUIRE,
                 std::uint32_t flags = DMABRIDGE_BIND_READ, int target_flags = O_RDWR) {
    Bound bound;
    bound.buffer = Fd(dup(own.fd()));
    bound.target = open_file(path, target_flags);
    bound.binding = bind(own.fd(), bound.target.get(), policy, flags);
    return bound;
  }

  // The driver's page table and the kernel's answer are the same, for every page.
  void expect_table_is_right(const Own& own) {
    const Query found = query(own.fd());
    std::vector<std::uint64_t> offsets;
    for (const dmabridge_chunk& chunk : found.chunks)
      for (std::uint64_t at = 0; at < chunk.length; at += page)
        offsets.push_back(chunk.offset + at);
    for (std::uint64_t i = 0; i < found.head.size / page; i++) {
      const auto entry = accelerator().look_up(own.handle, i);
      ASSERT_EQ(entry.placement, found.head.placement) << "page " << i;
      if (entry.placement == DMABRIDGE_PLACEMENT_DEVICE) {
        ASSERT_EQ(entry.offset, offsets.at(i)) << "page " << i;
      }
    }
  }

  std::string host_difference(int buffer, std::uint64_t size, std::uint8_t with = tag) {
    const auto bytes = host_bytes(buffer, 0, size);
    return pattern_difference(bytes.data(), bytes.size(), with, 0);
  }

  // Every other of the region's stretches of this size is taken, while the result lives.
  std::vector<Fd> fragment(std::uint64_t stretch) {
    std::vector<Fd> all(first_region().size / stretch);
    for (Fd& fd : all) fd = allocate(stretch);
    // By place, not by age: neighbours are never both given back.
    std::vector<Fd> kept;
    for (Fd& fd : all)
      if (query(fd.get()).chunks.at(0).offset / stretch % 2 == 0) kept.push_back(std::move(fd));
    return kept;
  }

  int unbind() const { return unbind_function(function_); }
  // So that a move of 20 MiB is under way for long enough to be met by something else.
  int slow_down_engine() const {
    return knobs_.set("copy_delay_ms", static_cast<std::uint64_t>(
                                           patience(std::chrono::milliseconds(50)).count()));
  }
  // With an importer that has the buffer mapped, and is not told or does not listen.
  std::future<int> unbind_that_waits(const Own& own) const {
    std::future<int> unbound = std::async(std::launch::async, [this] { return unbind(); });
    EXPECT_TRUE(eventually([&] { return placement(own.fd()) == DMABRIDGE_PLACEMENT_NONE; }));
    EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout)
        << "the device goes while it is mapped";
    return unbound;
  }

  const std::string function_ = pci_address(first_region().device);
  const Knobs knobs_{function_};
  const Drive raw_ = drive("SAMESW");

 private:
  std::unique_ptr<Accelerator> accelerator_;
};

// --- the driver's own buffers
// ---------------------------------------------------------------------------

TEST_F(Driver, RegionIsTheDrivers) {
  const auto found = regions();
  ASSERT_EQ(found.size(), 1u);
  EXPECT_STREQ(found[0].driver, "dmabridge_accelerator");
  EXPECT_EQ(found[0].kind, DMABRIDGE_REGION_BAR);
  EXPECT_EQ(found[0].flags, DMABRIDGE_REGION_HAS_PAGES | DMABRIDGE_REGION_HAS_ENGINE);
}

TEST_F(Driver, RegionCanBePartOfABar) {
  bind_with({{"offset", std::to_string(32 * MiB)}, {"size", std::to_string(4 * MiB)}});
  EXPECT_EQ(first_region().size, 4 * MiB);
  const Own own = create(4 * MiB);
  expect_table_is_right(own);
  EXPECT_EQ(query(own.fd()).chunks.at(0).offset, 0u);
  write_pattern(own.fd(), 1 * MiB);
  const auto bytes = host_read("vram-vram0", 32 * MiB, 1 * MiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), tag, 0), "");
  ASSERT_EQ(accelerator().evict(own.handle), 0);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  const Bound bound = bind_own(own, raw_.path());
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, 1 * MiB, 0, 3 * MiB), static_cast<std::int64_t>(1 * MiB));
  const auto loaded = host_read("vram-vram0", 35 * MiB, 1 * MiB);
  EXPECT_EQ(pattern_difference(loaded.data(), loaded.size(), 0xa0, 0), "");
  forget(own);
}

TEST_F(Driver, BufferIsLikeAnyOther) {
  const Own own = create(4 * MiB, DMABRIDGE_POLICY_REQUIRE);
  const Query found = query(own.fd());
  EXPECT_EQ(found.head.size, 4 * MiB);
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(found.head.policy, DMABRIDGE_POLICY_REQUIRE);
  EXPECT_STREQ(found.head.region, first_region().name);
  EXPECT_EQ(first_region().nr_buffers, 1u);
  expect_table_is_right(own);

  const Bound bound = bind_own(own, raw_.path());
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  TraceWatch watch;
  ASSERT_EQ(load(bound, 4 * MiB, 16 * MiB), static_cast<std::int64_t>(4 * MiB));
  EXPECT_EQ(difference(bound, 4 * MiB, 0xa0, 16 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, 4 * MiB);
  const auto account = watch.account(raw_, oracle::Operation::read, {{16 * MiB, 4 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 4 * MiB);
  EXPECT_EQ(account.payload.outside, 0u);
  forget(own);
}

// The driver is told of their moves too, and has nothing to do with them.
TEST_F(Driver, BufferOfTheRegionsNodeWorksBesideIt) {
  const Own own = create(1 * MiB);
  const Fd other = allocate(1 * MiB);
  write_pattern(other.get(), 1 * MiB);
  const auto before = accelerator().look_up(own.handle, 0);
  ASSERT_EQ(move(other.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(mapped_difference(other.get(), 1 * MiB), "");
  ASSERT_EQ(move(other.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(host_difference(other.get(), 1 * MiB), "");
  EXPECT_EQ(accelerator().look_up(own.handle, 0).updates, before.updates);
  forget(own);
}

TEST_F(Driver, BufferOutlivesItsHandle) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  forget(own);
  EXPECT_EQ(accelerator().destroy(own.handle), -ENOENT);
  EXPECT_EQ(accelerator().evict(own.handle), -ENOENT);
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  EXPECT_EQ(first_region().nr_buffers, 1u);
}

TEST_F(Driver, HandleOutlivesTheFd) {
  Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  own.buffer.reset();
  EXPECT_EQ(first_region().nr_buffers, 1u);
  own.buffer = accelerator().dma_buf(own.handle);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(Driver, NodeRefusesNonsense) {
  std::uint32_t handle = 0;
  EXPECT_EQ(accelerator().create(0, DMABRIDGE_POLICY_PREFER, device_memory, &handle), -EINVAL);
  EXPECT_EQ(accelerator().create(4095, DMABRIDGE_POLICY_PREFER, device_memory, &handle), -EINVAL);
  EXPECT_EQ(accelerator().create(page, 0, device_memory, &handle), -EINVAL);
  EXPECT_EQ(accelerator().create(page, 4, device_memory, &handle), -EINVAL);
  EXPECT_EQ(accelerator().create(page, DMABRIDGE_POLICY_PREFER, 2, &handle), -EINVAL);
  EXPECT_EQ(accelerator().create(page, DMABRIDGE_POLICY_PREFER, system_memory, &handle), -ENOSPC);
  EXPECT_EQ(accelerator().create(first_region().size + page, DMABRIDGE_POLICY_PREFER, device_memory,
                                 &handle),
            -ENOSPC);
  EXPECT_EQ(
      accelerator().create(~std::uint64_t(4095), DMABRIDGE_POLICY_REQUIRE, device_memory, &handle),
      -ENOSPC);
  EXPECT_EQ(
      accelerator().create(~std::uint64_t(4095), DMABRIDGE_POLICY_FORBID, device_memory, &handle),
      -ENOSPC)
      << "the machine's memory is no match for it";
  EXPECT_EQ(accelerator().evict(1), -ENOENT);
  EXPECT_EQ(accelerator().fill(1, 0, page, 0), -ENOENT);
  const Own own = create(64 * KiB);
  EXPECT_EQ(accelerator().fill(own.handle, 4, page, 0), -EINVAL);
  EXPECT_EQ(accelerator().fill(own.handle, 0, 0, 0), -EINVAL);
  EXPECT_EQ(accelerator().fill(own.handle, 64 * KiB - 8, 16, 0), -EINVAL);
  EXPECT_EQ(accelerator().fill(own.handle, ~std::uint64_t(7), 16, 0), -EINVAL);
  EXPECT_EQ(accelerator().checksum(own.handle, 0, page, 64 * KiB), -EINVAL);
  forget(own);
}

// --- the copy engine
// -------------------------------------------------------------------------------------

TEST_F(Driver, EngineCarriesTheBytes) {
  const std::uint64_t size = 5 * MiB + page;
  const Own own = create(size);
  write_pattern(own.fd(), size);
  ASSERT_EQ(knobs_.set("copy_pieces", 0), 0);
  dmabridge_verdict verdict{};
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict), 0) << describe(verdict);
  const auto there = knobs_.get("copy_pieces");
  EXPECT_GT(there, 0u) << "the CPU has copied";
  EXPECT_EQ(mapped_difference(own.fd(), size), "");
  write_pattern(own.fd(), size, tag + 1);
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), 0) << describe(verdict);
  EXPECT_GT(knobs_.get("copy_pieces"), there);
  EXPECT_EQ(host_difference(own.fd(), size, tag + 1), "");
  forget(own);
}

TEST_F(Driver, EngineHasNothingToDoForAnEmptyBuffer) {
  const Fd buffer = allocate(4 * MiB);
  ASSERT_EQ(knobs_.set("copy_pieces", 0), 0);
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(knobs_.get("copy_pieces"), 0u);
}

TEST_F(Driver, EngineKnowsNoMoveLimit) {
  bind_with({{"move_limit", "65536"}});
  Vgem vgem;
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  EXPECT_EQ(first_region().move_limit, 64 * KiB);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(own.fd(), &handle), 0);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  vgem.close(handle);
  EXPECT_TRUE(eventually([&] { return placement(own.fd()) == DMABRIDGE_PLACEMENT_DEVICE; }));
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(Driver, WithoutAnEngineTheMoveLimitHolds) {
  bind_with({{"move_limit", "65536"}, {"engine", "N"}});
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_HAS_ENGINE);
  Vgem vgem;
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  std::uint32_t handle = 0;
  EXPECT_EQ(vgem.import(own.fd(), &handle), -EOPNOTSUPP);
  const Query found = query(own.fd());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  const dmabridge_reason* reason =
      find_reason(found.head.last_refused.verdict, DMABRIDGE_REASON_MOVE_LIMIT);
  ASSERT_TRUE(reason) << describe(found.head.last_refused.verdict);
  EXPECT_EQ(reason->value, 64 * KiB);
  // Who asks for it himself may wait for it himself.
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(Driver, PiecesEndInAnyOrder) {
  const std::uint64_t size = 8 * MiB;
  const Own own = create(size);
  write_pattern(own.fd(), size);
  ASSERT_EQ(knobs_.set("copy_most_busy", 0), 0);
  ASSERT_EQ(knobs_.set("copy_hold", 1), 0);
  ASSERT_EQ(knobs_.set("copy_last_first", 1), 0);
  auto moved =
      std::async(std::launch::async, [&] { return move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM); });
  EXPECT_TRUE(eventually([&] { return knobs_.get("copy_busy") > 1; })) << "one at a time";
  EXPECT_EQ(moved.wait_for(a_moment), std::future_status::timeout);
  EXPECT_EQ(knobs_.set("copy_hold", 0), 0);
  EXPECT_EQ(moved.get(), 0);
  EXPECT_GT(knobs_.get("copy_most_busy"), 1u);
  EXPECT_EQ(knobs_.get("copy_busy"), 0u);
  EXPECT_EQ(mapped_difference(own.fd(), size), "");
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(host_difference(own.fd(), size), "");
  forget(own);
}

struct Fault {
  const char* name;
  const char* knob;
  int error;
  std::uint32_t from;
};

class EngineFault : public Driver, public testing::WithParamInterface<Fault> {};

INSTANTIATE_TEST_SUITE_P(
    Driver, EngineFault,
    testing::Values(
        Fault{"FailureOffTheDevice", "copy_fail_every", EIO, DMABRIDGE_PLACEMENT_DEVICE},
        Fault{"FailureOntoTheDevice", "copy_fail_every", EIO, DMABRIDGE_PLACEMENT_SYSTEM},
        Fault{"RefusalOffTheDevice", "copy_refuse_every", ENOSPC, DMABRIDGE_PLACEMENT_DEVICE},
        Fault{"RefusalOntoTheDevice", "copy_refuse_every", ENOSPC, DMABRIDGE_PLACEMENT_SYSTEM}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_P(EngineFault, LeavesTheBufferWholeWhereItIs) {
  const Fault fault = GetParam();
  const std::uint64_t size = 4 * MiB + page;
  const std::uint32_t to = fault.from == DMABRIDGE_PLACEMENT_DEVICE ? DMABRIDGE_PLACEMENT_SYSTEM
                                                                    : DMABRIDGE_PLACEMENT_DEVICE;
  const Own own = create(size);
  ASSERT_EQ(move(own.fd(), fault.from), 0);
  write_pattern(own.fd(), size);
  const Query before = query(own.fd());
  const auto updates = accelerator().look_up(own.handle, 0).updates;
  const auto available = first_region().available;

  // Not the first.
  ASSERT_EQ(knobs_.set("copy_pieces", 0), 0);
  ASSERT_EQ(knobs_.set(fault.knob, 2), 0);
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(own.fd(), to, &verdict), -fault.error) << describe(verdict);
  const dmabridge_reason* reason = find_reason(verdict, DMABRIDGE_REASON_COPY_FAILED);
  ASSERT_TRUE(reason) << describe(verdict);
  EXPECT_EQ(reason->value, static_cast<std::uint64_t>(fault.error));
  EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_BLOCKS_MOVE);

  const Query after = query(own.fd());
  EXPECT_EQ(after.head.placement, fault.from);
  EXPECT_EQ(after.head.generation, before.head.generation);
  EXPECT_EQ(after.head.moves, before.head.moves);
  EXPECT_EQ(accelerator().look_up(own.handle, 0).updates, updates) << "it was told of a move";
  EXPECT_EQ(first_region().available, available) << "memory that was taken for it is lost";
  EXPECT_EQ(mapped_difference(own.fd(), size), "");
  EXPECT_EQ(knobs_.get("copy_busy"), 0u);

  ASSERT_EQ(knobs_.set(fault.knob, 0), 0);
  EXPECT_EQ(move(own.fd(), to), 0);
  EXPECT_EQ(mapped_difference(own.fd(), size), "");
  forget(own);
}

TEST_F(Driver, EngineFailureRefusesAnAttachmentAndSaysWhy) {
  Vgem vgem;
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  ASSERT_EQ(knobs_.set("copy_fail_every", 1), 0);
  std::uint32_t handle = 0;
  EXPECT_EQ(vgem.import(own.fd(), &handle), -EIO);
  const Query found = query(own.fd());
  EXPECT_TRUE(found.users.empty());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_TRUE(find_reason(found.head.last_refused.verdict, DMABRIDGE_REASON_COPY_FAILED))
      << describe(found.head.last_refused.verdict);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

// By contract an engine ends what it began. Who waits for it can be killed, and goes when it does.
TEST_F(Driver, KilledWhileTheEngineHangs) {
  // More pieces than the engine gets at a time.
  const std::uint64_t size = 20 * MiB, written = 1 * MiB;
  const Own own = create(size);
  write_pattern(own.fd(), written);
  ASSERT_EQ(knobs_.set("copy_hold", 1), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM) == 0 ? 0 : 1);
  EXPECT_TRUE(eventually([&] { return knobs_.get("copy_busy") > 0; }));
  ASSERT_EQ(kill(child, SIGKILL), 0);
  int status = 0;
  std::this_thread::sleep_for(a_moment);
  EXPECT_EQ(waitpid(child, &status, WNOHANG), 0) << "the engine writes to memory of nobody";
  EXPECT_EQ(knobs_.set("copy_hold", 0), 0);
  ASSERT_TRUE(eventually([&] { return waitpid(child, &status, WNOHANG) == child; }));
  EXPECT_TRUE(WIFSIGNALED(status));

  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(query(own.fd()).head.moves, 0u);
  EXPECT_EQ(host_difference(own.fd(), written), "");
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(mapped_difference(own.fd(), written), "");
  forget(own);
}

TEST_F(Driver, UnbindWhileTheEngineCopies) {
  const std::uint64_t size = 20 * MiB;
  const Own own = create(size);
  const Mapping mapping(own.fd(), size);
  fill_pattern(mapping.data(), page, tag, 0);
  ASSERT_EQ(slow_down_engine(), 0);
  dmabridge_verdict verdict{};
  auto moved = std::async(std::launch::async,
                          [&] { return move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict); });
  EXPECT_TRUE(eventually([&] { return knobs_.get("copy_busy") > 0; }));
  ASSERT_EQ(unbind(), 0);
  EXPECT_EQ(moved.get(), -ENODEV);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_REVOKED)) << describe(verdict);
  EXPECT_FALSE(is_there(mapping.data()));
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_NONE);
  EXPECT_TRUE(regions().empty());
}

TEST_F(Driver, BuffersMoveAtTheSameTime) {
  constexpr int threads = 3;
  const std::uint64_t size = 1 * MiB;
  std::vector<Own> buffers;
  for (int i = 0; i < threads; i++) {
    buffers.push_back(create(size));
    write_pattern(buffers.back().fd(), size, static_cast<std::uint8_t>(tag + i));
  }
  std::vector<std::thread> movers;
  for (const Own& own : buffers)
    movers.emplace_back([&own] {
      for (int i = 0; i < 8; i++)
        EXPECT_EQ(
            move(own.fd(), i % 2 == 0 ? DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_DEVICE),
            0);
    });
  for (std::thread& mover : movers) mover.join();
  for (int i = 0; i < threads; i++) {
    EXPECT_EQ(host_difference(buffers[i].fd(), size, static_cast<std::uint8_t>(tag + i)), "");
    expect_table_is_right(buffers[i]);
    forget(buffers[i]);
  }
}

// --- a BAR without pages
// ---------------------------------------------------------------------------------

TEST_F(Driver, EngineServesBounces) {
  bind_with({{"pages", "N"}});
  EXPECT_EQ(first_region().flags, DMABRIDGE_REGION_HAS_ENGINE);
  const Own own = create(4 * MiB);
  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER,
                               DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_BOUNCE);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_NO_PAGES));
  ASSERT_EQ(knobs_.set("copy_pieces", 0), 0);
  ASSERT_EQ(load(bound, 4 * MiB, 8 * MiB), static_cast<std::int64_t>(4 * MiB));
  EXPECT_GT(knobs_.get("copy_pieces"), 0u);
  EXPECT_EQ(difference(bound, 4 * MiB, 0xa0, 8 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_BOUNCE, 4 * MiB);
  const auto loaded = knobs_.get("copy_pieces");
  ASSERT_EQ(save(bound, 4 * MiB, 8 * MiB), static_cast<std::int64_t>(4 * MiB));
  EXPECT_GT(knobs_.get("copy_pieces"), loaded);
  const auto image = host_read(raw_.image(), 8 * MiB, 4 * MiB);
  EXPECT_EQ(pattern_difference(image.data(), image.size(), 0xa0, 8 * MiB), "");
  forget(own);
}

TEST_F(Driver, EngineFailureEndsABounceWithItsError) {
  bind_with({{"pages", "N"}});
  const Own own = create(1 * MiB);
  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(knobs_.set("copy_fail_every", 1), 0);
  EXPECT_EQ(load(bound, 64 * KiB), -EIO);
  EXPECT_EQ(bound.info().errors, 1u);
  ASSERT_EQ(knobs_.set("copy_fail_every", 0), 0);
  EXPECT_EQ(load(bound, 64 * KiB), static_cast<std::int64_t>(64 * KiB));
  EXPECT_EQ(difference(bound, 64 * KiB, 0xa0), "");
  forget(own);
}

TEST_F(Driver, UnbindWhileABounceIsWithTheEngine) {
  bind_with({{"pages", "N"}});
  const Own own = create(8 * MiB);
  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(slow_down_engine(), 0);
  for (unsigned i = 0; i < 8; i++)
    ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, i * MiB, 1 * MiB, i * MiB);
  ring_.submit();
  EXPECT_TRUE(eventually([&] { return knobs_.get("copy_busy") > 0; }));
  ASSERT_EQ(unbind(), 0);
  for (unsigned i = 0; i < 8; i++) {
    const int result = ring_.wait();
    EXPECT_TRUE(result == -ENODEV || result > 0) << result;
  }
}

// --- veto
// ------------------------------------------------------------------------------------------------

TEST_F(Driver, VetoRedirectsOrRefuses) {
  bind_with({{"deny", pci_address_of_drive("SAMESW")}, {"deny_value", "42"}});
  const Own own = create(1 * MiB);
  const Bound refused = bind_own(own, raw_.path(), DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(refused.binding.error, -EOPNOTSUPP);
  const dmabridge_reason* reason =
      find_reason(refused.binding.verdict, DMABRIDGE_REASON_EXPORTER_VETO);
  ASSERT_TRUE(reason) << describe(refused.binding.verdict);
  EXPECT_EQ(reason->value, 42u);
  EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_BLOCKS_P2P);
  EXPECT_EQ(refused.binding.verdict.nr_reasons, 1u) << describe(refused.binding.verdict);

  const Bound redirected = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(redirected.binding.error, 0) << describe(redirected.binding.verdict);
  EXPECT_EQ(redirected.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  reason = find_reason(redirected.binding.verdict, DMABRIDGE_REASON_EXPORTER_VETO);
  ASSERT_TRUE(reason) << describe(redirected.binding.verdict);
  EXPECT_EQ(reason->value, 42u);
  ASSERT_EQ(load(redirected, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(difference(redirected, 1 * MiB, 0xa0), "");
  expect_only(redirected, DMABRIDGE_ROUTE_SYSTEM, 1 * MiB);
  forget(own);
}

TEST_F(Driver, VetoIsOfOneFunctionOnly) {
  bind_with({{"deny", pci_address_of_drive("OTHERRP")}, {"deny_value", "42"}});
  const Own own = create(1 * MiB);
  {
    const Bound bound = bind_own(own, raw_.path());
    EXPECT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  }
  const Bound other = bind_own(own, drive("OTHERRP").path());
  EXPECT_EQ(other.binding.error, -EOPNOTSUPP);
  EXPECT_TRUE(find_reason(other.binding.verdict, DMABRIDGE_REASON_EXPORTER_VETO))
      << describe(other.binding.verdict);
  EXPECT_GT(other.binding.verdict.nr_reasons, 1u)
      << "the path's own reasons are missing: " << describe(other.binding.verdict);
  forget(own);
}

TEST_F(Driver, VetoIsAskedAtAttach) {
  bind_with({{"deny", pci_address_of_drive("SAMESW")}, {"deny_value", "43"}});
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  {
    const Attached attached = attach(own.fd(), p2p_revocable, nvme("SAMESW"));
    ASSERT_EQ(attached.error, 0);
    EXPECT_FALSE(attached.peer2peer);
    const Query found = query(own.fd());
    EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_SYSTEM);
    ASSERT_EQ(found.users.size(), 1u);
    const dmabridge_reason* reason =
        find_reason(found.users[0].verdict, DMABRIDGE_REASON_EXPORTER_VETO);
    ASSERT_TRUE(reason) << describe(found.users[0].verdict);
    EXPECT_EQ(reason->value, 43u);
    expect_table_is_right(own);
  }
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  const Own insists = create(1 * MiB, DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(attach(insists.fd(), p2p_revocable, nvme("SAMESW")).error, -EOPNOTSUPP);
  const Query refused = query(insists.fd());
  EXPECT_TRUE(find_reason(refused.head.last_refused.verdict, DMABRIDGE_REASON_EXPORTER_VETO))
      << describe(refused.head.last_refused.verdict);
  forget(own);
  forget(insists);
}

TEST_F(Driver, VetoIsForetold) {
  bind_with({{"deny", pci_address_of_drive("SAMESW")}, {"deny_value", "44"}});
  const Own own = create(1 * MiB);
  const Fd target = open_file(raw_.path(), O_RDONLY);
  const Answer answer = ask_file(own.fd(), target.get());
  const Answer in_advance = ask_file(first_region(), target.get());
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_EXPORTER_VETO))
      << describe(answer.verdict);
  {
    const Bound refused = bind_own(own, raw_.path(), DMABRIDGE_POLICY_REQUIRE);
    EXPECT_EQ(answer.error, refused.binding.error);
    EXPECT_EQ(describe(answer.verdict), describe(refused.binding.verdict));
    EXPECT_EQ(describe(in_advance.verdict), describe(refused.binding.verdict));
  }
  const Answer function =
      ask_function(own.fd(), nvme("SAMESW").function,
                   DMABRIDGE_NEGOTIATE_PEER2PEER | DMABRIDGE_NEGOTIATE_REVOCABLE);
  const Attached attached = attach(own.fd(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(attached.error, 0);
  const Query found = query(own.fd());
  ASSERT_EQ(found.users.size(), 1u);
  EXPECT_EQ(describe(function.verdict), describe(found.users[0].verdict));
  forget(own);
}

TEST_F(Driver, SuspendIsForetold) {
  const Own own = create(1 * MiB);
  const Fd target = open_file(raw_.path(), O_RDONLY);
  ASSERT_EQ(knobs_.control("suspend"), 0);
  const Answer in_advance = ask_file(first_region(), target.get());
  const Answer answer = ask_file(own.fd(), target.get());
  const Bound refused = bind_own(own, raw_.path(), DMABRIDGE_POLICY_REQUIRE);
  ASSERT_EQ(knobs_.control("resume"), 0);
  EXPECT_EQ(in_advance.error, -EBUSY) << "nothing can be allocated";
  EXPECT_TRUE(find_reason(in_advance.verdict, DMABRIDGE_REASON_SUSPENDED))
      << describe(in_advance.verdict);
  EXPECT_EQ(answer.error, refused.binding.error);
  EXPECT_EQ(describe(answer.verdict), describe(refused.binding.verdict));
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_SUSPENDED)) << describe(answer.verdict);
  forget(own);
}

// --- being told of moves
// ----------------------------------------------------------------------------------

TEST_F(Driver, TableFollowsEveryMove) {
  const std::uint64_t size = 3 * MiB + page;
  const Own own = create(size);
  expect_table_is_right(own);
  auto updates = accelerator().look_up(own.handle, 0).updates;
  for (const std::uint32_t to : {DMABRIDGE_PLACEMENT_SYSTEM, DMABRIDGE_PLACEMENT_DEVICE,
                                 DMABRIDGE_PLACEMENT_SYSTEM, DMABRIDGE_PLACEMENT_DEVICE}) {
    ASSERT_EQ(move(own.fd(), to), 0);
    expect_table_is_right(own);
    EXPECT_EQ(accelerator().look_up(own.handle, 0).placement, to);
    EXPECT_EQ(accelerator().look_up(own.handle, 0).updates, ++updates);
  }
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(accelerator().look_up(own.handle, 0).updates, updates) << "told, but nothing moved";

  ASSERT_EQ(knobs_.control("lose"), 0);
  for (std::uint64_t i = 0; i < size / page; i++)
    ASSERT_EQ(accelerator().look_up(own.handle, i).placement, DMABRIDGE_PLACEMENT_NONE);
  EXPECT_EQ(accelerator().look_up(own.handle, 0).updates, ++updates);
  forget(own);
}

TEST_F(Driver, TableIsRightForManyChunks) {
  bind_with({{"size", std::to_string(8 * MiB)}});
  const std::vector<Fd> others = fragment(256 * KiB);
  const std::uint64_t size = 4 * MiB;
  ASSERT_TRUE(eventually([&] { return first_region().available == size; }));
  const Own own = create(size);
  ASSERT_EQ(query(own.fd()).chunks.size(), 16u) << "not fragmented";
  expect_table_is_right(own);

  ASSERT_EQ(accelerator().fill(own.handle, 0, size, 0x0123456789abcdef), 0);
  EXPECT_TRUE(eventually([&] { return is_done(own.fd()); }));
  const auto filled = host_bytes(own.fd(), 0, size);
  EXPECT_TRUE(all_words_are(filled.data(), size, 0x0123456789abcdef));

  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, size), static_cast<std::int64_t>(size));
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, size);
  EXPECT_EQ(host_difference(own.fd(), size, 0xa0), "");

  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  expect_table_is_right(own);
  EXPECT_EQ(mapped_difference(own.fd(), size, 0xa0), "");
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  expect_table_is_right(own);
  EXPECT_EQ(host_difference(own.fd(), size, 0xa0), "");
  forget(own);
}

// --- evictions
// ----------------------------------------------------------------------------------------

TEST_F(Driver, EvictionUnderARequiringBinding) {
  const Own own = create(1 * MiB);
  const Bound bound = bind_own(own, raw_.path());
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));

  ASSERT_EQ(accelerator().evict(own.handle), 0);
  const Query found = query(own.fd());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(found.head.last_move.code, DMABRIDGE_REASON_EVICTED);
  EXPECT_TRUE(found.head.last_move.flags & DMABRIDGE_REASON_HAS_DEVICE);
  EXPECT_EQ(pci_address(found.head.last_move.device), function_);
  EXPECT_EQ(first_region().available, first_region().limit) << "the eviction made no room";
  EXPECT_EQ(load(bound, 64 * KiB), -EREMOTEIO) << "who insists on P2P gets nothing else";
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB, 0xa0), "");
  expect_table_is_right(own);

  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(load(bound, 1 * MiB, 32 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(difference(bound, 1 * MiB, 0xa0, 32 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, 2 * MiB);
  forget(own);
}

TEST_F(Driver, EvictedBufferServesWhoComesNext) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  ASSERT_EQ(accelerator().evict(own.handle), 0);
  ASSERT_EQ(accelerator().evict(own.handle), 0) << "it is there already";
  EXPECT_EQ(query(own.fd()).head.moves, 1u);
  {
    const Bound prefers = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
    ASSERT_EQ(prefers.binding.error, 0) << describe(prefers.binding.verdict);
    EXPECT_EQ(prefers.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
    EXPECT_TRUE(find_reason(prefers.binding.verdict, DMABRIDGE_REASON_EVICTED))
        << describe(prefers.binding.verdict);
  }
  const Bound insists = bind_own(own, raw_.path(), DMABRIDGE_POLICY_REQUIRE);
  ASSERT_EQ(insists.binding.error, 0) << describe(insists.binding.verdict);
  EXPECT_EQ(insists.binding.verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(Driver, EvictionGoesOverHoldsAndPolicies) {
  const Own own = create(1 * MiB, DMABRIDGE_POLICY_REQUIRE);
  write_pattern(own.fd(), 1 * MiB);
  const Hold held = hold(own.fd(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  ASSERT_EQ(accelerator().evict(own.handle), 0);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

// --- pages that are pinned
// -------------------------------------------------------------------------------

// Direct I/O of a child process into a mapping of a buffer, which does not end before it is let:
// the block layer holds it back.
class PendingDirectRead {
 public:
  // Returns when the pages are pinned.
  PendingDirectRead(const std::string& disk, int buffer, std::uint64_t length)
      : number_(device_number(disk)) {
    const Output made = shell(
        "mkdir -p /run/cgroup && { mountpoint -q /run/cgroup || mount -t cgroup2 none /run/cgroup; "
        "}"
        " && echo +io >/run/cgroup/cgroup.subtree_control && mkdir -p /run/cgroup/slow");
    if (made.status != 0) throw std::runtime_error("no cgroup: " + made.text);
    limit("rbps=1024");
    child_ = fork();
    if (child_ == 0) {
      const Fd file = open_file(disk, O_RDONLY | O_DIRECT);
      const Mapping mapping(buffer, length);
      if (write_text("/run/cgroup/slow/cgroup.procs", std::to_string(getpid())) != 0) _exit(3);
      _exit(pread(file.get(), mapping.data(), length, 0) == static_cast<ssize_t>(length) ? 0 : 2);
    }
    if (!eventually([&] { return is_held_back(); }))
      throw std::runtime_error("direct I/O is not held back");
  }
  ~PendingDirectRead() {
    if (child_ > 0) finish();
  }

  // Lets it go on. The child's exit status.
  int finish() {
    limit("rbps=max");
    int status = -1;
    waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
  }

 private:
  static std::string device_number(const std::string& disk) {
    struct stat status{};
    if (stat(disk.c_str(), &status) != 0)
      throw std::system_error(errno, std::generic_category(), disk);
    return fmt::format("{}:{}", major(status.st_rdev), minor(status.st_rdev));
  }
  void limit(const std::string& value) {
    const int error = write_text("/run/cgroup/slow/io.max", number_ + " " + value);
    if (error != 0) throw std::system_error(-error, std::generic_category(), "io.max");
  }
  // In pread(), and waiting there. The pages were pinned before that.
  bool is_held_back() const {
    const std::string process = fmt::format("/proc/{}/", child_);
    return oracle::read_line(process + "syscall").starts_with(fmt::format("{} ", SYS_pread64)) &&
           oracle::read_line(process + "stat").find(") D ") != std::string::npos;
  }

  std::string number_;
  pid_t child_ = -1;
};

TEST_F(Driver, PinnedBufferIsNotEvicted) {
  const Own own = create(1 * MiB);
  PendingDirectRead pin(raw_.path(), own.fd(), 1 * MiB);
  EXPECT_EQ(accelerator().evict(own.handle), -EBUSY);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict), -EBUSY);
  const dmabridge_reason* reason = find_reason(verdict, DMABRIDGE_REASON_PINNED_BY_USER);
  ASSERT_TRUE(reason) << describe(verdict);
  EXPECT_EQ(reason->value, 1 * MiB / page) << "not as many pages as are pinned";
  EXPECT_EQ(pin.finish(), 0);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB, 0xa0), "");
  EXPECT_TRUE(eventually([&] { return accelerator().evict(own.handle) == 0; }));
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB, 0xa0), "");
  forget(own);
}

TEST_F(Driver, ImportersFollowAnEviction) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  Attached attached = attach(own.fd(), p2p_revocable, nvme("SAMESW"), TEST_IMPORTER_UNMAP);
  ASSERT_EQ(attached.error, 0);
  ASSERT_TRUE(attached.peer2peer);
  attached.attachment.map();
  ASSERT_EQ(accelerator().evict(own.handle), 0);
  EXPECT_GE(attached.attachment.events().invalidations, 1u);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  EXPECT_TRUE(eventually([] { return first_region().available == first_region().limit; }))
      << "the importer's old mapping was never let go of";
  forget(own);
}

TEST_F(Driver, BufferPinnedByAnImporterIsNotEvicted) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  Attached attached = attach(own.fd(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(attached.error, 0);
  ASSERT_EQ(attached.attachment.pin(), 0);
  EXPECT_EQ(accelerator().evict(own.handle), -EBUSY);
  EXPECT_EQ(knobs_.control("suspend"), -EBUSY);
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  ASSERT_EQ(attached.attachment.unpin(), 0);
  EXPECT_EQ(accelerator().evict(own.handle), 0);
  forget(own);
}

// --- suspend and resume
// ------------------------------------------------------------------------------------

TEST_F(Driver, SuspendSavesAllAndResumeBringsThemHome) {
  const std::uint64_t size = 2 * MiB;
  const Own insists = create(size, DMABRIDGE_POLICY_REQUIRE), prefers = create(size),
            forbids = create(size, DMABRIDGE_POLICY_FORBID);
  const Fd others = allocate(size);
  for (const int fd : {insists.fd(), prefers.fd(), forbids.fd(), others.get()})
    write_pattern(fd, size);

  ASSERT_EQ(knobs_.control("suspend"), 0);
  EXPECT_TRUE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(first_region().available, first_region().limit);
  for (const int fd : {insists.fd(), prefers.fd(), forbids.fd(), others.get()}) {
    EXPECT_EQ(placement(fd), DMABRIDGE_PLACEMENT_SYSTEM);
    EXPECT_EQ(mapped_difference(fd, size), "");
  }
  EXPECT_EQ(query(prefers.fd()).head.last_move.code, DMABRIDGE_REASON_SUSPENDED);
  EXPECT_EQ(query(forbids.fd()).head.moves, 0u);
  expect_table_is_right(insists);

  ASSERT_EQ(knobs_.control("resume"), 0);
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  for (const int fd : {insists.fd(), prefers.fd(), others.get()}) {
    EXPECT_EQ(placement(fd), DMABRIDGE_PLACEMENT_DEVICE);
    EXPECT_EQ(host_difference(fd, size), "");
  }
  EXPECT_EQ(query(prefers.fd()).head.last_move.code, DMABRIDGE_REASON_RESTORED);
  EXPECT_EQ(placement(forbids.fd()), DMABRIDGE_PLACEMENT_SYSTEM);
  expect_table_is_right(insists);
  for (const Own* own : {&insists, &prefers, &forbids}) forget(*own);
}

TEST_F(Driver, NothingGetsOntoASuspendedDevice) {
  const Own own = create(1 * MiB);
  ASSERT_EQ(knobs_.control("suspend"), 0);
  std::uint32_t handle = 0;
  EXPECT_EQ(accelerator().create(page, DMABRIDGE_POLICY_PREFER, device_memory, &handle), -EBUSY);
  try {
    allocate(page);
    ADD_FAILURE() << "the node allocates";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), EBUSY);
  }
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_SUSPENDED)) << describe(verdict);
  const Hold held = hold(own.fd(), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(held.error, -EBUSY);
  EXPECT_TRUE(find_reason(held.verdict, DMABRIDGE_REASON_SUSPENDED)) << describe(held.verdict);
  const Bound insists = bind_own(own, raw_.path());
  EXPECT_EQ(insists.binding.error, -EBUSY);
  EXPECT_TRUE(find_reason(insists.binding.verdict, DMABRIDGE_REASON_SUSPENDED))
      << describe(insists.binding.verdict);
  {
    const Bound prefers = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
    ASSERT_EQ(prefers.binding.error, 0) << describe(prefers.binding.verdict);
    EXPECT_EQ(prefers.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
    EXPECT_TRUE(find_reason(prefers.binding.verdict, DMABRIDGE_REASON_SUSPENDED))
        << describe(prefers.binding.verdict);
    EXPECT_EQ(load(prefers, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  }
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_SYSTEM)
      << "the last user's leaving took it to a suspended device";
  ASSERT_EQ(knobs_.control("resume"), 0);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB, 0xa0), "");
  forget(own);
}

TEST_F(Driver, BindingComesThroughASuspend) {
  const Own own = create(1 * MiB), other = create(1 * MiB);
  const Bound insists = bind_own(own, raw_.path());
  const Bound prefers = bind_own(other, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(insists.binding.error, 0);
  ASSERT_EQ(prefers.binding.error, 0);
  ASSERT_EQ(knobs_.control("suspend"), 0);
  EXPECT_EQ(load(insists, 1 * MiB), -EREMOTEIO);
  EXPECT_EQ(load(prefers, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  expect_only(prefers, DMABRIDGE_ROUTE_SYSTEM, 1 * MiB);
  ASSERT_EQ(knobs_.control("resume"), 0);
  EXPECT_EQ(load(insists, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  expect_only(insists, DMABRIDGE_ROUTE_P2P_BUS, 1 * MiB);
  EXPECT_EQ(difference(insists, 1 * MiB, 0xa0), "");
  EXPECT_EQ(difference(prefers, 1 * MiB, 0xa0), "");
  EXPECT_EQ(load(prefers, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(prefers.bytes_on(DMABRIDGE_ROUTE_P2P_BUS), 1 * MiB);
  forget(own);
  forget(other);
}

TEST_F(Driver, SuspendInMidLoad) {
  const Own own = create(1 * MiB);
  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  std::atomic<bool> done{false};
  std::thread sleeper([&] {
    for (int i = 0; i < 10; i++) {
      EXPECT_EQ(knobs_.control("suspend"), 0);
      EXPECT_EQ(knobs_.control("resume"), 0);
    }
    done = true;
  });
  while (!done) {
    EXPECT_EQ(load(bound, 1 * MiB, 4 * MiB, 0, 64 * KiB), static_cast<std::int64_t>(1 * MiB));
  }
  sleeper.join();
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(difference(bound, 1 * MiB, 0xa0, 4 * MiB), "");
  forget(own);
}

TEST_F(Driver, SuspendAndResumeTwiceInARow) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  for (int i = 0; i < 2; i++) EXPECT_EQ(knobs_.control("suspend"), 0);
  EXPECT_EQ(query(own.fd()).head.moves, 1u);
  for (int i = 0; i < 2; i++) EXPECT_EQ(knobs_.control("resume"), 0);
  EXPECT_EQ(query(own.fd()).head.moves, 2u);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(Driver, ResumeLeavesWhatOthersNeedInSystemMemory) {
  Vgem vgem;
  const Own imported = create(1 * MiB), held = create(1 * MiB), asked = create(1 * MiB);
  for (const Own* own : {&imported, &held, &asked}) write_pattern(own->fd(), 1 * MiB);
  ASSERT_EQ(move(asked.fd(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  ASSERT_EQ(knobs_.control("suspend"), 0);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(imported.fd(), &handle), 0);
  Hold hold_fd = hold(held.fd(), DMABRIDGE_PLACEMENT_SYSTEM);
  ASSERT_EQ(hold_fd.error, 0) << describe(hold_fd.verdict);
  ASSERT_EQ(knobs_.control("resume"), 0);
  for (const Own* own : {&imported, &held, &asked})
    EXPECT_EQ(placement(own->fd()), DMABRIDGE_PLACEMENT_SYSTEM);
  vgem.close(handle);
  hold_fd.fd.reset();
  for (const Own* own : {&imported, &held}) {
    EXPECT_TRUE(eventually([&] { return placement(own->fd()) == DMABRIDGE_PLACEMENT_DEVICE; }));
    EXPECT_EQ(host_difference(own->fd(), 1 * MiB), "");
  }
  EXPECT_EQ(placement(asked.fd()), DMABRIDGE_PLACEMENT_SYSTEM) << "it was asked to be there";
  for (const Own* own : {&imported, &held, &asked}) forget(*own);
}

TEST_F(Driver, PinnedBufferStopsASuspend) {
  const Own first = create(1 * MiB), pinned = create(1 * MiB), last = create(1 * MiB);
  write_pattern(first.fd(), 1 * MiB);
  write_pattern(last.fd(), 1 * MiB);
  PendingDirectRead pin(raw_.path(), pinned.fd(), 1 * MiB);
  EXPECT_EQ(knobs_.control("suspend"), -EBUSY);
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(placement(pinned.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(mapped_difference(first.fd(), 1 * MiB), "");
  EXPECT_EQ(mapped_difference(last.fd(), 1 * MiB), "");
  // In use as before; those that were saved already are as if they had been evicted.
  const Own fresh = create(1 * MiB);
  EXPECT_EQ(placement(fresh.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  if (placement(first.fd()) == DMABRIDGE_PLACEMENT_SYSTEM) {
    const Bound prefers = bind_own(first, raw_.path(), DMABRIDGE_POLICY_PREFER);
    EXPECT_TRUE(find_reason(prefers.binding.verdict, DMABRIDGE_REASON_EVICTED))
        << describe(prefers.binding.verdict);
  }
  for (const Own* own : {&first, &last}) EXPECT_EQ(move(own->fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);

  EXPECT_EQ(pin.finish(), 0);
  EXPECT_EQ(host_difference(pinned.fd(), 1 * MiB, 0xa0), "");
  EXPECT_TRUE(eventually([&] { return knobs_.control("suspend") == 0; }));
  EXPECT_EQ(mapped_difference(pinned.fd(), 1 * MiB, 0xa0), "");
  ASSERT_EQ(knobs_.control("resume"), 0);
  for (const Own* own : {&first, &last}) EXPECT_EQ(host_difference(own->fd(), 1 * MiB), "");
  EXPECT_EQ(host_difference(pinned.fd(), 1 * MiB, 0xa0), "");
  for (const Own* own : {&first, &pinned, &last, &fresh}) forget(*own);
}

TEST_F(Driver, EngineFailureStopsASuspend) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  ASSERT_EQ(knobs_.set("copy_fail_every", 1), 0);
  EXPECT_EQ(knobs_.control("suspend"), -EIO);
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  const Own other = create(page);
  EXPECT_EQ(placement(other.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  forget(own);
  forget(other);
}

TEST_F(Driver, NoRoomAfterAResumeLeavesTheBufferWhole) {
  bind_with({{"size", std::to_string(4 * MiB)}});
  const std::uint64_t all = first_region().size;
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  ASSERT_EQ(accelerator().evict(own.handle), 0);
  const Fd filler = allocate(all);
  ASSERT_EQ(knobs_.control("suspend"), 0);
  ASSERT_EQ(knobs_.control("resume"), 0);
  EXPECT_EQ(placement(filler.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(Driver, KilledSuspendLeavesTheDeviceInUse) {
  const Own own = create(1 * MiB);
  ASSERT_EQ(knobs_.set("compute_hold", 1), 0);
  ASSERT_EQ(accelerator().fill(own.handle, 0, 1 * MiB, 7), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(knobs_.control("suspend") == 0 ? 0 : 1);
  EXPECT_TRUE(eventually([] { return (first_region().flags & DMABRIDGE_REGION_SUSPENDED) != 0; }));
  ASSERT_EQ(kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_TRUE(eventually([&] { return waitpid(child, &status, WNOHANG) == child; }))
      << "it cannot be killed while it waits for a fence";
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(knobs_.set("compute_hold", 0), 0);
  EXPECT_TRUE(eventually([&] { return is_done(own.fd()); }));
  const auto bytes = host_bytes(own.fd(), 0, 1 * MiB);
  EXPECT_TRUE(all_words_are(bytes.data(), bytes.size(), 7));
  forget(own);
}

// The kernel's own suspend, as far as all devices have been suspended and back again; with either
// driver.
class SystemSuspend : public Driver, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    Driver::SetUp();
    if (std::string(GetParam()) != "dmabridge_accelerator") {
      close_node();
      ASSERT_EQ(bind_function(function_, GetParam()), 0);
      ASSERT_TRUE(node_appears());
    }
    const Output loaded = shell("modprobe dmabridge_test_awake");
    ASSERT_EQ(loaded.status, 0) << loaded.text;
    ASSERT_EQ(write_text("/sys/module/suspend/parameters/pm_test_delay", "0"), 0);
    ASSERT_EQ(write_text("/sys/power/pm_test", "devices"), 0);
  }
  void TearDown() override {
    EXPECT_EQ(write_text("/sys/power/pm_test", "none"), 0);
    EXPECT_EQ(shell("rmmod dmabridge_test_awake").status, 0);
    Driver::TearDown();
  }
  // 0 or -errno.
  static int suspend() { return write_text("/sys/power/state", "freeze"); }
};

INSTANTIATE_TEST_SUITE_P(Driver, SystemSuspend,
                         testing::Values("dmabridge_pci", "dmabridge_accelerator"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(SystemSuspend, BuffersComeThroughIt) {
  const Fd buffer = allocate(2 * MiB);
  write_pattern(buffer.get(), 2 * MiB);
  const Mapping mapping(buffer.get(), 2 * MiB);
  const Fd target = open_file(raw_.path(), O_RDONLY);
  const Fd loaded = allocate(1 * MiB);
  const Binding binding = bind(loaded.get(), target.get());
  ASSERT_EQ(binding.error, 0) << describe(binding.verdict);
  ASSERT_EQ(suspend(), 0);
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  const Query found = query(buffer.get());
  EXPECT_EQ(found.head.moves, 2u) << "the driver was not told";
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(found.head.last_move.code, DMABRIDGE_REASON_RESTORED);
  EXPECT_EQ(host_difference(buffer.get(), 2 * MiB), "");
  EXPECT_EQ(pattern_difference(mapping.data(), 2 * MiB, tag, 0), "");
  ASSERT_EQ(ring_.transfer(binding.fd.get(), DMABRIDGE_URING_READ, 0, 1 * MiB, 0),
            static_cast<int>(1 * MiB));
  EXPECT_EQ(host_difference(loaded.get(), 1 * MiB, 0xa0), "");
}

TEST_P(SystemSuspend, PinnedBufferStopsIt) {
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  Attached attached = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(attached.error, 0);
  ASSERT_EQ(attached.attachment.pin(), 0);
  EXPECT_EQ(suspend(), -EBUSY);
  EXPECT_FALSE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(query(buffer.get()).head.moves, 0u);
  EXPECT_EQ(host_difference(buffer.get(), 1 * MiB), "");
  ASSERT_EQ(attached.attachment.unpin(), 0);
  EXPECT_EQ(suspend(), 0);
  EXPECT_EQ(query(buffer.get()).head.moves, 2u);
  EXPECT_EQ(host_difference(buffer.get(), 1 * MiB), "");
}

// --- when the memory is lost
// ---------------------------------------------------------------------------------

TEST_F(Driver, LostMemoryRevokesAndTheDeviceGoesOn) {
  bind_with({{"size", std::to_string(4 * MiB)}});
  const std::uint64_t all = first_region().size;
  const std::uint32_t id = first_region().id;
  const Own own = create(1 * MiB), in_system = create(1 * MiB, DMABRIDGE_POLICY_FORBID);
  const Fd filler = allocate(3 * MiB);
  const Mapping mapping(own.fd(), 1 * MiB), system_mapping(in_system.fd(), 1 * MiB);
  for (const Mapping* each : {&mapping, &system_mapping})
    fill_pattern(each->data(), 1 * MiB, tag, 0);
  write_pattern(filler.get(), 3 * MiB);
  const Bound bound = bind_own(own, raw_.path());
  ASSERT_EQ(bound.binding.error, 0);
  const auto generation = query(own.fd()).head.generation;

  ASSERT_EQ(knobs_.control("lose"), 0);
  EXPECT_TRUE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  for (const int fd : {own.fd(), in_system.fd(), filler.get()}) {
    const Query found = query(fd);
    EXPECT_TRUE(found.head.flags & DMABRIDGE_BUFFER_REVOKED);
    EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_NONE);
    EXPECT_EQ(move(fd, DMABRIDGE_PLACEMENT_SYSTEM), -ENODEV);
    EXPECT_THROW(Mapping(fd, page), std::system_error);
  }
  EXPECT_GT(query(own.fd()).head.generation, generation);
  EXPECT_EQ(query(own.fd()).head.last_move.code, DMABRIDGE_REASON_REVOKED);
  EXPECT_FALSE(is_there(mapping.data()));
  EXPECT_FALSE(is_there(system_mapping.data()));
  EXPECT_EQ(load(bound, 64 * KiB), -ENODEV);
  EXPECT_EQ(accelerator().evict(own.handle), -ENODEV);
  EXPECT_EQ(accelerator().fill(own.handle, 0, page, 0), -ENODEV);
  std::uint32_t handle = 0;
  EXPECT_EQ(accelerator().create(page, DMABRIDGE_POLICY_PREFER, device_memory, &handle), -EBUSY);

  recover();
  EXPECT_EQ(first_region().id, id) << "it is another region";
  EXPECT_EQ(query(own.fd()).head.placement, DMABRIDGE_PLACEMENT_NONE) << "a revoked buffer lives";
  EXPECT_FALSE(is_there(mapping.data()));
  const Own whole = create(all, DMABRIDGE_POLICY_REQUIRE);
  const auto bytes = host_bytes(whole.fd(), 0, all);
  EXPECT_TRUE(all_words_are(bytes.data(), bytes.size(), 0)) << "old bytes";
  const Bound again = bind_own(whole, raw_.path());
  ASSERT_EQ(again.binding.error, 0) << describe(again.binding.verdict);
  EXPECT_EQ(load(again, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(difference(again, 1 * MiB, 0xa0), "");
  for (const Own* each : {&own, &in_system, &whole}) forget(*each);
}

TEST_F(Driver, MemoryIsLostTwiceInARowAndInMidLoad) {
  for (int round = 0; round < 3; round++) {
    const Own own = create(4 * MiB);
    const Bound bound = bind_own(own, raw_.path());
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    for (unsigned i = 0; i < 32; i++)
      ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, i % 4 * MiB, 1 * MiB, i * MiB);
    ring_.submit();
    EXPECT_EQ(knobs_.control("lose"), 0);
    EXPECT_EQ(knobs_.control("lose"), 0);
    for (unsigned i = 0; i < 32; i++) {
      const int result = ring_.wait();
      EXPECT_TRUE(result == -ENODEV || result == static_cast<int>(1 * MiB)) << result;
    }
    recover();
    forget(own);
  }
}

// Who holds on to what was lost first keeps that recovery from its end until long after the next
// loss, of which it knows nothing.
TEST_F(Driver, EndOfARecoveryIsNotTheEndOfTheNext) {
  const Own own = create(1 * MiB);
  Attached importer = attach(own.fd(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  const std::uint32_t mapped = importer.attachment.map();
  ASSERT_EQ(knobs_.control("lose"), 0);
  ASSERT_EQ(knobs_.control("recover"), 0);
  ASSERT_EQ(knobs_.control("lose"), 0);
  EXPECT_EQ(importer.attachment.unmap(mapped), 0);
  std::this_thread::sleep_for(a_moment);
  EXPECT_TRUE(first_region().flags & DMABRIDGE_REGION_SUSPENDED)
      << "memory of a device that is lost can be had";
  std::uint32_t handle = 0;
  EXPECT_EQ(accelerator().create(page, DMABRIDGE_POLICY_PREFER, device_memory, &handle), -EBUSY);
  recover();
  forget(own);
  forget(create(page));
}

// The driver may say so after an error that cost nothing.
TEST_F(Driver, RecoveryWithoutALossChangesNothing) {
  const Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  Attached importer = attach(own.fd(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  const std::uint32_t mapped = importer.attachment.map();
  ASSERT_EQ(knobs_.control("recover"), 0);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  forget(own);
  close_node();
  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  EXPECT_TRUE(eventually([&] { return importer.attachment.events().invalidations == 1; }));
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout)
      << "the device goes while it is mapped";
  EXPECT_EQ(importer.attachment.unmap(mapped), 0);
  EXPECT_EQ(unbound.get(), 0);
}

// --- importers that cannot be told to stop
// ------------------------------------------------------------------------------------

// The region's policy, and what it costs, are there to be read; that an importer is refused
// otherwise is in AttachTable.
TEST_F(Driver, UnrevocableImporterIsTakenIfTheDriverWaitsForIt) {
  bind_with({{"take_unrevocable", "Y"}});
  EXPECT_TRUE(first_region().flags & DMABRIDGE_REGION_TAKES_UNREVOCABLE);
  const Own own = create(1 * MiB);
  Attached importer = attach(own.fd(), p2p, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  EXPECT_TRUE(importer.peer2peer);
  const Query found = query(own.fd());
  ASSERT_EQ(found.users.size(), 1u);
  EXPECT_EQ(found.users[0].verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  EXPECT_TRUE(found.users[0].flags & DMABRIDGE_USER_P2P);
  EXPECT_FALSE(found.users[0].flags & DMABRIDGE_USER_REVOCABLE);
  const std::uint32_t mapped = importer.attachment.map();
  EXPECT_EQ(accelerator().evict(own.handle), -EBUSY) << "it cannot be told to let go";
  forget(own);
  close_node();

  std::future<int> unbound = unbind_that_waits(own);
  EXPECT_EQ(importer.attachment.events().invalidations, 0u);
  EXPECT_EQ(importer.attachment.unmap(mapped), 0);
  EXPECT_EQ(unbound.get(), 0);
}

// The same for the drivers of RDMA devices that are such importers, by name, which pin as well.
class UnrevocableRdmaDriver : public Driver, public testing::WithParamInterface<RdmaDriver> {};

TEST_P(UnrevocableRdmaDriver, IsWaitedForWhereItIsTaken) {
  bind_with({{"take_unrevocable", "Y"}});
  const Own own = create(1 * MiB);
  Attached nic = attach(own.fd(), p2p, nvme("SAMESW"));
  ASSERT_EQ(nic.error, 0);
  EXPECT_TRUE(nic.peer2peer);
  const Query found = query(own.fd());
  ASSERT_EQ(found.users.size(), 1u);
  EXPECT_EQ(found.users[0].verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  ASSERT_EQ(nic.attachment.pin(), 0);
  const std::uint32_t mapped = nic.attachment.map();
  EXPECT_EQ(accelerator().evict(own.handle), -EBUSY);
  forget(own);
  close_node();

  std::future<int> unbound = unbind_that_waits(own);
  // As deregistration does.
  EXPECT_EQ(nic.attachment.unmap(mapped), 0);
  EXPECT_EQ(nic.attachment.unpin(), 0);
  EXPECT_EQ(unbound.get(), 0);
}

std::vector<RdmaDriver> unrevocable_rdma_drivers() {
  std::vector<RdmaDriver> found;
  std::ranges::copy_if(rdma_drivers, std::back_inserter(found),
                       [](const RdmaDriver& driver) { return !driver.revocable; });
  return found;
}

INSTANTIATE_TEST_SUITE_P(Driver, UnrevocableRdmaDriver,
                         testing::ValuesIn(unrevocable_rdma_drivers()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_F(Driver, SuspendedMemoryCanBeLostToo) {
  const Own own = create(1 * MiB);
  ASSERT_EQ(knobs_.control("suspend"), 0);
  ASSERT_EQ(knobs_.control("lose"), 0);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_NONE);
  ASSERT_EQ(knobs_.control("recover"), 0);
  // Each keeps memory from being handed out by itself.
  EXPECT_TRUE(first_region().flags & DMABRIDGE_REGION_SUSPENDED);
  ASSERT_EQ(knobs_.control("resume"), 0);
  EXPECT_TRUE(eventually([] { return !(first_region().flags & DMABRIDGE_REGION_SUSPENDED); }));
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_NONE);
  forget(own);
}

// --- system memory as a region
// -------------------------------------------------------------------------------

class SystemRegion : public Driver {
 protected:
  void SetUp() override { bind_with({{"system_limit", std::to_string(limit_)}}); }

  dmabridge_region_info region() const {
    for (const auto& info : regions())
      if (info.kind == DMABRIDGE_REGION_SYSTEM) return info;
    throw std::runtime_error("no system region");
  }
  const std::uint64_t limit_ = 8 * MiB;
};

TEST_F(SystemRegion, IsBesideTheDevices) {
  ASSERT_EQ(regions().size(), 2u);
  const auto info = region();
  EXPECT_EQ(std::string(info.name), function_ + "-system");
  EXPECT_STREQ(info.driver, "dmabridge_accelerator");
  EXPECT_EQ(pci_address(info.device), function_);
  EXPECT_EQ(info.limit, limit_);
  EXPECT_EQ(info.available, limit_);
  EXPECT_FALSE(info.flags & DMABRIDGE_REGION_HAS_ENGINE);
}

TEST_F(SystemRegion, BufferIsServedFromSystemMemory) {
  const Own own = create(1 * MiB, DMABRIDGE_POLICY_PREFER, system_memory);
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_STREQ(query(own.fd()).head.region, region().name);
  expect_table_is_right(own);
  {
    const Mapping mapping(own.fd(), 1 * MiB);
    EXPECT_TRUE(all_words_are(mapping.data(), 1 * MiB, 0));
  }
  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_SYSTEM_REGION))
      << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 1 * MiB);
  EXPECT_EQ(difference(bound, 1 * MiB, 0xa0), "");

  const Bound insists = bind_own(own, raw_.path(), DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(insists.binding.error, -EOPNOTSUPP);
  EXPECT_TRUE(find_reason(insists.binding.verdict, DMABRIDGE_REASON_SYSTEM_REGION))
      << describe(insists.binding.verdict);
  forget(own);
}

TEST_F(SystemRegion, ABufferThatRequiresDeviceMemoryIsRefused) {
  std::uint32_t handle = 0;
  EXPECT_EQ(accelerator().create(1 * MiB, DMABRIDGE_POLICY_REQUIRE, system_memory, &handle),
            -EOPNOTSUPP);
  const Fd node = open_file(region_node(region()), O_RDWR);
  dmabridge_alloc alloc{};
  alloc.size = page;
  alloc.policy = DMABRIDGE_POLICY_REQUIRE;
  EXPECT_EQ(call(node.get(), DMABRIDGE_IOCTL_ALLOC, &alloc), -EOPNOTSUPP);
  EXPECT_EQ(region().available, limit_);
  alloc.policy = DMABRIDGE_POLICY_PREFER;
  ASSERT_EQ(call(node.get(), DMABRIDGE_IOCTL_ALLOC, &alloc), 0);
  const Fd buffer(alloc.fd);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
}

TEST_F(SystemRegion, LimitIsKept) {
  const Own all = create(limit_, DMABRIDGE_POLICY_PREFER, system_memory);
  EXPECT_EQ(region().available, 0u);
  std::uint32_t handle = 0;
  EXPECT_EQ(accelerator().create(page, DMABRIDGE_POLICY_PREFER, system_memory, &handle), -ENOSPC);
  // What is redirected there is no memory of that region.
  const Own other = create(1 * MiB);
  EXPECT_EQ(accelerator().evict(other.handle), 0);
  EXPECT_EQ(region().nr_buffers, 1u);
  forget(all);
  forget(other);
}

TEST_F(SystemRegion, NothingGoesToADeviceThatThereIsNot) {
  const Own own = create(1 * MiB, DMABRIDGE_POLICY_PREFER, system_memory);
  write_pattern(own.fd(), 1 * MiB);
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EOPNOTSUPP);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_SYSTEM_REGION)) << describe(verdict);
  const Hold refused = hold(own.fd(), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(refused.error, -EOPNOTSUPP);
  EXPECT_TRUE(find_reason(refused.verdict, DMABRIDGE_REASON_SYSTEM_REGION))
      << describe(refused.verdict);
  const Hold held = hold(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(held.error, 0) << describe(held.verdict);
  EXPECT_EQ(accelerator().evict(own.handle), 0);
  EXPECT_EQ(mapped_difference(own.fd(), 1 * MiB), "");
  forget(own);
}

TEST_F(SystemRegion, AStaticImporterIsServed) {
  Vgem vgem;
  const Own own = create(1 * MiB, DMABRIDGE_POLICY_PREFER, system_memory);
  std::uint32_t handle = 0;
  ASSERT_EQ(vgem.import(own.fd(), &handle), 0);
  EXPECT_EQ(query(own.fd()).head.moves, 0u);
  vgem.close(handle);
  EXPECT_EQ(query(own.fd()).head.moves, 0u);
  forget(own);
}

TEST_F(SystemRegion, BothRegionsWorkAtOnce) {
  const Own near = create(4 * MiB), far = create(4 * MiB, DMABRIDGE_POLICY_PREFER, system_memory);
  const Bound first = bind_own(near, raw_.path()),
              second = bind_own(far, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(first.binding.error, 0) << describe(first.binding.verdict);
  ASSERT_EQ(second.binding.error, 0) << describe(second.binding.verdict);
  for (unsigned i = 0; i < 8; i++)
    ring_.prepare((i % 2 == 0 ? first : second).fd(), DMABRIDGE_URING_READ, i / 2 * MiB, 1 * MiB,
                  i / 2 * MiB);
  ring_.submit();
  for (unsigned i = 0; i < 8; i++) EXPECT_EQ(ring_.wait(), static_cast<int>(1 * MiB));
  EXPECT_EQ(difference(first, 4 * MiB, 0xa0), "");
  EXPECT_EQ(difference(second, 4 * MiB, 0xa0), "");
  ASSERT_EQ(knobs_.control("suspend"), 0);
  EXPECT_FALSE(region().flags & DMABRIDGE_REGION_SUSPENDED);
  EXPECT_EQ(load(second, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  ASSERT_EQ(knobs_.control("resume"), 0);
  forget(near);
  forget(far);
}

TEST_F(SystemRegion, GoesWithItsDriver) {
  Own own = create(1 * MiB, DMABRIDGE_POLICY_PREFER, system_memory);
  const Mapping mapping(own.fd(), 1 * MiB);
  fill_pattern(mapping.data(), 1 * MiB, tag, 0);
  ASSERT_EQ(unbind(), 0);
  EXPECT_TRUE(regions().empty());
  EXPECT_FALSE(is_there(mapping.data()));
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_NONE);
}

// --- the device's own work
// ------------------------------------------------------------------------------------

TEST_F(Driver, JobsWorkWhereverTheBufferIs) {
  const std::uint64_t size = 1 * MiB;
  const Own own = create(size);
  for (const std::uint32_t where : {DMABRIDGE_PLACEMENT_DEVICE, DMABRIDGE_PLACEMENT_SYSTEM}) {
    ASSERT_EQ(move(own.fd(), where), 0);
    ASSERT_EQ(accelerator().fill(own.handle, 0, size, 3), 0);
    ASSERT_EQ(accelerator().fill(own.handle, page - 8, page, 5), 0);
    ASSERT_EQ(accelerator().checksum(own.handle, 0, size, size - 8), 0);
    // Waits for the jobs.
    dma_buf_sync sync{DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
    ASSERT_EQ(call(own.fd(), DMA_BUF_IOCTL_SYNC, &sync), 0);
    const Mapping mapping(own.fd(), size, 0, PROT_READ);
    EXPECT_TRUE(all_words_are(mapping.data(), page - 8, 3));
    EXPECT_TRUE(all_words_are(mapping.data() + page - 8, page, 5));
    EXPECT_TRUE(all_words_are(mapping.data() + 2 * page - 8, size - 2 * page, 3));
    std::uint64_t sum = 0;
    std::memcpy(&sum, mapping.data() + size - 8, 8);
    EXPECT_EQ(sum, 3 * (size - page) / 8 + 5 * page / 8);
  }
  forget(own);
}

// Nobody but the device has ever touched these bytes.
TEST_F(Driver, WhatTheDeviceWroteSurvivesMoves) {
  const std::uint64_t size = 1 * MiB;
  const Own own = create(size);
  ASSERT_EQ(accelerator().fill(own.handle, 0, size, 0x1122334455667788), 0);
  ASSERT_EQ(accelerator().evict(own.handle), 0);
  {
    const Mapping mapping(own.fd(), size, 0, PROT_READ);
    EXPECT_TRUE(all_words_are(mapping.data(), size, 0x1122334455667788));
  }
  ASSERT_EQ(move(own.fd(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  const auto bytes = host_bytes(own.fd(), 0, size);
  EXPECT_TRUE(all_words_are(bytes.data(), size, 0x1122334455667788));
  forget(own);
}

TEST_F(Driver, PendingJobHoldsOffBlockIo) {
  const std::uint64_t size = 1 * MiB;
  const Own own = create(size);
  const Bound bound = bind_own(own, raw_.path());
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(knobs_.set("compute_hold", 1), 0);
  ASSERT_EQ(accelerator().fill(own.handle, 0, size, 9), 0);
  EXPECT_FALSE(is_done(own.fd()));
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, size, 0);
  ring_.submit();
  int result = 0;
  EXPECT_FALSE(ring_.wait_for(300, &result)) << "it did not wait; result " << result;
  ASSERT_EQ(knobs_.set("compute_hold", 0), 0);
  ASSERT_TRUE(ring_.wait_for(10000, &result)) << "it waits for ever";
  EXPECT_EQ(result, static_cast<int>(size));
  EXPECT_EQ(difference(bound, size, 0xa0), "") << "the job came last";
  EXPECT_TRUE(is_done(own.fd()));
  forget(own);
}

TEST_F(Driver, PendingJobHoldsOffAMove) {
  const std::uint64_t size = 1 * MiB;
  const Own own = create(size);
  ASSERT_EQ(knobs_.set("compute_hold", 1), 0);
  ASSERT_EQ(accelerator().fill(own.handle, 0, size, 11), 0);
  auto moved =
      std::async(std::launch::async, [&] { return move(own.fd(), DMABRIDGE_PLACEMENT_SYSTEM); });
  EXPECT_EQ(moved.wait_for(a_moment), std::future_status::timeout) << "it did not wait";
  ASSERT_EQ(knobs_.set("compute_hold", 0), 0);
  EXPECT_EQ(moved.get(), 0);
  const Mapping mapping(own.fd(), size, 0, PROT_READ);
  EXPECT_TRUE(all_words_are(mapping.data(), size, 11));
  forget(own);
}

TEST_F(Driver, PendingJobHoldsOffAnImporter) {
  Vgem vgem;
  const Own own = create(1 * MiB);
  ASSERT_EQ(knobs_.set("compute_hold", 1), 0);
  ASSERT_EQ(accelerator().fill(own.handle, 0, 1 * MiB, 12), 0);
  std::uint32_t handle = 0;
  auto imported = std::async(std::launch::async, [&] { return vgem.import(own.fd(), &handle); });
  EXPECT_EQ(imported.wait_for(a_moment), std::future_status::timeout);
  ASSERT_EQ(knobs_.set("compute_hold", 0), 0);
  EXPECT_EQ(imported.get(), 0);
  const Mapping mapping(own.fd(), 1 * MiB, 0, PROT_READ);
  EXPECT_TRUE(all_words_are(mapping.data(), 1 * MiB, 12));
  vgem.close(handle);
  forget(own);
}

TEST_F(Driver, JobWaitsForTheFencesOfOthers) {
  Vgem vgem;
  const Own own = create(1 * MiB);
  const Fd foreign = vgem.export_new(page);
  const std::uint32_t fence = vgem.attach_fence(foreign.get());
  copy_fences(foreign.get(), own.fd());
  ASSERT_EQ(accelerator().fill(own.handle, 0, 1 * MiB, 13), 0);
  std::this_thread::sleep_for(a_moment);
  const auto before = host_bytes(own.fd(), 0, 1 * MiB);
  EXPECT_TRUE(all_words_are(before.data(), before.size(), 0)) << "it did not wait";
  vgem.signal_fence(fence);
  EXPECT_TRUE(eventually([&] { return is_done(own.fd()); }));
  const auto after = host_bytes(own.fd(), 0, 1 * MiB);
  EXPECT_TRUE(all_words_are(after.data(), after.size(), 13));
  forget(own);
}

TEST_F(Driver, JobsEndWithTheirDevice) {
  Own own = create(1 * MiB);
  const Bound bound = bind_own(own, raw_.path());
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(knobs_.set("compute_hold", 1), 0);
  ASSERT_EQ(accelerator().fill(own.handle, 0, 1 * MiB, 17), 0);
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 64 * KiB, 0);
  ring_.submit();
  ASSERT_EQ(unbind(), 0);
  EXPECT_TRUE(is_done(own.fd()));
  // The job's end lets it go, and that may be just before the revoke.
  const int result = ring_.wait();
  EXPECT_TRUE(result == -ENODEV || result == static_cast<int>(64 * KiB)) << result;
}

TEST_F(Driver, JobsEndWhenMemoryIsLost) {
  const Own own = create(1 * MiB);
  ASSERT_EQ(knobs_.set("compute_hold", 1), 0);
  ASSERT_EQ(accelerator().fill(own.handle, 0, 1 * MiB, 17), 0);
  ASSERT_EQ(knobs_.control("lose"), 0);
  EXPECT_TRUE(eventually([&] { return is_done(own.fd()); }));
  recover();
  ASSERT_EQ(knobs_.set("compute_hold", 0), 0);
  const Own fresh = create(1 * MiB);
  ASSERT_EQ(accelerator().fill(fresh.handle, 0, 1 * MiB, 19), 0);
  EXPECT_TRUE(eventually([&] { return is_done(fresh.fd()); }));
  const auto bytes = host_bytes(fresh.fd(), 0, 1 * MiB);
  EXPECT_TRUE(all_words_are(bytes.data(), bytes.size(), 19));
  forget(own);
  forget(fresh);
}

TEST_F(Driver, JobsAndMovesAndLoadsAtOnce) {
  const std::uint64_t size = 2 * MiB;
  const Own own = create(size);
  const Bound bound = bind_own(own, raw_.path(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.error, 0);
  std::atomic<bool> done{false};
  std::thread mover([&] {
    for (int i = 0; i < 20; i++)
      EXPECT_EQ(
          move(own.fd(), i % 2 == 0 ? DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_DEVICE), 0);
    done = true;
  });
  // The device works on the first half, the drive on the second.
  for (std::uint64_t value = 1; !done; value++) {
    EXPECT_EQ(accelerator().fill(own.handle, 0, size / 2, value), 0);
    EXPECT_EQ(load(bound, size / 2, size / 2, size / 2), static_cast<std::int64_t>(size / 2));
  }
  mover.join();
  EXPECT_EQ(accelerator().fill(own.handle, 0, size / 2, 23), 0);
  EXPECT_TRUE(eventually([&] { return is_done(own.fd()); }));
  const auto bytes = contents(bound, 0, size);
  EXPECT_TRUE(all_words_are(bytes.data(), size / 2, 23));
  EXPECT_EQ(pattern_difference(bytes.data() + size / 2, size / 2, 0xa0, size / 2), "");
  expect_table_is_right(own);
  forget(own);
}

// --- the end
// ---------------------------------------------------------------------------------------------

TEST_F(Driver, NodeOfADeviceThatIsGoneGivesNothing) {
  const Accelerator kept(function_);
  std::uint32_t handle = 0;
  ASSERT_EQ(kept.create(1 * MiB, DMABRIDGE_POLICY_PREFER, device_memory, &handle), 0);
  ASSERT_EQ(unbind(), 0);
  EXPECT_EQ(kept.create(1 * MiB, DMABRIDGE_POLICY_PREFER, device_memory, &handle), -ENODEV);
  EXPECT_EQ(kept.evict(handle), -ENODEV);
  EXPECT_EQ(kept.destroy(handle), -ENODEV);
  ASSERT_EQ(bind_function(function_, "dmabridge_accelerator"), 0);
  EXPECT_EQ(kept.evict(handle), -ENODEV) << "an old handle on a new device";
}

TEST_F(Driver, ModuleStaysWhileItsNodeIsOpenAndGoesAfterThat) {
  Own own = create(1 * MiB);
  write_pattern(own.fd(), 1 * MiB);
  EXPECT_NE(shell("rmmod dmabridge_accelerator").status, 0) << "its node is open";
  EXPECT_EQ(host_difference(own.fd(), 1 * MiB), "");
  EXPECT_NE(shell("rmmod dmabridge").status, 0) << "a driver uses it";
  close_node();
  const Output removed = shell("rmmod dmabridge_accelerator");
  EXPECT_EQ(removed.status, 0) << removed.text;
  EXPECT_TRUE(regions().empty());
  EXPECT_EQ(placement(own.fd()), DMABRIDGE_PLACEMENT_NONE) << "the shell of the buffer is left";
  EXPECT_NE(shell("rmmod dmabridge").status, 0) << "a buffer is left";
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// Buffers as MRs of a software RDMA device (rxe), with bytes that go through them. rxe has no
// dma-buf MRs: its are pinned mappings. What drivers get that have them is in the area attach.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include <dmabridge/control.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/rdma_importer.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/registration_cache.hpp>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <future>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "support/block_fixture.hpp"
#include "support/pci_driver.hpp"
#include "support/soft_rdma.hpp"

namespace dmabridge::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr int full_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                            IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
constexpr std::uint64_t page = 4096;
constexpr std::uint8_t old_tag = 0x61, new_tag = 0x62;

dmabridge_region_info region_of(std::uint32_t kind) {
  for (const auto& region : regions()) {
    if (region.kind == kind) return region;
  }
  throw std::runtime_error("this topology has no region of that kind");
}

// Whether an error has that reason, with a remedy.
bool gives(const error& failure, std::uint32_t code) {
  return std::ranges::any_of(failure.reasons(),
                             [&](const reason& why) { return why.code == code; });
}

bool gives(const verdict& word, std::uint32_t code) {
  return std::ranges::any_of(word.reasons, [&](const reason& why) { return why.code == code; });
}

std::optional<error> refused(const auto& action) {
  try {
    action();
    return {};
  } catch (const error& failure) {
    return failure;
  }
}

// A buffer of one region, and one device for all tests.
class Rdma : public BlockTest {
 protected:
  static void SetUpTestSuite() {
    link_ = std::make_unique<SoftRdma>("rxe0");
    device_ = std::make_unique<OpenRdma>("rxe0");
  }
  static void TearDownTestSuite() {
    device_.reset();
    link_.reset();
  }

  dmabridge::buffer take(std::uint64_t size, policy wanted = policy::prefer,
                         std::uint32_t kind = DMABRIDGE_REGION_BAR) const {
    return dmabridge::allocate(find_region(module_->regions(), region_of(kind).name), size, wanted);
  }
  memory_region enroll(const dmabridge::buffer& memory, const registration_request& wanted) const {
    return importer_->register_memory(memory, wanted);
  }
  static void fill(const dmabridge::buffer& memory, std::uint8_t tag) {
    const Mapping mapping(memory.descriptor(), memory.size());
    fill_pattern(mapping.data(), mapping.size(), tag, 0);
  }
  static std::string difference(const dmabridge::buffer& memory, std::uint8_t tag) {
    const Mapping mapping(memory.descriptor(), memory.size());
    return pattern_difference(mapping.data(), mapping.size(), tag, 0);
  }
  static std::uint32_t placement_of(const dmabridge::buffer& memory) {
    return placement(memory.descriptor());
  }

  // A peer reads the pattern of the whole buffer, and writes another one.
  void exchange(const dmabridge::buffer& memory, const memory_region& region) const {
    PlainMemory peer(*device_, memory.size());
    Loopback wire(*device_);
    ASSERT_EQ(wire.read(peer, memory.size(), region.address(), region.rkey()), IBV_WC_SUCCESS);
    EXPECT_EQ(pattern_difference(peer.bytes().data(), memory.size(), old_tag, 0), "");
    fill_pattern(peer.bytes().data(), memory.size(), new_tag, 0);
    ASSERT_EQ(wire.write(peer, memory.size(), region.address(), region.rkey()), IBV_WC_SUCCESS);
    EXPECT_EQ(difference(memory, new_tag), "");
  }

  static inline std::unique_ptr<SoftRdma> link_;
  static inline std::unique_ptr<OpenRdma> device_;
  std::optional<dmabridge::control> module_{std::in_place};
  std::optional<rdma_importer> importer_{std::in_place, device_->domain(), &*module_};
};

// --- what it is, and what it gets --------------------------------------------------------------

TEST_F(Rdma, SoftwareDeviceIsKnownAsWhatItIs) {
  EXPECT_EQ(importer_->device_name(), "rxe0");
  EXPECT_TRUE(importer_->by_cpu());
  EXPECT_FALSE(importer_->has_dmabuf_mr());
}

TEST_F(Rdma, DeviceMemoryIsServedFromSystemMemory) {
  const auto memory = take(2 * MiB);
  fill(memory, old_tag);
  ASSERT_EQ(placement_of(memory), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
  const auto outlook = importer_->outlook(memory, {.length = memory.size()});
  EXPECT_EQ(placement_of(memory), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
  {
    const auto region = enroll(memory, {.length = memory.size(), .access = full_access});
    EXPECT_EQ(region.method(), registration_method::pinned_mapping);
    EXPECT_EQ(region.verdict().route, route::system);
    EXPECT_TRUE(gives(region.verdict(), DMABRIDGE_REASON_BY_CPU));
    EXPECT_TRUE(gives(region.verdict(), DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR));
    EXPECT_EQ(placement_of(memory), static_cast<unsigned>(DMABRIDGE_PLACEMENT_SYSTEM));
    exchange(memory, region);
    // It came as was foretold.
    EXPECT_EQ(outlook.method, region.method());
    EXPECT_EQ(outlook.word.route, region.verdict().route);
    EXPECT_TRUE(gives(outlook.word, DMABRIDGE_REASON_BY_CPU));
    EXPECT_TRUE(outlook.blocks_moves);
    EXPECT_FALSE(outlook.blocks_revoke);
    EXPECT_TRUE(region.current());
  }
  EXPECT_EQ(placement_of(memory), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
  const auto bytes = host_bytes(memory.descriptor(), 0, memory.size());
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), new_tag, 0), "");
}

TEST_F(Rdma, StolenMemoryIsReachedWhereItIs) {
  const auto memory = take(2 * MiB, policy::prefer, DMABRIDGE_REGION_STOLEN);
  fill(memory, old_tag);
  EXPECT_EQ(importer_->outlook(memory, {.length = memory.size()}).word.route, route::stolen);
  for (const auto wanted : {policy::prefer, policy::require}) {
    const auto region =
        enroll(memory, {.length = memory.size(), .access = full_access, .policy = wanted});
    EXPECT_EQ(region.verdict().route, route::stolen);
    EXPECT_EQ(query(memory.descriptor()).head.moves, 0U);
    exchange(memory, region);
    // By way of the BAR.
    const auto bytes = host_bytes(memory.descriptor(), 0, memory.size());
    EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), new_tag, 0), "");
    fill(memory, old_tag);
  }
  const auto region =
      enroll(memory, {.length = memory.size(), .access = full_access, .policy = policy::forbid});
  EXPECT_EQ(region.verdict().route, route::system);
  EXPECT_TRUE(gives(region.verdict(), DMABRIDGE_REASON_POLICY_FORBID));
  exchange(memory, region);
}

TEST_F(Rdma, RequiredOnTheDeviceItIsRefusedAndSaysWhy) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  const auto before = query(memory.descriptor()).head.generation;
  const registration_request wanted{.length = MiB, .policy = policy::require};
  const auto failure = refused([&] { enroll(memory, wanted); });
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind(), error_kind::refused);
  EXPECT_TRUE(gives(*failure, DMABRIDGE_REASON_BY_CPU)) << failure->what();
  EXPECT_THAT(failure->what(), HasSubstr("rdma_rxe"));
  EXPECT_EQ(query(memory.descriptor()).head.generation, before) << "a refusal moves nothing";
  const auto outlook = importer_->outlook(memory, wanted);
  EXPECT_EQ(outlook.word.route, route::none);
  EXPECT_TRUE(gives(outlook.word, DMABRIDGE_REASON_BY_CPU));
  // The same by the buffer's own policy.
  const auto strict = take(MiB, policy::require);
  EXPECT_TRUE(refused([&] { enroll(strict, {.length = MiB}); }));
}

// A drive and rxe, together: both in system memory, because of rxe.
TEST_F(Rdma, DriveFollowsToSystemMemoryAndIsToldWhy) {
  const auto memory = take(MiB);
  const auto region = enroll(memory, {.length = MiB, .access = full_access});
  const Fd target = open_file(drive("SAMESW").path(), O_RDONLY);
  const Binding bound = bind(memory.descriptor(), target.get(), DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.error, 0) << describe(bound.verdict);
  EXPECT_EQ(bound.verdict.route, static_cast<unsigned>(DMABRIDGE_ROUTE_SYSTEM));
  EXPECT_NE(find_reason(bound.verdict, DMABRIDGE_REASON_DEMOTED), nullptr)
      << describe(bound.verdict);
  ASSERT_EQ(ring_.transfer(bound.fd.get(), DMABRIDGE_URING_READ, 0, MiB, 0), static_cast<int>(MiB));
  EXPECT_EQ(binding_info(bound.fd.get()).routes[DMABRIDGE_ROUTE_SYSTEM].bytes, MiB);
  // What the drive has brought, once its completion is there, a peer sees.
  PlainMemory peer(*device_, MiB);
  Loopback wire(*device_);
  ASSERT_EQ(wire.read(peer, MiB, region.address(), region.rkey()), IBV_WC_SUCCESS);
  EXPECT_EQ(pattern_difference(peer.bytes().data(), MiB, 0xa0, 0), "");
  EXPECT_EQ(bind(memory.descriptor(), target.get(), DMABRIDGE_POLICY_REQUIRE).error, -EOPNOTSUPP);
}

// --- every byte, and none beside ---------------------------------------------------------------

struct Part {
  const char* name;
  std::uint64_t offset;
  std::uint64_t length;
  std::optional<std::uint64_t> iova;
};

class RdmaPart : public Rdma, public testing::WithParamInterface<Part> {
 protected:
  static constexpr std::uint64_t size = 16 * page;
};

TEST_P(RdmaPart, PeersReachItAndNoByteBeside) {
  const auto& part = GetParam();
  const auto memory = take(size);
  fill(memory, old_tag);
  const auto region = enroll(
      memory,
      {.offset = part.offset, .length = part.length, .iova = part.iova, .access = full_access});
  EXPECT_EQ(region.address(), part.iova.value_or(part.offset));
  const Mapping mapping(memory.descriptor(), size);
  PlainMemory peer(*device_, size);
  {
    Loopback wire(*device_);
    ASSERT_EQ(wire.read(peer, part.length, region.address(), region.rkey()), IBV_WC_SUCCESS);
    EXPECT_EQ(std::memcmp(peer.bytes().data(), mapping.data() + part.offset, part.length), 0);
    std::ranges::fill(peer.bytes(), std::byte(0xee));
    ASSERT_EQ(wire.write(peer, part.length, region.address(), region.rkey()), IBV_WC_SUCCESS);
  }
  std::vector<std::byte> expected(size);
  fill_pattern(expected.data(), size, old_tag, 0);
  std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(part.offset), part.length,
              std::byte(0xee));
  EXPECT_TRUE(std::ranges::equal(expected, mapping.bytes()));

  // One byte too far: before it, behind it, and across its end. Nothing is touched.
  std::ranges::fill(peer.bytes(), std::byte(0x77));
  const std::uint64_t end = region.address() + part.length;
  for (const auto& [address, length] :
       {std::pair(region.address() - 1, std::uint64_t{1}), std::pair(end, std::uint64_t{1}),
        std::pair(region.address(), part.length + 1)}) {
    Loopback writing(*device_), reading(*device_);
    EXPECT_EQ(writing.write(peer, length, address, region.rkey()), IBV_WC_REM_ACCESS_ERR);
    EXPECT_EQ(reading.read(peer, length, address, region.rkey()), IBV_WC_REM_ACCESS_ERR);
  }
  EXPECT_TRUE(std::ranges::equal(expected, mapping.bytes()));
}

std::string name_of_part(const testing::TestParamInfo<Part>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(
    Rdma, RdmaPart,
    testing::Values(Part{"FirstPage", 0, page, 5 * page}, Part{"InteriorPage", 5 * page, page, {}},
                    Part{"InteriorPages", 5 * page, 3 * page, 1ULL << 40},
                    Part{"Unaligned", 2 * page + 123, 777, {}},
                    Part{"AcrossPages", 3 * page - 5, 10, (1ULL << 33) + page - 5},
                    Part{"OneByte", 7 * page + 1, 1, {}}, Part{"LastPage", 15 * page, page, {}},
                    Part{"LastByte", 16 * page - 1, 1, {}},
                    Part{"LastPagesUnaligned", 14 * page + 9, 2 * page - 9, 9}),
    name_of_part);

TEST_F(Rdma, AccessIsWhatWasAskedFor) {
  const auto memory = take(4 * page);
  fill(memory, old_tag);
  const auto region = enroll(memory, {.length = 4 * page, .access = IBV_ACCESS_REMOTE_READ});
  PlainMemory peer(*device_, 4 * page);
  {
    Loopback wire(*device_);
    EXPECT_EQ(wire.read(peer, 4 * page, region.address(), region.rkey()), IBV_WC_SUCCESS);
    EXPECT_EQ(wire.write(peer, 8, region.address(), region.rkey()), IBV_WC_REM_ACCESS_ERR);
  }
  EXPECT_EQ(difference(memory, old_tag), "");
}

TEST_F(Rdma, AtomicsCount) {
  const auto memory = take(page);
  const auto region = enroll(memory, {.offset = 64, .length = 8, .access = full_access});
  PlainMemory peer(*device_, 8);
  Loopback wire(*device_);
  for (std::uint64_t before = 0; before < 3; before++) {
    ASSERT_EQ(wire.fetch_add(peer, region.address(), region.rkey(), 1), IBV_WC_SUCCESS);
    EXPECT_EQ(std::memcmp(peer.bytes().data(), &before, 8), 0);
  }
  const Mapping mapping(memory.descriptor(), page);
  constexpr std::uint64_t after = 3;
  EXPECT_EQ(std::memcmp(mapping.data() + 64, &after, 8), 0);
}

TEST_F(Rdma, AnotherExportersMappingsAreNoPinnableOnes) {
  Vgem vgem;
  const auto memory = buffer::from_fd(fd(dup(vgem.export_new(MiB).get())));
  EXPECT_TRUE(importer_->outlook(memory, {.length = MiB}).unknown);
  const auto failure = refused([&] { enroll(memory, {.length = MiB}); });
  ASSERT_TRUE(failure);
  EXPECT_TRUE(gives(*failure, DMABRIDGE_REASON_FOREIGN_BUFFER)) << failure->what();
  EXPECT_TRUE(gives(*failure, DMABRIDGE_REASON_NOT_PINNABLE)) << failure->what();
  EXPECT_THAT(failure->what(), HasSubstr("EFAULT"));
}

// --- moves, revokes, ends ----------------------------------------------------------------------

TEST_F(Rdma, RegisteredBufferDoesNotMove) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  auto region = enroll(memory, {.length = MiB, .access = full_access});
  const auto failure = refused([&] { module_->move(memory.descriptor(), placement::device); });
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->kind(), error_kind::refused) << failure->what();
  EXPECT_TRUE(region.current());
  exchange(memory, region);
  region.deregister();
  // It is where its policy wants it, once nobody needs it elsewhere.
  EXPECT_EQ(placement_of(memory), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
}

// One that was made without the library has no hold. Its pins are seen all the same.
TEST_F(Rdma, PinsWithoutAHoldKeepItTooAndAreNamed) {
  const auto memory = take(MiB);
  ASSERT_EQ(move(memory.descriptor(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  const Mapping mapping(memory.descriptor(), MiB);
  ibv_mr* const region = ibv_reg_mr(device_->domain(), mapping.data(), 16 * page, full_access);
  ASSERT_NE(region, nullptr) << std::strerror(errno);
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(memory.descriptor(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
  EXPECT_NE(find_reason(verdict, DMABRIDGE_REASON_PINNED_BY_USER), nullptr) << describe(verdict);
  ASSERT_EQ(ibv_dereg_mr(region), 0);
  EXPECT_EQ(move(memory.descriptor(), DMABRIDGE_PLACEMENT_DEVICE), 0);
}

TEST_F(Rdma, PinnedMemoryOnTheDeviceIsNoMr) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  ASSERT_EQ(placement_of(memory), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
  const Mapping mapping(memory.descriptor(), MiB);
  EXPECT_EQ(ibv_reg_mr(device_->domain(), mapping.data(), page, full_access), nullptr)
      << "the kernel pins device memory for RDMA: then it would be a route";
}

class RdmaRevoked : public Rdma {
 protected:
  void TearDown() override {
    EXPECT_TRUE(eventually(unregistered_are_gone));
    for (const auto& function : unbound_) EXPECT_EQ(bind_function(function, "dmabridge_pci"), 0);
    Rdma::TearDown();
  }
  int unbind(std::uint32_t kind) {
    unbound_.push_back(pci_address(region_of(kind).device));
    return unbind_function(unbound_.back());
  }
  std::vector<std::string> unbound_;
};

TEST_F(RdmaRevoked, DeviceMayGoWhileRegisteredAndTheMrStaysMemory) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  auto region = enroll(memory, {.length = MiB, .access = full_access});
  ASSERT_EQ(unbind(DMABRIDGE_REGION_BAR), 0);
  EXPECT_FALSE(region.current());
  PlainMemory peer(*device_, MiB);
  Loopback wire(*device_);
  ASSERT_EQ(wire.read(peer, MiB, region.address(), region.rkey()), IBV_WC_SUCCESS);
  EXPECT_EQ(pattern_difference(peer.bytes().data(), MiB, old_tag, 0), "");
  EXPECT_EQ(wire.write(peer, MiB, region.address(), region.rkey()), IBV_WC_SUCCESS);
  const auto failure = refused([&] { enroll(memory, {.length = MiB}); });
  ASSERT_TRUE(failure);
  EXPECT_TRUE(gives(*failure, DMABRIDGE_REASON_REVOKED)) << failure->what();
  region.deregister();
}

TEST_F(RdmaRevoked, StolenMemoryIsInQuarantineUntilTheMrIsGone) {
  const auto memory = take(MiB, policy::prefer, DMABRIDGE_REGION_STOLEN);
  fill(memory, old_tag);
  auto region = enroll(memory, {.length = 16 * page, .access = full_access});
  const auto outlook = importer_->outlook(memory, {.length = 16 * page});
  EXPECT_THAT(outlook.consequence, HasSubstr("quarantine"));
  ASSERT_EQ(unbind(DMABRIDGE_REGION_STOLEN), 0);
  EXPECT_EQ(region_of(DMABRIDGE_REGION_STOLEN).quarantined, 16 * page);
  EXPECT_FALSE(region.current());
  PlainMemory peer(*device_, 16 * page);
  Loopback wire(*device_);
  ASSERT_EQ(wire.read(peer, 16 * page, region.address(), region.rkey()), IBV_WC_SUCCESS);
  EXPECT_EQ(pattern_difference(peer.bytes().data(), 16 * page, old_tag, 0), "");
  region.deregister();
}

TEST_F(RdmaRevoked, CacheDoesNotHandOutWhatWasRevoked) {
  registration_cache cache(*importer_);
  const auto memory = take(MiB);
  const auto region = cache.get(memory, {.length = MiB});
  EXPECT_EQ(cache.get(memory, {.length = MiB}), region);
  ASSERT_EQ(unbind(DMABRIDGE_REGION_BAR), 0);
  EXPECT_TRUE(refused([&] { cache.get(memory, {.length = MiB}); }));
  EXPECT_EQ(cache.counters().outdated, 1U);
  EXPECT_EQ(cache.counters().entries, 0U);
}

TEST_F(Rdma, CachedMrEndsWithTheBufferObject) {
  registration_cache cache(*importer_);
  const Fd other(fcntl(take(MiB).descriptor(), F_DUPFD_CLOEXEC, 0));
  {
    const auto memory = buffer::duplicate(other.get());
    cache.get(memory, {.length = MiB});
    EXPECT_EQ(query(other.get()).users.size(), 1U);
    cache.get(memory, {.length = MiB});
    EXPECT_EQ(cache.counters().hits, 1U);
  }
  EXPECT_EQ(cache.counters().orphaned, 1U);
  EXPECT_TRUE(query(other.get()).users.empty());
  EXPECT_EQ(placement(other.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
}

TEST_F(Rdma, ThreadsShareOneCache) {
  registration_cache cache(*importer_, {.entries = 4});
  const auto memory = take(64 * page);
  fill(memory, old_tag);
  std::atomic<int> failures = 0;
  {
    std::vector<std::jthread> threads;
    for (unsigned seed = 0; seed < 4; seed++) {
      threads.emplace_back([&, seed] {
        for (unsigned round = 0; round < 40; round++) {
          const std::uint64_t offset = (round * (seed + 1)) % 8 * page;
          const auto region = cache.get(memory, {.offset = offset, .length = page});
          if (region->address() != offset) ++failures;
        }
      });
    }
  }
  EXPECT_EQ(failures, 0);
  cache.clear();
  EXPECT_TRUE(query(memory.descriptor()).users.empty());
}

TEST_F(Rdma, NoPeerReachesItAfterADeregistration) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  auto region = enroll(memory, {.length = MiB, .access = full_access});
  const auto address = region.address();
  const auto key = region.rkey();
  PlainMemory peer(*device_, MiB);
  {
    Loopback wire(*device_);
    ASSERT_EQ(wire.read(peer, MiB, address, key), IBV_WC_SUCCESS);
  }
  region.deregister();
  std::ranges::fill(peer.bytes(), std::byte(0x77));
  Loopback writing(*device_), reading(*device_);
  EXPECT_EQ(writing.write(peer, MiB, address, key), IBV_WC_REM_ACCESS_ERR);
  EXPECT_EQ(reading.read(peer, MiB, address, key), IBV_WC_REM_ACCESS_ERR);
  EXPECT_EQ(difference(memory, old_tag), "");
}

TEST_F(Rdma, BufferMayBeClosedBeforeItsMr) {
  std::optional memory(take(MiB));
  fill(*memory, old_tag);
  auto region = enroll(*memory, {.length = MiB, .access = full_access});
  memory.reset();
  PlainMemory peer(*device_, MiB);
  Loopback wire(*device_);
  ASSERT_EQ(wire.read(peer, MiB, region.address(), region.rkey()), IBV_WC_SUCCESS);
  EXPECT_EQ(pattern_difference(peer.bytes().data(), MiB, old_tag, 0), "");
}

// What a child process found, as its exit status. It has a device and a module of its own.
int in_child(const auto& actions) {
  const pid_t child = fork();
  if (child == 0) {
    int status = 100;
    try {
      status = actions();
    } catch (const std::exception& failure) {
      fmt::print("child: {}\n", failure.what());
    }
    fflush(stdout);
    _exit(status);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST_F(Rdma, MemoryLimitIsNamedWithItsValue) {
  constexpr rlim_t limit = 64 << 10;
  EXPECT_EQ(in_child([&] {
              const OpenRdma own("rxe0");
              const dmabridge::control module;
              const auto memory = take(MiB);
              const rdma_importer importer(own.domain(), &module);
              const rlimit low{limit, limit};
              if (setrlimit(RLIMIT_MEMLOCK, &low) != 0 || setresuid(65534, 65534, 65534) != 0)
                return 1;
              // Less than the limit works.
              importer.register_memory(memory, {.length = limit / 2});
              const auto failure =
                  refused([&] { importer.register_memory(memory, {.length = MiB}); });
              if (!failure) return 2;
              for (const reason& why : failure->reasons()) {
                if (why.code == DMABRIDGE_REASON_PIN_LIMIT) return why.value == limit ? 0 : 3;
              }
              fmt::print("{}\n", failure->what());
              return 4;
            }),
            0);
}

TEST_F(Rdma, ForkedChildTakesNothingFromItsParent) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  auto region = enroll(memory, {.length = MiB, .access = full_access});
  EXPECT_EQ(in_child([&] {
              if (region.current()) return 1;
              {
                const auto gone = std::move(region);
              }
              return refused([&] { enroll(memory, {.length = MiB}); }) ? 0 : 2;
            }),
            0);
  EXPECT_TRUE(region.current());
  exchange(memory, region);
}

TEST_F(Rdma, KilledProcessLeavesNothing) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd reader(ends[0]);
  Fd writer(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    try {
      const OpenRdma own("rxe0");
      const dmabridge::control module;
      const rdma_importer importer(own.domain(), &module);
      const auto region = importer.register_memory(memory, {.length = MiB});
      if (write(writer.get(), "", 1) != 1) _exit(1);
      for (;;) pause();
    } catch (const std::exception& failure) {
      fmt::print("child: {}\n", failure.what());
      fflush(stdout);
    }
    _exit(1);
  }
  writer.reset();
  char byte = 0;
  ASSERT_EQ(read(reader.get(), &byte, 1), 1) << "the child gave up";
  EXPECT_EQ(query(memory.descriptor()).users.size(), 1U);
  EXPECT_EQ(kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(eventually([&] { return query(memory.descriptor()).users.empty(); }));
  EXPECT_TRUE(eventually([&] {
    return move(memory.descriptor(), DMABRIDGE_PLACEMENT_DEVICE) == 0;
  })) << "something is pinned still";
  EXPECT_EQ(difference(memory, old_tag), "");
}

// Before 7.3 the kernel lets no rxe go that is open, and the removal waits; since then the driver
// has disassociate_ucontext(), and the device is taken from those who have it.
bool removal_waits() {
  utsname kernel{};
  unsigned version = 0, patch = 0;
  if (uname(&kernel) != 0 || sscanf(kernel.release, "%u.%u", &version, &patch) != 2)
    throw std::runtime_error("no kernel version");
  return std::pair(version, patch) < std::pair(7u, 3u);
}

// The MR ends in both cases, and the buffer is whole.
TEST_F(Rdma, DeviceThatIsRemovedLeavesTheBufferWhole) {
  SoftRdma link("rxe1");
  const auto memory = take(MiB);
  fill(memory, old_tag);
  std::optional<OpenRdma> open(std::in_place, "rxe1");
  std::optional<rdma_importer> importer(std::in_place, open->domain(), &*module_);
  auto region = importer->register_memory(memory, {.length = MiB, .access = full_access});
  std::future<void> removed = std::async(std::launch::async, [&] { link.remove(); });
  if (removal_waits()) {
    EXPECT_EQ(removed.wait_for(200ms), std::future_status::timeout);
  } else {
    EXPECT_EQ(removed.wait_for(60s), std::future_status::ready) << "before the MR is gone";
  }
  EXPECT_TRUE(region.current());
  region.deregister();
  importer.reset();
  open.reset();
  removed.get();
  EXPECT_TRUE(query(memory.descriptor()).users.empty());
  EXPECT_EQ(move(memory.descriptor(), DMABRIDGE_PLACEMENT_DEVICE), 0)
      << "something is pinned still";
  EXPECT_EQ(difference(memory, old_tag), "");
}

// --- a region without pages --------------------------------------------------------------------

class RdmaPageless : public Rdma {
 protected:
  void SetUp() override {
    ASSERT_EQ(bind_function(function_, "dmabridge_pci"), 0);
    ASSERT_EQ(region_of(DMABRIDGE_REGION_BAR).flags & DMABRIDGE_REGION_HAS_PAGES, 0U);
  }
  void TearDown() override {
    Rdma::TearDown();
    parameter_.reset();
    EXPECT_EQ(bind_function(function_, "dmabridge_pci"), 0);
  }
  const std::string function_ = pci_address(region_of(DMABRIDGE_REGION_BAR).device);
  std::unique_ptr<PciParameter> parameter_ = std::make_unique<PciParameter>("no_pages", function_);
};

TEST_F(RdmaPageless, ItIsServedFromSystemMemoryAsWell) {
  const auto memory = take(MiB);
  fill(memory, old_tag);
  const auto region = enroll(memory, {.length = MiB, .access = full_access});
  EXPECT_EQ(region.verdict().route, route::system);
  exchange(memory, region);
}

// --- dmabridge bench rdma ----------------------------------------------------------------------

TEST_F(Rdma, BenchTellsTheRouteOfWhatItMeasured) {
  for (const auto kind : {DMABRIDGE_REGION_BAR, DMABRIDGE_REGION_STOLEN}) {
    const Output output = shell(fmt::format(
        "dmabridge bench rdma --region {} --size 64K --turns 1 --json", region_of(kind).name));
    EXPECT_EQ(output.status, 0) << output.text;
    EXPECT_THAT(output.text, HasSubstr(kind == DMABRIDGE_REGION_BAR ? R"("route": "system")"
                                                                    : R"("route": "stolen")"));
    EXPECT_THAT(output.text, HasSubstr(R"("operation": "write")"));
  }
}

TEST_F(Rdma, BenchOfWhatIsRefusedSaysWhy) {
  const Output output =
      shell(fmt::format("dmabridge bench rdma --region {} --policy require --turns 1 2>&1",
                        region_of(DMABRIDGE_REGION_BAR).name));
  EXPECT_EQ(output.status, 2) << output.text;
  EXPECT_THAT(output.text, HasSubstr("[by_cpu]"));
}

TEST_F(Rdma, BenchOfADeviceThatIsNotThereNamesThoseThatAre) {
  const Output output = shell("dmabridge bench rdma --device mlx5_9 2>&1");
  EXPECT_EQ(output.status, 4) << output.text;
  EXPECT_THAT(output.text, HasSubstr("there is no mlx5_9"));
  EXPECT_THAT(output.text, HasSubstr("rxe0"));
}

}  // namespace
}  // namespace dmabridge::test

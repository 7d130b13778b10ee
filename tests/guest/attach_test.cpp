// SPDX-License-Identifier: MIT
//
// The attach table of DESIGN.md, row by row, with every kind of importer; and what attachments,
// mappings, pins and fences mean for a buffer that is to move, or whose device goes away.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <tuple>

#include "machine.hpp"
#include "support/attach_fixture.hpp"
#include "support/child.hpp"
#include "support/pci_driver.hpp"
#include "support/rdma_drivers.hpp"

namespace dmabridge::test {
namespace {

using testing::UnorderedElementsAreArray;
using namespace std::chrono_literals;

// Long enough for a call that does not wait to have ended, were it not for what holds it up. Only
// a broken kernel's test depends on it: it would pass.
constexpr auto a_moment = 100ms;

std::vector<std::uint32_t> codes(const dmabridge_verdict& verdict) {
  std::vector<std::uint32_t> found;
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(verdict.nr_reasons, DMABRIDGE_MAX_REASONS);
       i++)
    found.push_back(verdict.reasons[i].code);
  return found;
}

// The one user of a buffer that has one.
dmabridge_user only_user(int buffer) {
  const Query found = query(buffer);
  if (found.users.size() != 1)
    throw std::runtime_error(fmt::format("the buffer has {} users", found.users.size()));
  return found.users.front();
}

// --- the table
// --------------------------------------------------------------------------------------

enum class Where { same_switch, other_port, no_bus, no_bus_small_mask };

struct Row {
  const char* name;
  Where where;
};
constexpr Row rows[] = {{"SameSwitch", Where::same_switch},
                        {"OtherPort", Where::other_port},
                        {"NoBus", Where::no_bus},
                        {"SmallMask", Where::no_bus_small_mask}};

Client client_of(Where where) {
  switch (where) {
    case Where::same_switch:
      return nvme("SAMESW");
    case Where::other_port:
      return nvme("OTHERRP");
    case Where::no_bus:
      return no_bus;
    case Where::no_bus_small_mask:
      break;
  }
  // All of the guest's RAM, and not its BARs.
  Client small = no_bus;
  small.mask_bits = 31;
  return small;
}

struct Policy {
  const char* name;
  std::uint32_t policy;
};
constexpr Policy policies[] = {{"Require", DMABRIDGE_POLICY_REQUIRE},
                               {"Prefer", DMABRIDGE_POLICY_PREFER},
                               {"Forbid", DMABRIDGE_POLICY_FORBID}};

using TableParam = std::tuple<ImporterKind, Row, Policy>;

class AttachTable : public AttachTest, public testing::WithParamInterface<TableParam> {
 protected:
  static constexpr std::uint64_t size = 3 * MiB + 4096;
  const ImporterKind kind_ = std::get<0>(GetParam());
  const Where where_ = std::get<1>(GetParam()).where;
  const std::uint32_t policy_ = std::get<2>(GetParam()).policy;
  const Client client_ = client_of(where_);

  bool forbidden() const { return policy_ == DMABRIDGE_POLICY_FORBID; }
  bool granted() const { return expected_reasons().empty(); }
  bool refused() const { return policy_ == DMABRIDGE_POLICY_REQUIRE && !granted(); }

  // All of them, not the first.
  std::vector<std::uint32_t> expected_reasons() const {
    std::vector<std::uint32_t> reasons;
    if (forbidden()) reasons.push_back(DMABRIDGE_REASON_POLICY_FORBID);
    if (!kind_.dynamic())
      reasons.push_back(DMABRIDGE_REASON_STATIC_IMPORTER);
    else if (!kind_.peer2peer())
      reasons.push_back(DMABRIDGE_REASON_NOT_PEER2PEER);
    else if (!kind_.revocable())
      reasons.push_back(DMABRIDGE_REASON_NOT_REVOCABLE);
    if (where_ == Where::other_port)
      reasons.push_back(DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED);
    else if (where_ != Where::same_switch)
      reasons.push_back(DMABRIDGE_REASON_NOT_PCI);
    return reasons;
  }
  std::uint32_t expected_placement() const {
    return granted() || refused() ? DMABRIDGE_PLACEMENT_DEVICE : DMABRIDGE_PLACEMENT_SYSTEM;
  }
  std::uint32_t expected_route() const {
    if (refused()) return DMABRIDGE_ROUTE_NONE;
    return granted() ? DMABRIDGE_ROUTE_P2P_BUS : DMABRIDGE_ROUTE_SYSTEM;
  }

  // What is recorded of an importer, whether it was taken or refused. It is known who it is, how it
  // came, and all the reasons with their evidence.
  void check_user(const dmabridge_user& user) const {
    EXPECT_EQ(user.kind, static_cast<std::uint32_t>(kind_.dynamic() ? DMABRIDGE_USER_DYNAMIC
                                                                    : DMABRIDGE_USER_STATIC));
    EXPECT_EQ(user.policy, DMABRIDGE_POLICY_PREFER);
    if (client_.pci) {
      EXPECT_EQ(user.device, client_.function);
      EXPECT_EQ(user.name, pci_address(client_.function));
      EXPECT_STREQ(user.driver, "nvme");
    } else {
      EXPECT_THAT(user.name, testing::StartsWith("dmabridge-test-importer."));
    }
    std::uint32_t flags = (client_.pci ? DMABRIDGE_USER_HAS_DEVICE : 0) |
                          (kind_.peer2peer() ? DMABRIDGE_USER_PEER2PEER : 0) |
                          (kind_.revocable() ? DMABRIDGE_USER_REVOCABLE : 0);
    if (!refused()) {
      flags |= granted() ? DMABRIDGE_USER_P2P : DMABRIDGE_USER_NEEDS_SYSTEM;
      if (granted() && policy_ == DMABRIDGE_POLICY_REQUIRE) flags |= DMABRIDGE_USER_NEEDS_DEVICE;
    }
    EXPECT_EQ(user.flags, flags);

    const dmabridge_verdict& verdict = user.verdict;
    EXPECT_EQ(verdict.route, expected_route()) << describe(verdict);
    EXPECT_EQ(verdict.policy, policy_);
    EXPECT_THAT(codes(verdict), UnorderedElementsAreArray(expected_reasons())) << describe(verdict);
    for (std::uint32_t i = 0; i < verdict.nr_reasons; i++)
      EXPECT_TRUE(verdict.reasons[i].flags & DMABRIDGE_REASON_BLOCKS_P2P) << describe(verdict);
    if (where_ == Where::same_switch) {
      EXPECT_GT(verdict.distance, 0);
    } else {
      EXPECT_EQ(verdict.distance, -1);
    }
    if (const auto* bridge = find_reason(verdict, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED)) {
      EXPECT_TRUE(bridge->flags & DMABRIDGE_REASON_HAS_DEVICE);
      EXPECT_EQ(bridge->device, 0u) << "q35 has its host bridge at 00:00.0";
      EXPECT_EQ(bridge->value, 0x808629c0u);
    }
  }
};

TEST_P(AttachTable, OutcomeIsTheTables) {
  const Fd buffer = allocate(size, policy_);
  write_pattern(buffer.get(), size);
  const Query before = query(buffer.get());
  Attached attached = attach(buffer.get(), kind_, client_);
  const Query after = query(buffer.get());
  EXPECT_EQ(after.head.placement, expected_placement());
  EXPECT_EQ(difference(buffer.get(), size), "");

  if (refused()) {
    EXPECT_EQ(attached.error, -EOPNOTSUPP);
    EXPECT_TRUE(after.users.empty());
    EXPECT_EQ(after.head.generation, before.head.generation) << "a refusal moves nothing";
    check_user(after.head.last_refused);
    return;
  }
  ASSERT_EQ(attached.error, 0) << describe(after.head.last_refused.verdict);
  EXPECT_EQ(attached.peer2peer, granted());
  ASSERT_EQ(after.users.size(), 1u);
  check_user(after.users[0]);
  EXPECT_EQ(after.head.last_refused.kind, 0u);
  const bool moved = after.head.placement != before.head.placement;
  EXPECT_EQ(moved, policy_ == DMABRIDGE_POLICY_PREFER && !granted());
  EXPECT_EQ(after.head.moves, moved ? 1u : 0u);
  if (moved) {
    EXPECT_EQ(after.head.last_move.code, DMABRIDGE_REASON_DEMOTED);
    EXPECT_STREQ(after.head.last_move.name, after.users[0].name);
    if (client_.pci) {
      EXPECT_EQ(after.head.last_move.device, client_.function);
    }
  }

  const std::uint32_t id = attached.attachment.map();
  const Table table = attached.attachment.table(id);
  if (granted()) {
    EXPECT_EQ(not_on_device(table, buffer.get()), "");
  } else {
    EXPECT_EQ(not_in_system(table, size), "");
  }
  EXPECT_EQ(table.invalidations, 0u);
  EXPECT_EQ(attached.attachment.unmap(id), 0);

  attached.attachment.detach();
  const Query detached = query(buffer.get());
  EXPECT_TRUE(detached.users.empty());
  EXPECT_EQ(detached.head.placement,
            static_cast<std::uint32_t>(forbidden() ? DMABRIDGE_PLACEMENT_SYSTEM
                                                   : DMABRIDGE_PLACEMENT_DEVICE));
  EXPECT_EQ(detached.head.moves, moved ? 2u : 0u);
  EXPECT_EQ(difference(buffer.get(), size), "");
}

std::string name_of(const testing::TestParamInfo<TableParam>& info) {
  return fmt::format("{}{}{}", std::get<0>(info.param).name, std::get<1>(info.param).name,
                     std::get<2>(info.param).name);
}

INSTANTIATE_TEST_SUITE_P(Attach, AttachTable,
                         testing::Combine(testing::Values(static_importer, dynamic, revocable, p2p,
                                                          p2p_revocable),
                                          testing::ValuesIn(rows), testing::ValuesIn(policies)),
                         name_of);

// --- a function with a small DMA mask
// ----------------------------------------------------------------

// A drive without its driver, so that its DMA mask may be set.
class DriverlessDrive : public AttachTest {
 protected:
  void SetUp() override {
    drives_ = drives().size();
    ASSERT_EQ(unbind_function(pci_address(client_.function)), 0);
  }
  void TearDown() override {
    EXPECT_EQ(bind_function(pci_address(client_.function), "nvme"), 0);
    EXPECT_TRUE(eventually([&] { return drives().size() == drives_; }));
    AttachTest::TearDown();
  }
  Client with_mask(std::uint32_t bits) const {
    Client client = client_;
    client.mask_bits = bits;
    return client;
  }

  const Client client_ = nvme("SAMESW");
  std::size_t drives_ = 0;
};

TEST_F(DriverlessDrive, CanBeAnImporterWithAMaskOfItsOwn) {
  const std::string bits =
      fmt::format("/sys/bus/pci/devices/{}/dma_mask_bits", pci_address(client_.function));
  const std::string before = oracle::read_line(bits);
  const Fd buffer = allocate(1 * MiB);
  Attached attached = attach(buffer.get(), p2p_revocable, with_mask(48));
  ASSERT_EQ(attached.error, 0);
  EXPECT_EQ(oracle::read_line(bits), "48");
  EXPECT_EQ(not_on_device(attached.attachment.table(attached.attachment.map()), buffer.get()), "");
  EXPECT_EQ(attach(buffer.get(), p2p_revocable, with_mask(40)).error, -EBUSY);
  attached.attachment.detach();
  EXPECT_EQ(oracle::read_line(bits), before);
}

// Its addresses end below the BAR: what it would be given it could not reach.
TEST_F(DriverlessDrive, MaskBelowTheBarIsNoP2p) {
  ASSERT_GT(region_window().start, 1ULL << 31);
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  Attached attached = attach(buffer.get(), p2p_revocable, with_mask(31));
  ASSERT_EQ(attached.error, 0);
  EXPECT_FALSE(attached.peer2peer);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  const dmabridge_verdict verdict = only_user(buffer.get()).verdict;
  EXPECT_THAT(codes(verdict), testing::ElementsAre(DMABRIDGE_REASON_DMA_MASK)) << describe(verdict);
  EXPECT_EQ(verdict.reasons[0].value, (1ULL << 31) - 1);
  EXPECT_EQ(difference(buffer.get(), 1 * MiB), "");
  EXPECT_EQ(not_in_system(attached.attachment.table(attached.attachment.map()), 1 * MiB), "");
}

TEST_F(DriverlessDrive, MaskBelowTheBarIsRefusedUnderRequire) {
  const Fd buffer = allocate(1 * MiB, DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(attach(buffer.get(), p2p_revocable, with_mask(31)).error, -EOPNOTSUPP);
  EXPECT_THAT(codes(query(buffer.get()).head.last_refused.verdict),
              testing::ElementsAre(DMABRIDGE_REASON_DMA_MASK));
}

// --- mappings
// ---------------------------------------------------------------------------------------

class Mapped : public AttachTest {};

TEST_F(Mapped, FragmentedBufferLiesInTheBarPieceByPiece) {
  constexpr std::uint64_t piece = 2 * MiB;
  std::vector<Fd> pieces;
  while (available() >= piece) pieces.push_back(allocate(piece));
  for (std::size_t i = 0; i < pieces.size(); i += 2) pieces[i].reset();
  const std::uint64_t size = 4 * piece + 3 * 4096;
  const Fd buffer = allocate(size);
  ASSERT_GT(query(buffer.get()).chunks.size(), 3u) << "not fragmented";
  write_pattern(buffer.get(), size);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  EXPECT_EQ(not_on_device(direct.attachment.table(direct.attachment.map()), buffer.get()), "");

  Attached other = attach(buffer.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  EXPECT_EQ(difference(buffer.get(), size), "");
  EXPECT_EQ(not_in_system(direct.attachment.table(direct.attachment.map()), size), "");
  direct.attachment.detach();
  other.attachment.detach();
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(difference(buffer.get(), size), "");
}

TEST_F(Mapped, EachMappingIsATableOfItsOwn) {
  const Fd buffer = allocate(1 * MiB);
  Attached attached = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(attached.error, 0);
  const std::uint32_t first = attached.attachment.map(TEST_IMPORTER_TO_DEVICE),
                      second = attached.attachment.map(TEST_IMPORTER_FROM_DEVICE);
  EXPECT_EQ(attached.attachment.unmap(first), 0);
  EXPECT_EQ(not_on_device(attached.attachment.table(second), buffer.get()), "");
  EXPECT_EQ(attached.attachment.unmap(second), 0);
  EXPECT_EQ(attached.attachment.unmap(second), -ENOENT);
}

// Objects of 32 bytes, the size of a table's one entry, that the kernel has handed out.
std::uint64_t small_objects() {
  std::ifstream caches("/proc/slabinfo");
  std::uint64_t total = 0;
  for (std::string line; std::getline(caches, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t active = 0;
    words >> name >> active;
    if (name.starts_with("kmalloc-") && name.ends_with("-32")) total += active;
  }
  return total;
}

TEST_F(Mapped, NothingIsLeftOfMappingsThatAreGone) {
  if (std::filesystem::exists("/sys/kernel/debug/kmemleak"))
    GTEST_SKIP() << "kmemleak looks for what is left, and KASAN keeps what was freed";
  constexpr std::uint32_t rounds = 20000;
  const Fd buffer = allocate(1 * MiB);
  for (const ImporterKind& kind : {p2p_revocable, dynamic}) {
    Attached attached = attach(buffer.get(), kind, nvme("SAMESW"));
    ASSERT_EQ(attached.error, 0);
    attached.attachment.bench(1);
    const std::uint64_t before = small_objects();
    ASSERT_GT(before, 0u);
    attached.attachment.bench(rounds);
    EXPECT_LT(small_objects(), before + rounds / 2) << kind.name;
  }
}

TEST_F(Mapped, SystemMemoryComesInPiecesThatTheDeviceTakes) {
  const Fd buffer = allocate(4 * MiB);
  for (const std::uint32_t most : {4096u, 64u << 10, (1u << 20) + 512u}) {
    Client client = no_bus;
    client.max_segment = most;
    Attached attached = attach(buffer.get(), dynamic, client);
    ASSERT_EQ(attached.error, 0);
    const Table table = attached.attachment.table(attached.attachment.map());
    EXPECT_EQ(not_in_system(table, 4 * MiB), "");
    for (const auto& segment : table.segments) EXPECT_LE(segment.length, most);
  }
}

// --- moves under importers
// ---------------------------------------------------------------------------

class Moved : public AttachTest {
 protected:
  void SetUp() override {
    full_ = available();
    buffer_ = allocate(size);
    write_pattern(buffer_.get(), size);
  }
  void TearDown() override {
    buffer_.reset();
    AttachTest::TearDown();
  }

  static constexpr std::uint64_t size = 2 * MiB;
  Fd buffer_;
  std::uint64_t full_ = 0;
};

TEST_F(Moved, MappedImporterIsToldOnceAndItsOldMappingStays) {
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  const std::uint32_t before = direct.attachment.map();
  const Table table = direct.attachment.table(before);
  ASSERT_EQ(not_on_device(table, buffer_.get()), "");

  Attached other = attach(buffer_.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(direct.attachment.events().invalidations, 1u);
  EXPECT_EQ(direct.attachment.events().invalidations_mapped, 1u);
  const Table kept = direct.attachment.table(before);
  EXPECT_EQ(kept.invalidations, 1u);
  ASSERT_EQ(kept.segments.size(), table.segments.size());
  for (std::size_t i = 0; i < table.segments.size(); i++)
    EXPECT_EQ(kept.segments[i].address, table.segments[i].address);
  EXPECT_EQ(available(), full_ - size) << "what is mapped must not be handed out again";

  const std::uint32_t now = direct.attachment.map();
  EXPECT_EQ(not_in_system(direct.attachment.table(now), size), "");
  EXPECT_EQ(direct.attachment.unmap(before), 0);
  EXPECT_EQ(available(), full_) << "retired memory goes back with its last mapping";

  // And home again, by way of the same.
  other.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(query(buffer_.get()).head.last_move.code, DMABRIDGE_REASON_RESTORED);
  EXPECT_EQ(direct.attachment.events().invalidations, 2u);
  EXPECT_EQ(direct.attachment.table(now).invalidations, 1u);
  EXPECT_EQ(not_on_device(direct.attachment.table(direct.attachment.map()), buffer_.get()), "");
  EXPECT_EQ(difference(buffer_.get(), size), "");
}

TEST_F(Moved, ImporterMayUnmapWhileItIsTold) {
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"), TEST_IMPORTER_UNMAP);
  ASSERT_EQ(direct.error, 0);
  const std::uint32_t id = direct.attachment.map();
  direct.attachment.map();
  ASSERT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(direct.attachment.events().invalidations, 1u);
  EXPECT_EQ(direct.attachment.events().mappings, 0u);
  EXPECT_EQ(direct.attachment.unmap(id), -ENOENT);
  EXPECT_EQ(available(), full_);
  EXPECT_EQ(difference(buffer_.get(), size), "");
}

TEST_F(Moved, WhatOthersWroteIsThereAfterTheMove) {
  const Mapping mapping(buffer_.get(), size);
  Attached other = attach(buffer_.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  fill_pattern(mapping.data(), size, tag + 1, 0);
  other.attachment.detach();
  ASSERT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(difference(buffer_.get(), size, tag + 1), "");
}

TEST_F(Moved, LastDemoterThatLeavesSendsItHome) {
  Attached first = attach(buffer_.get(), static_importer),
           second = attach(buffer_.get(), dynamic, nvme("OTHERRP"));
  ASSERT_EQ(first.error, 0);
  ASSERT_EQ(second.error, 0);
  first.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
  const auto* reason = find_reason(verdict, DMABRIDGE_REASON_HELD);
  ASSERT_TRUE(reason) << describe(verdict);
  EXPECT_EQ(reason->device, nvme("OTHERRP").function) << "the one that is left";
  second.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(query(buffer_.get()).head.moves, 2u);
}

TEST_F(Moved, WhoComesLaterIsToldWhoDemotedTheBuffer) {
  Attached first = attach(buffer_.get(), dynamic, nvme("OTHERRP"));
  ASSERT_EQ(first.error, 0);
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  EXPECT_TRUE(direct.peer2peer) << "it may do P2P later";
  const dmabridge_user user = query(buffer_.get()).users.at(1);
  EXPECT_EQ(user.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  const auto* reason = find_reason(user.verdict, DMABRIDGE_REASON_DEMOTED);
  ASSERT_TRUE(reason) << describe(user.verdict);
  EXPECT_EQ(reason->device, nvme("OTHERRP").function);
  EXPECT_EQ(reason->name, pci_address(nvme("OTHERRP").function));
  EXPECT_TRUE(user.flags & DMABRIDGE_USER_P2P);
  EXPECT_FALSE(user.flags & DMABRIDGE_USER_NEEDS_SYSTEM);

  EXPECT_EQ(not_in_system(direct.attachment.table(direct.attachment.map()), size), "");
  first.attachment.detach();
  EXPECT_EQ(not_on_device(direct.attachment.table(direct.attachment.map()), buffer_.get()), "");
}

TEST_F(Moved, WhoComesAfterARequestedMoveStaysInSystemMemory) {
  ASSERT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_THAT(codes(only_user(buffer_.get()).verdict),
              testing::ElementsAre(DMABRIDGE_REASON_MOVED));
  // Neither does it go home because an importer comes and goes that had no part in it.
  Attached other = attach(buffer_.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  other.attachment.detach();
  direct.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(query(buffer_.get()).head.moves, 1u);
}

TEST_F(Moved, HoldOnTheDeviceRefusesWhoCannotDoP2p) {
  const Hold held = hold(buffer_.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  for (const ImporterKind& kind : {static_importer, dynamic, revocable, p2p}) {
    SCOPED_TRACE(kind.name);
    EXPECT_EQ(attach(buffer_.get(), kind, nvme("SAMESW")).error, -EBUSY);
    const dmabridge_user refused = query(buffer_.get()).head.last_refused;
    const auto* reason = find_reason(refused.verdict, DMABRIDGE_REASON_HELD);
    ASSERT_TRUE(reason) << describe(refused.verdict);
    EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_BLOCKS_MOVE);
    EXPECT_EQ(refused.verdict.route, DMABRIDGE_ROUTE_NONE);
  }
  EXPECT_EQ(attach(buffer_.get(), p2p_revocable, nvme("SAMESW")).error, 0);
  EXPECT_EQ(query(buffer_.get()).head.moves, 0u);
}

// No room on the device: what an importer has not let go of takes it up.
TEST_F(Moved, RetiredMemoryCanKeepABufferFromGoingHome) {
  const Fd rest = allocate(available());
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  const std::uint32_t id = direct.attachment.map();
  Attached other = attach(buffer_.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  other.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(difference(buffer_.get(), size), "");
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -ENOSPC);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_NO_DEVICE_MEMORY)) << describe(verdict);
  EXPECT_EQ(direct.attachment.unmap(id), 0);
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(difference(buffer_.get(), size), "");
}

// --- pins
// -------------------------------------------------------------------------------------------

TEST_F(Moved, PinOnTheDeviceKeepsItThere) {
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  ASSERT_EQ(direct.attachment.pin(), 0);
  ASSERT_EQ(direct.attachment.pin(), 0);
  EXPECT_TRUE(only_user(buffer_.get()).flags & DMABRIDGE_USER_PINNED);

  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_SYSTEM, &verdict), -EBUSY);
  const auto* reason = find_reason(verdict, DMABRIDGE_REASON_PINNED_BY_IMPORTER);
  ASSERT_TRUE(reason) << describe(verdict);
  EXPECT_EQ(reason->value, 2u);
  EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_BLOCKS_MOVE);

  EXPECT_EQ(attach(buffer_.get(), static_importer).error, -EBUSY);
  const Query found = query(buffer_.get());
  EXPECT_TRUE(find_reason(found.head.last_refused.verdict, DMABRIDGE_REASON_PINNED_BY_IMPORTER))
      << describe(found.head.last_refused.verdict);
  EXPECT_EQ(found.head.moves, 0u);
  EXPECT_EQ(direct.attachment.events().invalidations, 0u) << "nothing moves, nobody is told";

  EXPECT_EQ(direct.attachment.unpin(), 0);
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_SYSTEM), -EBUSY) << "one pin is left";
  EXPECT_EQ(direct.attachment.unpin(), 0);
  EXPECT_EQ(direct.attachment.unpin(), -EINVAL);
  EXPECT_FALSE(only_user(buffer_.get()).flags & DMABRIDGE_USER_PINNED);
  EXPECT_EQ(attach(buffer_.get(), static_importer).error, 0);
}

TEST_F(Moved, PinInSystemMemoryKeepsItThere) {
  ASSERT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  Attached direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  ASSERT_EQ(direct.attachment.pin(), 0);
  dmabridge_verdict verdict{};
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_DEVICE, &verdict), -EBUSY);
  EXPECT_TRUE(find_reason(verdict, DMABRIDGE_REASON_PINNED_BY_IMPORTER)) << describe(verdict);
  ASSERT_EQ(direct.attachment.unpin(), 0);
  EXPECT_EQ(move(buffer_.get(), DMABRIDGE_PLACEMENT_DEVICE), 0);
  EXPECT_EQ(difference(buffer_.get(), size), "");
}

// Restoring is a wish, not a must: it fails in silence, and the next that leaves tries again.
TEST_F(Moved, PinKeepsADemotedBufferFromGoingHome) {
  Attached other = attach(buffer_.get(), static_importer),
           direct = attach(buffer_.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(other.error, 0);
  ASSERT_EQ(direct.error, 0);
  ASSERT_EQ(direct.attachment.pin(), 0);
  other.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(not_in_system(direct.attachment.table(direct.attachment.map()), size), "");
  direct.attachment.detach();
  EXPECT_EQ(placement(buffer_.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(difference(buffer_.get(), size), "");
}

// The core pins for a static importer while it has a mapping.
TEST_F(Moved, MappedStaticImporterIsPinned) {
  Attached other = attach(buffer_.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  EXPECT_FALSE(only_user(buffer_.get()).flags & DMABRIDGE_USER_PINNED);
  EXPECT_EQ(other.attachment.pin(), -EINVAL);
  const std::uint32_t id = other.attachment.map();
  EXPECT_TRUE(only_user(buffer_.get()).flags & DMABRIDGE_USER_PINNED);
  EXPECT_EQ(other.attachment.unmap(id), 0);
  EXPECT_FALSE(only_user(buffer_.get()).flags & DMABRIDGE_USER_PINNED);
}

// --- fences
// -----------------------------------------------------------------------------------------

struct Usage {
  const char* name;
  std::uint32_t usage;
};

class PendingFence : public AttachTest, public testing::WithParamInterface<Usage> {};

INSTANTIATE_TEST_SUITE_P(Attach, PendingFence,
                         testing::Values(Usage{"Kernel", TEST_IMPORTER_USAGE_KERNEL},
                                         Usage{"Write", TEST_IMPORTER_USAGE_WRITE},
                                         Usage{"Read", TEST_IMPORTER_USAGE_READ},
                                         Usage{"Bookkeep", TEST_IMPORTER_USAGE_BOOKKEEP}),
                         [](const auto& test) { return std::string(test.param.name); });

// Whatever an importer's device still does, the bytes are copied after it.
TEST_P(PendingFence, HoldsAMoveUp) {
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  direct.attachment.add_fence(GetParam().usage);
  std::future<int> moved = std::async(
      std::launch::async, [&] { return move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM); });
  // It has begun.
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().invalidations == 1; }));
  EXPECT_EQ(moved.wait_for(a_moment), std::future_status::timeout) << "it did not wait";
  direct.attachment.signal();
  EXPECT_EQ(moved.get(), 0);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_SYSTEM);
  EXPECT_EQ(difference(buffer.get(), 1 * MiB), "");
}

class FencedMove : public AttachTest {};

// As GPU drivers do: the mapping's end is behind a fence that they make when they are told.
TEST_F(FencedMove, WaitsForAFenceThatTheImporterMakesWhenTold) {
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"), TEST_IMPORTER_FENCE);
  ASSERT_EQ(direct.error, 0);
  const std::uint32_t id = direct.attachment.map();
  std::future<int> attached =
      std::async(std::launch::async, [&] { return attach(buffer.get(), static_importer).error; });
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().fences == 1; }));
  EXPECT_EQ(attached.wait_for(a_moment), std::future_status::timeout) << "it did not wait";
  direct.attachment.signal();
  // It goes at once, and so the buffer goes home: another move, another fence.
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().invalidations == 2; }));
  EXPECT_EQ(attached.wait_for(a_moment), std::future_status::timeout) << "it did not wait";
  direct.attachment.signal();
  EXPECT_EQ(attached.get(), 0);
  EXPECT_EQ(direct.attachment.events().failures, 0u);
  EXPECT_EQ(direct.attachment.unmap(id), 0);
  EXPECT_EQ(difference(buffer.get(), 1 * MiB), "");
}

TEST_F(FencedMove, EndsWhenWhoAskedForItIsKilled) {
  const Fd buffer = allocate(1 * MiB);
  write_pattern(buffer.get(), 1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  direct.attachment.add_fence();
  const std::uint64_t before = available();
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM) == 0 ? 0 : 1);
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().invalidations == 1; }));
  ASSERT_EQ(kill(child, SIGKILL), 0);
  int status = 0;
  EXPECT_TRUE(eventually([&] { return waitpid(child, &status, WNOHANG) == child; }))
      << "a killed process waits for a fence";
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(query(buffer.get()).head.moves, 0u);
  EXPECT_EQ(available(), before);
  EXPECT_EQ(not_on_device(direct.attachment.table(direct.attachment.map()), buffer.get()), "");
  direct.attachment.signal();
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(difference(buffer.get(), 1 * MiB), "");
}

// --- no system memory
// -----------------------------------------------------------------------------------

// A memory cgroup that this process can step into.
class SmallGroup {
 public:
  explicit SmallGroup(const std::string& limit) {
    std::filesystem::create_directories(root_);
    if (mount("none", root_.c_str(), "cgroup2", 0, nullptr) != 0)
      throw std::system_error(errno, std::generic_category(), "cgroup2");
    check(write_text(root_ + "/cgroup.subtree_control", "+memory"));
    std::filesystem::create_directory(group_);
    check(write_text(group_ + "/memory.max", limit));
  }
  ~SmallGroup() {
    leave();
    std::error_code ignored;
    std::filesystem::remove(group_, ignored);
    umount2(root_.c_str(), MNT_DETACH);
  }
  SmallGroup(const SmallGroup&) = delete;
  SmallGroup& operator=(const SmallGroup&) = delete;

  void enter() { check(write_text(group_ + "/cgroup.procs", "0")); }
  void leave() { write_text(root_ + "/cgroup.procs", "0"); }

 private:
  static void check(int error) {
    if (error != 0) throw std::system_error(-error, std::generic_category(), "cgroup2");
  }
  const std::string root_ = "/run/cgroup", group_ = root_ + "/small";
};

TEST_F(AttachTest, WithoutSystemMemoryTheBufferStaysWhole) {
  constexpr std::uint64_t size = 64 * MiB;
  SmallGroup group("16M");
  group.enter();
  const Fd buffer = allocate(size);
  group.leave();
  write_pattern(buffer.get(), size);
  EXPECT_EQ(attach(buffer.get(), static_importer).error, -ENOMEM);
  const Query found = query(buffer.get());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(found.head.moves, 0u);
  EXPECT_TRUE(found.users.empty());
  const auto* reason =
      find_reason(found.head.last_refused.verdict, DMABRIDGE_REASON_NO_SYSTEM_MEMORY);
  ASSERT_TRUE(reason) << describe(found.head.last_refused.verdict);
  EXPECT_EQ(reason->value, size);
  EXPECT_TRUE(reason->flags & DMABRIDGE_REASON_BLOCKS_MOVE);
  EXPECT_EQ(difference(buffer.get(), size), "");
  EXPECT_EQ(attach(buffer.get(), p2p_revocable, nvme("SAMESW")).error, 0);
}

// --- the CPU
// ---------------------------------------------------------------------------------------

TEST_F(AttachTest, KernelCodeMayAccessItWithTheCpu) {
  const Fd buffer = allocate(1 * MiB);
  for (const std::uint32_t direction :
       {TEST_IMPORTER_BIDIRECTIONAL, TEST_IMPORTER_TO_DEVICE, TEST_IMPORTER_FROM_DEVICE}) {
    EXPECT_EQ(begin_cpu_access(buffer.get(), direction), 0);
    EXPECT_EQ(end_cpu_access(buffer.get(), direction), 0);
  }
  Attached other = attach(buffer.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  other.attachment.map();
  EXPECT_EQ(begin_cpu_access(buffer.get()), 0);
  EXPECT_EQ(end_cpu_access(buffer.get()), 0);
}

TEST_F(AttachTest, ThereIsNoKernelMapping) {
  const Fd buffer = allocate(1 * MiB);
  std::array<std::byte, 64> bytes{};
  EXPECT_EQ(vmap_read(buffer.get(), 0, bytes.data(), bytes.size()), -EINVAL);
}

// --- the end of the device
// -----------------------------------------------------------------------------

class Revoked : public AttachTest {
 protected:
  void TearDown() override {
    rebind();
    AttachTest::TearDown();
  }
  int unbind() { return unbind_function(address_); }
  void rebind() {
    if (regions().empty()) {
      ASSERT_EQ(bind_function(address_, "dmabridge_pci"), 0);
    }
  }

  // Nothing is possible any more, and the query says why.
  static void expect_dead(int buffer, Attachment& attachment) {
    std::uint32_t id = 0;
    EXPECT_EQ(attachment.map(&id), -ENODEV);
    for (const ImporterKind& kind : {static_importer, dynamic, p2p_revocable}) {
      EXPECT_EQ(attach(buffer, kind, nvme("SAMESW")).error, -ENODEV);
      EXPECT_TRUE(find_reason(query(buffer).head.last_refused.verdict, DMABRIDGE_REASON_REVOKED));
    }
    EXPECT_EQ(begin_cpu_access(buffer), -ENODEV);
    EXPECT_EQ(placement(buffer), DMABRIDGE_PLACEMENT_NONE);
  }

  const std::string address_ = pci_address(first_region().device);
};

TEST_F(Revoked, WaitsUntilTheLastMappingOfTheDeviceIsGone) {
  const Fd buffer = allocate(1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  const std::uint32_t id = direct.attachment.map();
  ASSERT_EQ(direct.attachment.pin(), 0);
  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().invalidations == 1; }));
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout)
      << "the device goes while it is mapped";
  EXPECT_EQ(first_region().flags & (DMABRIDGE_REGION_UNREGISTERED | DMABRIDGE_REGION_QUARANTINED),
            DMABRIDGE_REGION_UNREGISTERED);
  std::uint32_t another = 0;
  EXPECT_EQ(direct.attachment.map(&another), -ENODEV);
  EXPECT_EQ(direct.attachment.unmap(id), 0);
  EXPECT_EQ(unbound.get(), 0);
  expect_dead(buffer.get(), direct.attachment);
  EXPECT_EQ(direct.attachment.pin(), -ENODEV);
  EXPECT_EQ(direct.attachment.unpin(), 0);
  rebind();
  const Fd fresh = allocate(1 * MiB);
  EXPECT_EQ(attach(fresh.get(), p2p_revocable, nvme("SAMESW")).error, 0);
}

TEST_F(Revoked, WaitsForAMappingThatAMoveLeftBehind) {
  const Fd buffer = allocate(1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  const std::uint32_t id = direct.attachment.map();
  ASSERT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().invalidations == 2; }));
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout)
      << "the device goes while it is mapped";
  EXPECT_EQ(direct.attachment.unmap(id), 0);
  EXPECT_EQ(unbound.get(), 0);
  expect_dead(buffer.get(), direct.attachment);
}

TEST_F(Revoked, ImporterThatUnmapsWhenToldIsNotWaitedFor) {
  const Fd buffer = allocate(1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"), TEST_IMPORTER_UNMAP);
  ASSERT_EQ(direct.error, 0);
  direct.attachment.map();
  ASSERT_EQ(unbind(), 0);
  EXPECT_EQ(direct.attachment.events().invalidations, 1u);
  EXPECT_EQ(direct.attachment.events().mappings, 0u);
  expect_dead(buffer.get(), direct.attachment);
}

TEST_F(Revoked, WaitsForFencesToo) {
  const Fd buffer = allocate(1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"), TEST_IMPORTER_FENCE);
  ASSERT_EQ(direct.error, 0);
  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().fences == 1; }));
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout)
      << "the device goes while a fence is pending";
  direct.attachment.signal();
  EXPECT_EQ(unbound.get(), 0);
  expect_dead(buffer.get(), direct.attachment);
}

// System memory does not go with the device.
TEST_F(Revoked, MappedSystemMemoryIsNotWaitedFor) {
  const Fd buffer = allocate(1 * MiB);
  Attached other = attach(buffer.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  const std::uint32_t id = other.attachment.map();
  ASSERT_EQ(unbind(), 0);
  EXPECT_EQ(other.attachment.table(id).length(), 1 * MiB) << "its mapping is whole";
  expect_dead(buffer.get(), other.attachment);
  EXPECT_EQ(other.attachment.unmap(id), 0);
}

TEST_F(Revoked, DuringAMoveThatWaitsForAFence) {
  const Fd buffer = allocate(1 * MiB);
  Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(direct.error, 0);
  direct.attachment.add_fence();
  std::future<int> moved = std::async(
      std::launch::async, [&] { return move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM); });
  EXPECT_TRUE(eventually([&] { return direct.attachment.events().invalidations == 1; }));
  const std::string node = region_node(first_region());
  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  // It has begun.
  EXPECT_TRUE(eventually([&] { return access(node.c_str(), F_OK) != 0; }));
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout);
  direct.attachment.signal();
  EXPECT_EQ(unbound.get(), 0);
  const int error = moved.get();
  EXPECT_TRUE(error == 0 || error == -ENODEV) << error;
  expect_dead(buffer.get(), direct.attachment);
}

TEST_F(Revoked, OwnerIsKilledWhileItHasAMapping) {
  const Fd buffer = allocate(1 * MiB);
  Child owner([&](const Child::Say& say) {
    Attached direct = attach(buffer.get(), p2p_revocable, nvme("SAMESW"), TEST_IMPORTER_FENCE);
    if (direct.error != 0 || direct.attachment.pin() != 0) return;
    direct.attachment.map();
    direct.attachment.add_fence();
    say(0);
  });
  ASSERT_TRUE(owner.wait()) << "the child gave up";
  std::future<int> unbound = std::async(std::launch::async, [&] { return unbind(); });
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout);
  owner.end();
  EXPECT_EQ(unbound.get(), 0);
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_NONE);
}

// --- drivers of RDMA devices
// --------------------------------------------------------------------------------------

// Each by its name, as it attaches: what it gets under each policy, and what it keeps from
// happening while its MR is there. What a region that takes unrevocable importers gives them is in
// the area driver.
class RdmaDriverAttaches : public Revoked,
                           public testing::WithParamInterface<std::tuple<RdmaDriver, Policy>> {
 protected:
  static constexpr std::uint64_t size = 1 * MiB;
  const RdmaDriver driver_ = std::get<0>(GetParam());
  const std::uint32_t policy_ = std::get<1>(GetParam()).policy;

  bool granted() const { return driver_.revocable && policy_ != DMABRIDGE_POLICY_FORBID; }
  bool refused() const { return policy_ == DMABRIDGE_POLICY_REQUIRE && !granted(); }
  std::vector<std::uint32_t> expected_reasons() const {
    std::vector<std::uint32_t> reasons;
    if (policy_ == DMABRIDGE_POLICY_FORBID) reasons.push_back(DMABRIDGE_REASON_POLICY_FORBID);
    if (!driver_.revocable) reasons.push_back(DMABRIDGE_REASON_NOT_REVOCABLE);
    return reasons;
  }
  // Both that have the callback unmap in it: mlx5_ib_dmabuf_invalidate_cb(),
  // ib_umem_dmabuf_revoke_locked().
  Attached attach_as_driver(int buffer) const {
    return attach(buffer, driver_.revocable ? p2p_revocable : p2p, nvme("SAMESW"),
                  TEST_IMPORTER_UNMAP);
  }
  // The table is of the buffer, wherever it is.
  static std::string wrong(const Table& table, int buffer) {
    return placement(buffer) == DMABRIDGE_PLACEMENT_DEVICE ? not_on_device(table, buffer)
                                                           : not_in_system(table, size);
  }
};

TEST_P(RdmaDriverAttaches, GetsWhatTheManualSays) {
  const Fd buffer = allocate(size, policy_);
  write_pattern(buffer.get(), size);
  const std::uint64_t before = query(buffer.get()).head.generation;
  Attached nic = attach_as_driver(buffer.get());
  const Query seen = query(buffer.get());
  if (refused()) {
    EXPECT_EQ(nic.error, -EOPNOTSUPP);
    EXPECT_THAT(codes(seen.head.last_refused.verdict),
                UnorderedElementsAreArray(expected_reasons()));
    EXPECT_EQ(seen.head.generation, before) << "a refusal moves nothing";
    EXPECT_TRUE(seen.users.empty());
    return;
  }
  ASSERT_EQ(nic.error, 0) << describe(seen.head.last_refused.verdict);
  EXPECT_EQ(nic.peer2peer, granted());
  ASSERT_EQ(seen.users.size(), 1u);
  const dmabridge_verdict& verdict = seen.users[0].verdict;
  EXPECT_EQ(verdict.route, granted() ? DMABRIDGE_ROUTE_P2P_BUS : DMABRIDGE_ROUTE_SYSTEM)
      << describe(verdict);
  EXPECT_THAT(codes(verdict), UnorderedElementsAreArray(expected_reasons())) << describe(verdict);
  EXPECT_EQ(seen.head.placement,
            granted() ? DMABRIDGE_PLACEMENT_DEVICE : DMABRIDGE_PLACEMENT_SYSTEM);
  if (driver_.pins) {
    ASSERT_EQ(nic.attachment.pin(), 0);
  }
  EXPECT_EQ(wrong(nic.attachment.table(nic.attachment.map()), buffer.get()), "");
  EXPECT_EQ(difference(buffer.get(), size), "");
}

// Other policies do not let it move.
class RdmaDriverUnderPrefer : public RdmaDriverAttaches {};

TEST_P(RdmaDriverUnderPrefer, BufferMovesOnlyIfTheDriverFollows) {
  const Fd buffer = allocate(size, policy_);
  write_pattern(buffer.get(), size);
  Attached nic = attach_as_driver(buffer.get());
  ASSERT_EQ(nic.error, 0);
  if (driver_.pins) {
    ASSERT_EQ(nic.attachment.pin(), 0);
  }
  const std::uint32_t mapped = nic.attachment.map();
  const auto there = granted() ? DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_DEVICE;
  dmabridge_verdict verdict{};
  const int moved = move(buffer.get(), there, &verdict);
  EXPECT_EQ(difference(buffer.get(), size), "");
  if (driver_.pins) {
    EXPECT_EQ(moved, -EBUSY);
    // Who needs system memory keeps it there by that alone.
    EXPECT_TRUE(find_reason(
        verdict, granted() ? DMABRIDGE_REASON_PINNED_BY_IMPORTER : DMABRIDGE_REASON_HELD))
        << describe(verdict);
    EXPECT_EQ(nic.attachment.events().invalidations, 0u);
    EXPECT_EQ(wrong(nic.attachment.table(mapped), buffer.get()), "");
  } else {
    EXPECT_EQ(moved, 0);
    EXPECT_EQ(nic.attachment.events().invalidations, 1u);
    // A peer's next access faults, and the driver maps anew.
    EXPECT_EQ(wrong(nic.attachment.table(nic.attachment.map()), buffer.get()), "");
  }
}

TEST_P(RdmaDriverAttaches, DeviceMayGoAtAnyTime) {
  const Fd buffer = allocate(size, policy_);
  Attached nic = attach_as_driver(buffer.get());
  if (refused()) {
    EXPECT_EQ(nic.error, -EOPNOTSUPP);
    return;
  }
  ASSERT_EQ(nic.error, 0);
  if (driver_.pins) {
    ASSERT_EQ(nic.attachment.pin(), 0);
  }
  const std::uint32_t mapped = nic.attachment.map();
  // Nobody detaches meanwhile: a wait would last for ever.
  ASSERT_EQ(unbind(), 0);
  if (driver_.revocable) {
    EXPECT_EQ(nic.attachment.events().invalidations, 1u);
    EXPECT_EQ(nic.attachment.events().mappings, 0u);
  } else {
    EXPECT_EQ(nic.attachment.events().invalidations, 0u);
    EXPECT_EQ(nic.attachment.table(mapped).length(), size) << "the MR stays memory";
    EXPECT_EQ(nic.attachment.unmap(mapped), 0);
  }
  std::uint32_t another = 0;
  EXPECT_EQ(nic.attachment.map(&another), -ENODEV);
  if (driver_.pins) {
    EXPECT_EQ(nic.attachment.unpin(), 0);
  }
}

std::string name_of_driver(const testing::TestParamInfo<std::tuple<RdmaDriver, Policy>>& info) {
  return fmt::format("{}{}", std::get<0>(info.param).name, std::get<1>(info.param).name);
}

INSTANTIATE_TEST_SUITE_P(Attach, RdmaDriverAttaches,
                         testing::Combine(testing::ValuesIn(rdma_drivers),
                                          testing::ValuesIn(policies)),
                         name_of_driver);
INSTANTIATE_TEST_SUITE_P(Attach, RdmaDriverUnderPrefer,
                         testing::Combine(testing::ValuesIn(rdma_drivers),
                                          testing::Values(policies[1])),
                         name_of_driver);

// --- the module's own life ---------------------------------------------------------------------

TEST_F(AttachTest, TestImporterLeavesFunctionsWithADriverAlone) {
  const Fd buffer = allocate(4096);
  Client client = nvme("SAMESW");
  client.mask_bits = 31;
  EXPECT_EQ(attach(buffer.get(), p2p_revocable, client).error, -EINVAL);
  EXPECT_EQ(attach(buffer.get(), p2p_revocable, {0xffff, true}).error, -ENXIO);
  EXPECT_EQ(attach(buffer.get(), {"", TEST_IMPORTER_STATIC, TEST_IMPORTER_PEER2PEER}).error,
            -EINVAL);
  EXPECT_TRUE(query(buffer.get()).users.empty());
}

TEST_F(AttachTest, KilledProcessLeavesNothingBehind) {
  const Fd buffer = allocate(1 * MiB);
  Child owner([&](const Child::Say& say) {
    Attached first = attach(buffer.get(), static_importer);
    Attached second = attach(buffer.get(), dynamic, nvme("OTHERRP"));
    if (first.error != 0 || second.error != 0 || second.attachment.pin() != 0) return;
    first.attachment.map();
    second.attachment.map();
    second.attachment.add_fence();
    say(0);
  });
  ASSERT_TRUE(owner.wait()) << "the child gave up";
  EXPECT_EQ(query(buffer.get()).users.size(), 2u);
  owner.end();
  EXPECT_TRUE(eventually([&] { return query(buffer.get()).users.empty(); }));
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_DEVICE);
}

TEST_F(AttachTest, TestImporterIsNotUnloadedInUse) {
  const auto unload = [] {
    return syscall(SYS_delete_module, "dmabridge_test_importer", O_NONBLOCK) == 0 ? 0 : -errno;
  };
  const Fd buffer = allocate(4096);
  Attached attached = attach(buffer.get(), dynamic);
  ASSERT_EQ(attached.error, 0);
  attached.attachment.add_fence();
  close_test_importer();
  EXPECT_EQ(unload(), -EWOULDBLOCK);
  attached.attachment.detach();
  EXPECT_TRUE(eventually([&] { return unload() == 0; }));
  // Its signalled fence is still on the buffer.
  EXPECT_EQ(move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  EXPECT_EQ(attach(buffer.get(), dynamic).error, 0) << "it is loaded again when needed";
}

}  // namespace
}  // namespace dmabridge::test

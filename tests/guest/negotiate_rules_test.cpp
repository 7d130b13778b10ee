// SPDX-License-Identifier: MIT
//
// What else enters a verdict, and its prediction, than the path: the administrator's deny list,
// other users of the buffer, the state of the target; and disks that are made of others.
#include <fcntl.h>
#include <fmt/format.h>

#include <atomic>
#include <dmabridge/confirm.hpp>
#include <dmabridge/plan.hpp>
#include <dmabridge/topology.hpp>
#include <set>
#include <thread>

#include "machine.hpp"
#include "support/block_fixture.hpp"
#include "support/raid.hpp"
#include "support/system_buffers.hpp"
#include "support/test_importer.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint32_t p2p_flags = DMABRIDGE_NEGOTIATE_PEER2PEER | DMABRIDGE_NEGOTIATE_REVOCABLE;

// The administrator's list. Empty again in the end.
class DenyList {
 public:
  ~DenyList() { EXPECT_EQ(set(""), 0); }
  // With a newline, as an empty text is never written.
  int set(const std::string& list) const { return write_text(path, list + "\n"); }
  std::string get() const { return oracle::read_line(path); }

 private:
  static constexpr const char* path = "/sys/module/dmabridge/parameters/deny";
};

class Rules : public BlockTest {
 protected:
  static constexpr std::uint64_t size = 64 * KiB;

  Fd raw(int flags = O_RDONLY) const { return open_file(drive("SAMESW").path(), flags); }
  std::uint64_t near() const { return nvme("SAMESW").function; }
  std::uint64_t far() const { return nvme("OTHERRP").function; }
  std::uint64_t gpu() const { return first_region().device; }

  // That of a bind or an attach of the same is the same.
  void expect_same_as_bind(int buffer, int target, std::uint32_t policy) {
    const Answer answer = ask_file(buffer, target, policy);
    const Binding bound = bind(buffer, target, policy);
    EXPECT_EQ(answer.error, bound.error);
    EXPECT_EQ(describe(answer.verdict), describe(bound.verdict));
  }
  void expect_same_as_attach(int buffer, const ImporterKind& kind, std::uint32_t flags) {
    const Answer answer = ask_function(buffer, near(), flags);
    const auto users = query(buffer).users.size();
    const Attached attached = attach(buffer, kind, nvme("SAMESW"));
    EXPECT_EQ(answer.error, attached.error);
    const Query found = query(buffer);
    ASSERT_EQ(found.users.size(), users + (attached.error == 0 ? 1 : 0));
    EXPECT_EQ(describe(answer.verdict),
              describe(attached.error == 0 ? found.users.back().verdict
                                           : found.head.last_refused.verdict));
  }

  DenyList deny_;
};

// --- the administrator's list
// ------------------------------------------------------------------------------

TEST_F(Rules, DeniedPairIsRedirectedOrRefused) {
  const Fd buffer = allocate(size), target = raw();
  for (const auto& [one, other] : {std::pair(near(), gpu()), std::pair(gpu(), near())}) {
    const std::string list = pci_address(one) + "-" + pci_address(other);
    SCOPED_TRACE(list);
    ASSERT_EQ(deny_.set(list), 0);
    EXPECT_EQ(deny_.get(), list);

    const Answer answer = ask_file(buffer.get(), target.get());
    EXPECT_EQ(answer.error, -EOPNOTSUPP);
    const dmabridge_reason* reason = find_reason(answer.verdict, DMABRIDGE_REASON_DENIED);
    ASSERT_TRUE(reason) << describe(answer.verdict);
    EXPECT_EQ(reason->device, near());
    EXPECT_EQ(reason->flags, DMABRIDGE_REASON_HAS_DEVICE | DMABRIDGE_REASON_BLOCKS_P2P);
    EXPECT_EQ(answer.verdict.nr_reasons, 1u) << describe(answer.verdict);
    expect_same_as_bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
    expect_same_as_bind(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER);
    expect_same_as_attach(buffer.get(), p2p_revocable, p2p_flags);

    const Attached attached = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
    ASSERT_EQ(attached.error, 0);
    EXPECT_FALSE(attached.peer2peer);
  }
  ASSERT_EQ(deny_.set(""), 0);
  EXPECT_EQ(deny_.get(), "");
  EXPECT_EQ(ask_file(buffer.get(), target.get()).verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
}

TEST_F(Rules, DeniedFunctionIsSoWithAnyone) {
  const Fd buffer = allocate(size), target = raw();
  for (const std::uint64_t function : {near(), gpu()}) {
    ASSERT_EQ(deny_.set(pci_address(function)), 0);
    EXPECT_TRUE(find_reason(ask_file(buffer.get(), target.get()).verdict, DMABRIDGE_REASON_DENIED))
        << pci_address(function);
  }
  // One of several, and others are none of its business.
  ASSERT_EQ(deny_.set(pci_address(far()) + "," + pci_address(gpu()) + "-" + pci_address(far())), 0);
  EXPECT_EQ(ask_file(buffer.get(), target.get()).verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  const Fd other = open_file(drive("OTHERRP").path(), O_RDONLY);
  const Answer answer = ask_file(buffer.get(), other.get());
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_DENIED)) << describe(answer.verdict);
  EXPECT_GT(answer.verdict.nr_reasons, 1u)
      << "the path's own reasons are missing: " << describe(answer.verdict);
}

TEST_F(Rules, WhoHasP2PKeepsIt) {
  const Bound bound = make(drive("SAMESW").path(), 1 * MiB, DMABRIDGE_POLICY_REQUIRE,
                           DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(deny_.set(pci_address(gpu())), 0);
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(difference(bound, 1 * MiB, 0xa0), "");
  expect_only(bound, DMABRIDGE_ROUTE_P2P_BUS, 1 * MiB);
}

TEST_F(Rules, ListWithAMistakeIsRefusedAndTheOldOneStays) {
  const std::string good = pci_address(gpu()) + "-" + pci_address(near());
  ASSERT_EQ(deny_.set(good), 0);
  for (const std::string& bad :
       {std::string("nonsense"), std::string(","), good + ",", "," + good, good + ",,", good + "-",
        "-" + good, std::string("03:00.0"), std::string("0000:03:00"), std::string("0000:03:20.0"),
        std::string("0000:03:00.8"), std::string("0000:100:00.0"), std::string("0000:03:00.0x"),
        std::string("0000:03:00.0 0000:04:00.0"), pci_address(gpu()) + "-" + pci_address(gpu()),
        good + "-" + good, std::string(4094, '0')}) {
    EXPECT_EQ(deny_.set(bad), -EINVAL) << bad;
    EXPECT_EQ(deny_.get(), good) << "after " << bad;
  }
  EXPECT_NE(shell("dmesg | tail -n 40").text.find("deny: '0000:03:00.8' is no PCI function"),
            std::string::npos)
      << "the log does not say what is wrong";
  // As lspci -D prints it, and as people type it.
  EXPECT_EQ(deny_.set("10000:E1:1F.7"), 0);
  EXPECT_EQ(deny_.get(), "10000:e1:1f.7");
}

// Many verdicts while the list is replaced again and again: each is by one list or the other.
TEST_F(Rules, ListCanBeReplacedUnderWay) {
  const Fd buffer = allocate(size), target = raw();
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    while (!stop) {
      EXPECT_EQ(deny_.set(pci_address(gpu())), 0);
      EXPECT_EQ(deny_.set(pci_address(far())), 0);
    }
  });
  bool denied = false, granted = false;
  EXPECT_TRUE(eventually([&] {
    const Answer answer = ask_file(buffer.get(), target.get());
    const bool p2p = answer.verdict.route == DMABRIDGE_ROUTE_P2P_BUS;
    EXPECT_NE(p2p, find_reason(answer.verdict, DMABRIDGE_REASON_DENIED) != nullptr)
        << describe(answer.verdict);
    (p2p ? granted : denied) = true;
    return denied && granted;
  }));
  stop = true;
  writer.join();
}

TEST_F(Rules, DenialIsPredicted) {
  ASSERT_EQ(deny_.set(pci_address(gpu()) + "-" + pci_address(near())), 0);
  const auto machine = read_topology();
  const dmabridge::control module;
  const auto region = module.regions().at(0);
  const auto importer = importer_named(machine, drive("SAMESW").path(), policy::prefer);
  const auto found = confirm(module, region, nullptr, machine,
                             facts_of(region, size, policy::prefer), {&importer, 1});
  EXPECT_TRUE(found.differences.empty());
  const auto& word = found.joint.importers.at(0).word;
  EXPECT_EQ(word.route, route::system);
  ASSERT_EQ(word.reasons.size(), 1u);
  EXPECT_EQ(word.reasons[0].code, std::uint32_t(DMABRIDGE_REASON_DENIED));
}

// --- others who use the buffer
// -----------------------------------------------------------------------------

TEST_F(Rules, HolderOfTheDeviceIsForetold) {
  const Fd buffer = allocate(size);
  const Hold held = hold(buffer.get(), DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0);
  const Answer answer = ask_function(buffer.get(), near(), DMABRIDGE_NEGOTIATE_STATIC);
  EXPECT_EQ(answer.error, -EBUSY);
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_HELD)) << describe(answer.verdict);
  expect_same_as_attach(buffer.get(), static_importer, DMABRIDGE_NEGOTIATE_STATIC);
}

TEST_F(Rules, BufferInSystemMemoryIsForetold) {
  const Fd buffer = allocate(size), target = raw();
  const Attached other = attach(buffer.get(), static_importer);
  ASSERT_EQ(other.error, 0);
  const Answer answer = ask_file(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER);
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_DEMOTED)) << describe(answer.verdict);
  expect_same_as_bind(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER);
  expect_same_as_bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
  expect_same_as_attach(buffer.get(), p2p_revocable, p2p_flags);
}

TEST_F(Rules, PinByAnImporterIsForetold) {
  const Fd buffer = allocate(size);
  Attached other = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(other.error, 0);
  ASSERT_EQ(other.attachment.pin(), 0);
  const Answer answer = ask_function(buffer.get(), near(), DMABRIDGE_NEGOTIATE_STATIC);
  EXPECT_EQ(answer.error, -EBUSY);
  EXPECT_EQ(answer.verdict.route, DMABRIDGE_ROUTE_NONE);
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_PINNED_BY_IMPORTER))
      << describe(answer.verdict);
  expect_same_as_attach(buffer.get(), static_importer, DMABRIDGE_NEGOTIATE_STATIC);
  ASSERT_EQ(other.attachment.unpin(), 0);
  EXPECT_EQ(ask_function(buffer.get(), near(), DMABRIDGE_NEGOTIATE_STATIC).error, 0);
}

// --- the target
// --------------------------------------------------------------------------------------------

TEST_F(Rules, NothingIsClaimed) {
  const Fd buffer = allocate(size), target = raw(O_RDWR);
  constexpr std::uint32_t write = DMABRIDGE_NEGOTIATE_WRITE;
  EXPECT_EQ(ask_file(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER, write).error, 0);
  const Fd exclusive = open_file(drive("SAMESW").path(), O_RDWR | O_EXCL);
  const Answer busy = ask_file(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER, write);
  EXPECT_EQ(busy.error, -EBUSY);
  EXPECT_TRUE(find_reason(busy.verdict, DMABRIDGE_REASON_TARGET_BUSY)) << describe(busy.verdict);
  const Binding bound =
      bind(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE);
  EXPECT_EQ(bound.error, busy.error);
  EXPECT_EQ(describe(bound.verdict), describe(busy.verdict));
}

TEST_F(Rules, TargetNotOpenedForItIsForetold) {
  const Fd buffer = allocate(size), target = raw(O_RDONLY);
  const Answer answer = ask_file(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER,
                                 DMABRIDGE_NEGOTIATE_READ | DMABRIDGE_NEGOTIATE_WRITE);
  EXPECT_EQ(answer.error, -EBADF);
  const dmabridge_reason* reason =
      find_reason(answer.verdict, DMABRIDGE_REASON_TARGET_NOT_READABLE);
  ASSERT_TRUE(reason) << describe(answer.verdict);
  EXPECT_EQ(reason->value, std::uint64_t(DMABRIDGE_BIND_WRITE));
}

TEST_F(Rules, ReadOnlyDeviceIsForetold) {
  const Fd buffer = allocate(size), target = raw(O_RDWR);
  ASSERT_EQ(shell("blockdev --setro " + drive("SAMESW").path()).status, 0);
  const Answer answer =
      ask_file(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER, DMABRIDGE_NEGOTIATE_WRITE);
  const Binding bound =
      bind(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(shell("blockdev --setrw " + drive("SAMESW").path()).status, 0);
  EXPECT_EQ(answer.error, -EROFS);
  EXPECT_EQ(bound.error, answer.error);
  EXPECT_EQ(describe(bound.verdict), describe(answer.verdict));
}

TEST_F(Rules, BufferOfAnotherExporterIsNamed) {
  const Fd foreign = allocate_from_heap(4096);
  // Files are what the area "foreign" is about. What it says to an attach its exporter knows.
  const Answer answer = ask_function(foreign.get(), near(), p2p_flags);
  EXPECT_EQ(answer.error, -EMEDIUMTYPE);
  const dmabridge_reason* reason = find_reason(answer.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER);
  ASSERT_TRUE(reason) << describe(answer.verdict);
  EXPECT_STREQ(reason->name, "system");
}

TEST_F(Rules, WithoutTheImporterTheKernelSaysSo) {
  const Fd buffer = allocate(size), target = raw();
  const std::string loader = oracle::read_line("/proc/sys/kernel/modprobe");
  ASSERT_EQ(write_text("/proc/sys/kernel/modprobe", "/bin/false"), 0);
  const Output unloaded = shell("rmmod dmabridge_block");
  const Answer answer = ask_file(buffer.get(), target.get());
  // Functions attach without it.
  const Answer function = ask_function(buffer.get(), near(), p2p_flags);
  ASSERT_EQ(write_text("/proc/sys/kernel/modprobe", loader), 0);
  ASSERT_EQ(unloaded.status, 0) << unloaded.text;
  EXPECT_EQ(answer.error, -EOPNOTSUPP);
  EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_NO_IMPORTER))
      << describe(answer.verdict);
  EXPECT_EQ(function.verdict.route, DMABRIDGE_ROUTE_P2P_BUS);
  ASSERT_EQ(shell("modprobe dmabridge_block").status, 0);
  EXPECT_EQ(ask_file(buffer.get(), target.get()).error, 0);
}

// --- disks that are made of others
// -------------------------------------------------------------------------

// Over a drive that reaches the memory and one that does not.
TEST_F(Rules, ArrayIsJudgedByItsLegs) {
  const Fd buffer = allocate(size);
  const dmabridge::control module;
  const auto region = module.regions().at(0);
  for (const int level : {0, 1}) {
    SCOPED_TRACE(fmt::format("raid{}", level));
    const RaidArray array(level, {drive("SAMESW").path(), drive("OTHERRP").path()});
    const auto machine = read_topology();
    const auto importer = importer_named(machine, array.path(), policy::prefer);
    ASSERT_EQ(importer.legs.size(), 2u);
    // In the order of the drives' names, which is not the same in every boot.
    EXPECT_EQ((std::set{importer.functions.at(0).pack(), importer.functions.at(1).pack()}),
              (std::set{near(), far()}));

    const auto found = confirm(module, region, nullptr, machine,
                               facts_of(region, size, policy::prefer), {&importer, 1});
    const auto& word = found.joint.importers.at(0).word;
    EXPECT_EQ(word.state, verdict_state::confirmed);
    EXPECT_EQ(word.route, route::system);
    const auto has = [&](std::uint32_t code) {
      return std::ranges::find(word.reasons, code, &reason::code) != word.reasons.end();
    };
    EXPECT_TRUE(has(DMABRIDGE_REASON_STACKED_DEVICE));
    EXPECT_TRUE(has(DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED)) << "the leg that is out of reach";
    EXPECT_EQ(has(DMABRIDGE_REASON_RAID_WRITE), level == 1);

    const Fd target = open_file(array.path(), O_RDONLY);
    expect_same_as_bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
    expect_same_as_bind(buffer.get(), target.get(), DMABRIDGE_POLICY_PREFER);
    const Answer answer = ask_file(buffer.get(), target.get());
    EXPECT_EQ(answer.error, -EOPNOTSUPP);
    EXPECT_TRUE(find_reason(answer.verdict, DMABRIDGE_REASON_STACKED_DEVICE))
        << describe(answer.verdict);
  }
}

}  // namespace
}  // namespace dmabridge::test

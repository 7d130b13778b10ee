// SPDX-License-Identifier: MIT
//
// exporter-conformance (tests/conformance): what it finds in our exporter and in the kernel's own,
// and that it finds what is wrong, in an exporter with one fault.
#include <bad_exporter.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <vector>

#include "support/conformance.hpp"
#include "support/fixture.hpp"

namespace dmabridge::test {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

// --- exporters that are built in ----------------------------------------------------------------

class Conformance : public GuestTest {};

TEST_F(Conformance, OursKeepsTheContract) {
  const ConformanceReport report = run_conformance("--exporter dmabridge");
  EXPECT_EQ(report.status, 0);
  EXPECT_THAT(report.with("fail"), IsEmpty()) << report.details("fail");
  // Memory may come in pieces that are too small to be limited; and a debugging kernel hides
  // things.
  EXPECT_THAT(report.with("untried"),
              testing::IsSubsetOf({"map: client's segment limit", "map: a table of its own",
                                   "map: device memory without pages"}))
      << report.details("untried");
  // What it has not: none of it is contract.
  EXPECT_THAT(report.with("lacks"),
              UnorderedElementsAreArray({"cpu: vmap keeps bytes", "cpu: vmap and mmap agree"}));
  for (const char* fact : {"attach: takes: static, no bus", "attach: takes: P2P, revocable, PCI",
                           "attach: P2P to the function", "map: pin", "cpu: mmap", "move: moves",
                           "revoke: no attachment afterwards", "revoke: mmap is cut off"})
    EXPECT_EQ(report.of(fact).outcome, "yes") << fact << ": " << report.of(fact).detail;
}

struct Kernels {
  const char* exporter;
  std::vector<std::string> known;
};

class KernelsOwn : public Conformance, public testing::WithParamInterface<Kernels> {};

TEST_P(KernelsOwn, BreaksNothingButWhatIsKnown) {
  const ConformanceReport report =
      run_conformance(std::string("--exporter ") + GetParam().exporter);
  EXPECT_EQ(report.status, 0) << "what is known is no violation";
  std::vector<std::string> known = GetParam().known;
  const std::string of_tables = "map: a table of its own";
  if (tables_are_hidden()) {
    EXPECT_EQ(report.of(of_tables).outcome, "untried");
    std::erase(known, of_tables);
  }
  EXPECT_THAT(report.with("fail"), UnorderedElementsAreArray(known)) << report.details("fail");
  for (const std::string& name : known) EXPECT_TRUE(report.of(name).known) << name;
  EXPECT_EQ(report.of("attach: P2P to the function").outcome, "no");
  EXPECT_EQ(report.of("cpu: vmap").outcome, "yes");
}

std::string name_of(const testing::TestParamInfo<Kernels>& info) {
  std::string name = info.param.exporter;
  std::erase(name, '-');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Conformance, KernelsOwn,
                         testing::Values(Kernels{"udmabuf", {}},
                                         Kernels{"dma-heap", {"map: a table of its own"}},
                                         Kernels{"vgem", {"cpu: mmap at an offset"}}),
                         name_of);

// Who lends a function needs an IOMMU; without one the reason is told. With one:
// conformance_iommu_test.cpp.
TEST_F(Conformance, VfioPciIsNotTriedWithoutIommu) {
  const ConformanceReport report = run_conformance("--exporter vfio-pci");
  EXPECT_EQ(report.status, 0);
  EXPECT_EQ(report.with("untried").size(), report.checks.size());
  EXPECT_THAT(report.of("attach: P2P to the function").detail, testing::HasSubstr("IOMMU"));
}

// --- faults
// ----------------------------------------------------------------------------------------

struct Fault {
  const char* name;
  bad_exporter_fault fault;
  std::vector<std::string> found_by;
};

class Faulty : public Conformance, public testing::WithParamInterface<Fault> {};

TEST_P(Faulty, IsFound) {
  // Such a kernel's DMA API reports the exporter besides, as one that unmaps what is not mapped.
  if (GetParam().fault == BAD_EXPORTER_SHARES_TABLE && tables_are_hidden())
    GTEST_SKIP() << "CONFIG_DMABUF_DEBUG hides sg_tables from importers";
  const Output loaded = shell("modprobe dmabridge_bad_exporter");
  ASSERT_EQ(loaded.status, 0) << loaded.text;
  const Fd node = open_file("/dev/dmabridge-bad-exporter", O_RDWR);
  // The program inherits it.
  const Fd buffer(ioctl(node.get(), BAD_EXPORTER_IOCTL_EXPORT, GetParam().fault));
  ASSERT_TRUE(buffer) << errno;
  ASSERT_EQ(fcntl(buffer.get(), F_SETFD, 0), 0);

  const ConformanceReport report = run_conformance(fmt::format("--fd {}", buffer.get()));
  for (const std::string& check : GetParam().found_by)
    if (report.of(check).outcome == "untried") GTEST_SKIP() << report.of(check).detail;
  EXPECT_THAT(report.with("fail"), UnorderedElementsAreArray(GetParam().found_by))
      << report.details("fail");
  EXPECT_EQ(report.status, GetParam().found_by.empty() ? 0 : 1);
}

INSTANTIATE_TEST_SUITE_P(
    Conformance, Faulty,
    testing::Values(
        Fault{"None", BAD_EXPORTER_NONE, {}},
        Fault{"ForcesP2p", BAD_EXPORTER_FORCES_P2P, {"attach: no peer2peer unasked"}},
        Fault{"RefusesMap", BAD_EXPORTER_REFUSES_MAP, {"attach: who is attached can map"}},
        Fault{"Leaks", BAD_EXPORTER_LEAKS, {"attach: references balance"}},
        Fault{"ShortTable", BAD_EXPORTER_SHORT_TABLE, {"map: length is the buffer's"}},
        Fault{"Misaligned", BAD_EXPORTER_MISALIGNED, {"map: page aligned"}},
        Fault{"SharesTable", BAD_EXPORTER_SHARES_TABLE, {"map: a table of its own"}},
        Fault{"PagesOnP2p", BAD_EXPORTER_PAGES_ON_P2P, {"map: device memory without pages"}},
        Fault{"MovesSilently", BAD_EXPORTER_MOVES_SILENTLY, {"map: one memory for all"}},
        Fault{"NoCpuAccess",
              BAD_EXPORTER_NO_CPU_ACCESS,
              {"cpu: begin and end, user space", "cpu: the same while mapped",
               "cpu: begin and end, kernel", "cpu: mmap at an offset", "cpu: mmap private",
               "cpu: mmap by two processes", "cpu: vmap keeps bytes", "cpu: vmap and mmap agree",
               "fence: CPU access waits", "lifetime: dup, fork, SCM_RIGHTS"}},
        Fault{"MmapOffset", BAD_EXPORTER_MMAP_OFFSET, {"cpu: mmap at an offset"}},
        Fault{"MmapGrows", BAD_EXPORTER_MMAP_GROWS, {"cpu: mremap beyond the end"}},
        Fault{"VmapCopy",
              BAD_EXPORTER_VMAP_COPY,
              {"cpu: vmap keeps bytes", "cpu: vmap and mmap agree"}}),
    [](const auto& each) { return each.param.name; });

// --- a command
// ------------------------------------------------------------------------------------

// The example of the manual page, for one of our buffers.
constexpr const char* sender = R"(
import array, fcntl, os, socket, struct, sys
node = os.open(sys.argv[1], os.O_RDWR)
argument = bytearray(struct.pack("QIIiI", 1 << 20, 2, 0, 0, 0))
fcntl.ioctl(node, 0xC018DB40, argument)
fd = struct.unpack("QIIiI", argument)[3]
socket.socket(fileno=3).sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
)";
static_assert(DMABRIDGE_IOCTL_ALLOC == 0xC018DB40);

TEST_F(Conformance, CommandSendsABufferAndHooksRevokeIt) {
  std::ofstream("/tmp/sender.py") << sender;
  const dmabridge_region_info region = first_region();
  const std::string driver = "/sys/bus/pci/drivers/dmabridge_pci",
                    address = pci_address(region.device);
  const ConformanceReport report = run_conformance(
      fmt::format("--check P2P --check 'closed in' --check move --check revoke --revoke 'echo {0} "
                  ">{1}/unbind' --restore '[ -e {1}/{0} ] || echo {0} "
                  ">{1}/bind' -- python3 /tmp/sender.py {2}",
                  address, driver, region_node(region)));
  EXPECT_EQ(report.status, 0);
  EXPECT_THAT(report.with("fail"), IsEmpty()) << report.details("fail");
  EXPECT_EQ(report.of("attach: P2P to the function").outcome, "yes");
  EXPECT_EQ(report.of("lifetime: closed in any order").outcome, "pass");
  EXPECT_EQ(report.of("revoke: importers are told").outcome, "pass");
  EXPECT_EQ(report.of("revoke: mmap is cut off").outcome, "yes");
  EXPECT_EQ(report.of("move: moves").outcome, "untried") << "no --move was given";
}

TEST_F(Conformance, WhatIsNoRequestIsRefused) {
  for (const char* arguments :
       {"", "--all --fd 0", "--fd 0", "--fd 77", "--exporter nobody", "--fd 0 --revoke true",
        "--all --move true", "--all --function 0000:ff:1f.7", "--all --function here",
        "--all --check nothing", "-- /nonexistent", "-- true"}) {
    const Output output = shell(fmt::format("exporter-conformance {} </dev/null", arguments));
    EXPECT_EQ(output.status, 2) << arguments << ": " << output.text;
    EXPECT_THAT(output.text, testing::Not(IsEmpty())) << arguments;
  }
}

}  // namespace
}  // namespace dmabridge::test

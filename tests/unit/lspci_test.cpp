// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "dmabridge/recording.hpp"
#include "error_of.hpp"
#include "topology_check.hpp"

namespace dmabridge {
namespace {

using test::error_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// As `lspci -D -nn -vvv` prints it, shortened: a switch below a root port, two devices below it and
// virtual functions of one.
constexpr std::string_view dump =
    R"(0000:00:00.0 Host bridge [0600]: Advanced Micro Devices, Inc. [AMD] Root Complex [1022:1480]
	Control: I/O- Mem+ BusMaster- SpecCycle-
	Status: Cap- 66MHz-

0000:00:01.1 PCI bridge [0604]: Advanced Micro Devices, Inc. [AMD] GPP Bridge [1022:1483] (prog-if 00 [Normal decode])
	Control: I/O+ Mem+ BusMaster+
	Status: Cap+ 66MHz-
	IOMMU group: 3
	Bus: primary=00, secondary=01, subordinate=05, sec-latency=0
	Capabilities: [58] Express (v2) Root Port (Slot+), MSI 00
		DevCap:	MaxPayload 512 bytes
	Capabilities: [2a0 v1] Access Control Services
		ACSCap:	SrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans+
		ACSCtl:	SrcValid+ TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl- DirectTrans-
	Kernel driver in use: pcieport

0000:01:00.0 PCI bridge [0604]: Broadcom / LSI PEX880xx PCIe Gen 4 Switch [1000:c010] (rev b0) (prog-if 00 [Normal decode])
	Control: I/O+ Mem+
	Status: Cap+
	Bus: primary=01, secondary=02, subordinate=05, sec-latency=0
	Capabilities: [68] Express (v2) Upstream Port, IntMsgNum 0

0000:02:00.0 PCI bridge [0604]: Broadcom / LSI PEX880xx PCIe Gen 4 Switch [1000:c010] (rev b0) (prog-if 00 [Normal decode])
	Control: I/O+ Mem+
	Status: Cap+
	Bus: primary=02, secondary=03, subordinate=03, sec-latency=0
	Capabilities: [68] Express (v2) Downstream Port (Slot+), MSI 00

0000:02:01.0 PCI bridge [0604]: Broadcom / LSI PEX880xx PCIe Gen 4 Switch [1000:c010] (rev b0)
	Control: I/O+ Mem+
	Status: Cap+
	Bus: primary=02, secondary=04, subordinate=05, sec-latency=0
	Capabilities: [68] Express (v2) Downstream Port (Slot+), MSI 00

0000:03:00.0 3D controller [0302]: NVIDIA Corporation GA100 [A100 SXM4 40GB] [10de:20b0] (rev a1)
	Control: I/O- Mem+ BusMaster+
	Status: Cap+
	NUMA node: 3
	Region 0: Memory at e4000000 (32-bit, non-prefetchable) [size=16M]
	Region 1: Memory at 22000000000 (64-bit, prefetchable) [size=64G]
	Region 3: Memory at <unassigned> (64-bit, prefetchable) [disabled] [size=32M]
	Region 5: I/O ports at 2000 [size=128]
	Capabilities: [78] Express (v2) Legacy Endpoint, MSI 00
	Kernel driver in use: nvidia
	Kernel modules: nvidia

0000:04:00.0 Ethernet controller [0200]: Mellanox Technologies MT28908 Family [ConnectX-6] [15b3:101b]
	Control: I/O- Mem+ BusMaster+
	Status: Cap+
	NUMA node: -1
	Capabilities: [60] Express (v2) Endpoint, MSI 00
	Capabilities: [180 v1] Single Root I/O Virtualization (SR-IOV)
		IOVCap:	Migration-, Interrupt Message Number: 000
		Initial VFs: 8, Total VFs: 8, Number of VFs: 2, Function Dependency Link: 00
		VF offset: 256, stride: 1, Device ID: 101c
		Region 0: Memory at 0000023004000000 (64-bit, prefetchable)

0000:05:00.0 Ethernet controller [0200]: Mellanox Technologies ConnectX Family mlx5Gen Virtual Function [15b3:101c]
	Control: I/O- Mem- BusMaster+
	Status: Cap+
	Capabilities: [60] Express (v2) Endpoint, MSI 00

0000:05:00.1 Ethernet controller [0200]: Mellanox Technologies ConnectX Family mlx5Gen Virtual Function [15b3:101c]
	Control: I/O- Mem- BusMaster+
	Status: Cap+
	Capabilities: [60] Express (v2) Endpoint, MSI 00
)";

auto at(const char* address) -> pci_address {
  return pci_address::parse(address).value();
}

auto missed(const topology& machine, const std::string& what) -> bool {
  return std::ranges::any_of(machine.unread, [&](const auto& fact) { return fact.what == what; });
}

TEST(lspci, tells_the_tree_by_bus_numbers) {
  const auto machine = read_lspci(dump);
  ASSERT_EQ(machine.functions.size(), 9U);
  EXPECT_EQ(machine.find(at("00:01.1"))->parent, std::nullopt);
  EXPECT_EQ(machine.find(at("01:00.0"))->parent, at("00:01.1"));
  EXPECT_EQ(machine.find(at("02:01.0"))->parent, at("01:00.0"));
  EXPECT_EQ(machine.find(at("03:00.0"))->parent, at("02:00.0"));
  EXPECT_EQ(machine.find(at("04:00.0"))->parent, at("02:01.0"));
  EXPECT_EQ(read_recording(record(machine)), machine) << "it can be recorded";
}

TEST(lspci, tells_ports_and_acs) {
  const auto machine = read_lspci(dump);
  EXPECT_EQ(machine.find(at("00:00.0"))->port, pci_port::bridge);
  const auto* root = machine.find(at("00:01.1"));
  EXPECT_EQ(root->port, pci_port::root);
  EXPECT_EQ(root->acs, (pci_acs{true, 0x5f, 0x1d}));
  EXPECT_EQ(root->iommu_group, 3U);
  EXPECT_EQ(machine.find(at("01:00.0"))->port, pci_port::upstream);
  EXPECT_EQ(machine.find(at("01:00.0"))->acs, pci_acs{}) << "read, and there is none";
  EXPECT_EQ(machine.find(at("02:00.0"))->port, pci_port::downstream);
  EXPECT_FALSE(missed(machine, "ACS of 0000:01:00.0"));
}

TEST(lspci, tells_what_a_function_is) {
  const auto machine = read_lspci(dump);
  const auto* gpu = machine.find(at("03:00.0"));
  EXPECT_EQ(gpu->vendor, 0x10de);
  EXPECT_EQ(gpu->device, 0x20b0);
  EXPECT_EQ(gpu->class_code, 0x030200U);
  EXPECT_EQ(gpu->port, pci_port::endpoint);
  EXPECT_EQ(gpu->driver, "nvidia");
  EXPECT_EQ(gpu->numa_node, 3);
  EXPECT_EQ(gpu->memory_enabled, true);
  EXPECT_THAT(gpu->bars, ElementsAre(pci_bar{0, 0xe4000000, 16 << 20, false},
                                     pci_bar{1, 0x22000000000, std::uint64_t{64} << 30, true},
                                     pci_bar{3, 0, 32 << 20, true}));
  EXPECT_EQ(machine.find(at("04:00.0"))->numa_node, std::nullopt);
  EXPECT_THAT(machine.find(at("04:00.0"))->bars, testing::IsEmpty()) << "that is its children's";
}

TEST(lspci, tells_virtual_functions_by_the_numbers_of_the_physical_one) {
  const auto machine = read_lspci(dump);
  for (const auto* name : {"05:00.0", "05:00.1"}) {
    const auto* found = machine.find(at(name));
    EXPECT_EQ(found->physical, at("04:00.0"));
    EXPECT_EQ(found->parent, at("02:01.0"));
    EXPECT_EQ(found->memory_enabled, std::nullopt);
  }
}

TEST(lspci, leaves_the_rest_of_the_machine_unread) {
  const auto machine = read_lspci(dump);
  EXPECT_EQ(machine.machine, machine_facts{});
  for (const auto* what : {"kernel version", "CPU", "kernel configuration", "memory encryption",
                           "IOMMU group 3's domain type"})
    EXPECT_TRUE(missed(machine, what)) << what;
}

TEST(lspci, without_root_leaves_acs_unread) {
  const auto machine = read_lspci(R"(0000:00:01.0 PCI bridge [0604]: Intel Port [8086:1901]
	Control: I/O+ Mem+
	Status: Cap+
	Bus: primary=00, secondary=01, subordinate=01, sec-latency=0
	Capabilities: <access denied>
	Kernel driver in use: pcieport
)");
  EXPECT_EQ(machine.functions[0].acs, std::nullopt);
  EXPECT_EQ(machine.functions[0].port, pci_port::unknown);
  EXPECT_TRUE(missed(machine, "ACS of 0000:00:01.0"));
  EXPECT_EQ(machine.unread.back().why, "lspci was not run as root");
}

TEST(lspci, with_too_few_words_leaves_acs_unread) {
  for (const auto* details :
       {"", "\tBus: primary=00, secondary=01, subordinate=01\n",
        "\tControl: Mem+\n\tStatus: Cap+\n\tBus: primary=00, secondary=01, subordinate=01\n",
        "\tControl: Mem+\n\tStatus: Cap+\n\tCapabilities: [40] Express (v2) Root Port\n"
        "\tCapabilities: [148 v1] Access Control Services\n",
        "\tControl: Mem+\n\tStatus: Cap+\n\tCapabilities: [40] Express (v2) Root Port\n"
        "\tCapabilities: [148 v1] Access Control Services\n"
        "\t\tACSCap:\tSrcValid+ TransBlk+ ReqRedir+ CmpltRedir+ UpstreamFwd+ EgressCtrl+ "
        "DirectTrans+\n"}) {
    const auto machine =
        read_lspci(std::string("0000:00:01.0 PCI bridge [0604]: Port [8086:1901]\n") + details);
    EXPECT_EQ(machine.functions[0].acs, std::nullopt) << details;
    EXPECT_TRUE(missed(machine, "ACS of 0000:00:01.0")) << details;
  }
}

TEST(lspci, passes_over_what_it_does_not_know) {
  const auto machine = read_lspci(
      "$ sudo lspci -D -nn -vvv\nsome words\n\n"
      "0000:00:02.0 VGA compatible controller [0300]: A [B] device [1234:1111] (rev 02) (prog-if "
      "00 [VGA controller])\r\n\tA new kind of line: yes\n\tRegion 7: Memory at 0\n$ \n");
  ASSERT_EQ(machine.functions.size(), 1U);
  EXPECT_EQ(machine.functions[0].vendor, 0x1234);
  EXPECT_EQ(machine.functions[0].class_code, 0x030000U);
}

TEST(lspci, sorts_what_comes_in_another_order) {
  const auto machine = read_lspci(
      "0001:00:00.0 A [0200]: B [1234:1111]\n00:03.0 A [0200]: B [1234:1112]\n"
      "10000:e0:06.0 A [0200]: B [1234:1113]\n");
  ASSERT_EQ(machine.functions.size(), 3U);
  EXPECT_EQ(machine.functions[0].device, 0x1112);
  EXPECT_EQ(machine.functions[2].address.domain, 0x10000U);
}

TEST(lspci, bridges_that_are_not_set_up_have_nothing_below_them) {
  const auto machine = read_lspci(
      "0000:05:00.0 PCI bridge [0604]: A [1:2] [8086:1901]\n"
      "\tBus: primary=05, secondary=01, subordinate=ff\n"
      "0000:06:00.0 PCI bridge [0604]: A [8086:1901]\n"
      "\tBus: primary=00, secondary=00, subordinate=00\n"
      "0000:07:00.0 A [0200]: B [1234:1112]\n");
  for (const auto& function : machine.functions) EXPECT_EQ(function.parent, std::nullopt);
}

auto failure_of(std::string_view text) -> std::string {
  const auto failure = error_of([&] { read_lspci(text); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  return failure.what();
}

TEST(lspci, of_nothing_is_refused) {
  for (const auto* text : {"", "\n\n", "no such command\n", "\tCapabilities: none\n"})
    EXPECT_THAT(failure_of(text), HasSubstr("this is not what lspci prints"));
}

TEST(lspci, without_numbers_is_refused) {
  EXPECT_THAT(
      failure_of("0000:00:02.0 VGA compatible controller: Device\n"),
      AllOf(HasSubstr("line 1, column 1"), HasSubstr("-nn"), HasSubstr("lspci -D -nn -vvv")));
}

TEST(lspci, with_a_driver_that_a_terminal_would_obey_is_refused) {
  EXPECT_THAT(failure_of("00:02.0 A [0200]: B [1234:1111]\n\tKernel driver in use: \x1b[2J\n"),
              HasSubstr("line 2, column 1: a driver of no printable name"));
}

TEST(lspci, twice_the_same_is_refused) {
  EXPECT_THAT(failure_of("00:02.0 A [0200]: B [1234:1111]\n\n00:02.0 A [0200]: B [1234:1111]\n"),
              HasSubstr("line 3, column 1: 0000:00:02.0 is there twice"));
}

TEST(lspci, of_half_a_line_of_acs_is_refused) {
  EXPECT_THAT(failure_of("00:02.0 A [0604]: B [1234:1111]\n\tCapabilities: [148 v1] Access Control "
                         "Services\n\t\tACSCtl:\tSrcValid+ TransBl\n"),
              HasSubstr("line 3, column 1: the bits of ACS are not whole"));
}

// A dump that ends early is read as far as it goes, or refused; what is read is consistent.
TEST(lspci, cut_off_anywhere_does_no_harm) {
  for (std::size_t length = 0; length < dump.size(); ++length) {
    try {
      const auto machine = read_lspci(dump.substr(0, length));
      ASSERT_FALSE(find_inconsistency(machine).has_value());
    } catch (const error& refused) {
      ASSERT_EQ(refused.kind(), error_kind::usage);
    }
  }
}

}  // namespace
}  // namespace dmabridge

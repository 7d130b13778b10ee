// SPDX-License-Identifier: MIT
// dmabridge topo as its user sees it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "command.hpp"
#include "command_fixture.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/recording.hpp"
#include "gpu_server.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::command {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class topo_test : public command_fixture {
 protected:
  topo_test() : command_fixture("topo") {}

  void write(const std::string& text) { std::ofstream(file_) << text; }
};

TEST_F(topo_test, tells_machine_devices_and_both_matrices) {
  EXPECT_EQ(run({}), exit_ok) << err();
  EXPECT_THAT(out(), HasSubstr("7.2.12-test, PCI P2PDMA built in"));
  EXPECT_THAT(out(), ContainsRegex("GPU1 +0000:05:00.0 +0 +- +amdgpu +card1, renderD128; BAR 0, "
                                   "16 GiB"));
  EXPECT_THAT(out(), ContainsRegex("GPU0 +X +PIX +PIX +PHB +PIX"));
  EXPECT_THAT(out(), HasSubstr("memory of the row, DMA by the column"));
  EXPECT_THAT(out(), ContainsRegex("GPU0 +X +yes +yes +no +yes"));
  EXPECT_THAT(out(), HasSubstr("no region of dmabridge: "));
  EXPECT_EQ(err(), "");
}

TEST_F(topo_test, report_that_nobody_got_is_a_failure) {
  around_.out_.setstate(std::ios::badbit);
  EXPECT_EQ(run({}), exit_system);
  EXPECT_THAT(err(), HasSubstr("cannot write the report"));
}

TEST_F(topo_test, machine_with_nothing_says_what_was_looked_for) {
  around_.facts = topology();
  EXPECT_EQ(run({}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("no GPU"), HasSubstr("no drive"), HasSubstr("no RDMA"),
                           HasSubstr("no network device"), HasSubstr("among 0 PCI functions")));
  EXPECT_THAT(out(), Not(HasSubstr("PIX")));
  EXPECT_EQ(run({"--json"}), exit_ok);
  EXPECT_TRUE(parsed()["devices"].empty());
  EXPECT_EQ(run({"--dot"}), exit_ok);
}

TEST_F(topo_test, what_could_not_be_read_is_said) {
  around_.facts.unread = {{"ACS of 0000:00:01.0", "it is for root", "run this as root"}};
  EXPECT_EQ(run({}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("could not be read\n  ACS of 0000:00:01.0: it is for root; run this "
                               "as root"));
}

TEST_F(topo_test, lines_fit_a_terminal) {
  for (unsigned i = 2; i < 32; ++i) {
    const auto address = fmt::format("0000:{:02x}:00.0", i + 0x20);
    auto function = test::function_of(around_.facts, "0000:07:00.0");
    function.address = test::at(address.c_str());
    around_.facts.functions.push_back(function);
    around_.facts.blocks.push_back(
        test::disk(fmt::format("nvme{}n1", i).c_str(), address.c_str(), "nvme"));
  }
  around_.columns = 100;
  EXPECT_EQ(run({}), exit_ok);
  std::istringstream text(out());
  auto matrix = false;
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("GPU0") && line.find("PHB") != std::string::npos) {
      matrix = true;
      EXPECT_LE(line.size(), 100U);
    }
  }
  EXPECT_TRUE(matrix);
}

TEST_F(topo_test, json_has_every_cell_with_its_reasons) {
  EXPECT_EQ(run({"--json"}), exit_ok);
  const auto object = parsed();
  std::vector<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.push_back(key);
  EXPECT_THAT(keys, testing::UnorderedElementsAre("source", "machine", "functions", "module",
                                                  "devices", "proximity", "p2p", "unread"));
  EXPECT_TRUE(object["source"].is_null());
  EXPECT_EQ(object["devices"][1]["names"][0], "card1");
  EXPECT_EQ(object["proximity"]["GPU0"]["nvme1n1"], "PHB");
  const auto& far = object["p2p"]["GPU0"]["nvme1n1"];
  EXPECT_EQ(far["p2p"], "no");
  EXPECT_EQ(far["answer"], "no");
  EXPECT_EQ(far["reasons"][0]["id"], "host_bridge_unlisted");
  EXPECT_EQ(object["p2p"]["GPU0"]["nvme0n1"]["distance"], 4);
  EXPECT_FALSE(object["p2p"].contains("nvme0n1"));
}

TEST_F(topo_test, dot_marks_a_pair_by_any_of_its_names) {
  EXPECT_EQ(run({"--dot", "--path", "GPU0", "nvme1n1"}), exit_ok) << err();
  const auto by_label = out();
  EXPECT_THAT(by_label, HasSubstr("color=red"));
  EXPECT_EQ(run({"--dot", "--path", "0000:04:00.0", "/dev/nvme1n1"}), exit_ok) << err();
  EXPECT_EQ(out(), by_label);
  EXPECT_EQ(run({"--dot", "--path", "card1", "mlx5_0"}), exit_ok) << err();
  EXPECT_EQ(run({"--dot", "--path", "GPU7", "nvme1n1"}), exit_usage);
  EXPECT_THAT(err(), AllOf(HasSubstr("\"GPU7\""), HasSubstr("GPU1 (card1")));
  EXPECT_EQ(run({"--dot", "--path", "GPU0", "nosuch"}), exit_usage);
}

TEST_F(topo_test, recording_is_read_back_as_the_same_machine) {
  EXPECT_EQ(run({"--record", file_}), exit_ok) << err();
  EXPECT_THAT(out(), HasSubstr("without serial numbers and MAC addresses"));
  EXPECT_EQ(run({"--json"}), exit_ok);
  auto here = parsed();
  around_.facts = topology();
  EXPECT_EQ(run({"--from", file_, "--json"}), exit_ok) << err();
  auto there = parsed();
  EXPECT_EQ(there["source"], file_);
  here.erase("source");
  there.erase("source");
  EXPECT_EQ(here, there);
}

TEST_F(topo_test, recording_to_the_standard_output_is_nothing_else) {
  EXPECT_EQ(run({"--record", "-"}), exit_ok);
  EXPECT_EQ(read_recording(out()), test::gpu_server());
}

TEST_F(topo_test, recording_says_what_is_not_in_it) {
  around_.facts.unread = {{"ACS of 0000:00:01.0", "it is for root", "run this as root"}};
  EXPECT_EQ(run({"--record", file_}), exit_ok);
  EXPECT_THAT(out(), AllOf(HasSubstr("not in it"), HasSubstr("run this as root")));
}

TEST_F(topo_test, recording_that_cannot_be_written_is_a_failure) {
  EXPECT_EQ(run({"--record", "/nowhere/machine.json"}), exit_system);
  EXPECT_THAT(err(), AllOf(HasSubstr("/nowhere/machine.json"), HasSubstr("ENOENT")));
  EXPECT_EQ(run({"--record", "/dev/full"}), exit_system);
}

TEST_F(topo_test, files_that_are_no_machines) {
  EXPECT_EQ(run({"--from", "/nowhere"}), exit_usage);
  EXPECT_THAT(err(), AllOf(HasSubstr("/nowhere"), HasSubstr("ENOENT")));
  write(" \n");
  EXPECT_EQ(run({"--from", file_}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("it is empty"));
  write("{\"format\": 7");
  EXPECT_EQ(run({"--from", file_}), exit_usage);
  EXPECT_THAT(err(), HasSubstr(file_));
  write("hello\n");
  EXPECT_EQ(run({"--from", file_}), exit_usage);
  EXPECT_EQ(run({"--from", "/dev/zero"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("more than 64 MiB"));
  EXPECT_EQ(run({"--from", testing::TempDir()}), exit_usage);
}

TEST_F(topo_test, lspci_is_known_by_its_look) {
  write(
      "0000:00:00.0 Host bridge [0600]: Intel Corporation 82G33 [8086:29c0]\n"
      "\n"
      "0000:00:01.0 PCI bridge [0604]: Texas Instruments XIO3130 [104c:8232]\n"
      "\tBus: primary=00, secondary=01, subordinate=01, sec-latency=0\n"
      "\tCapabilities: [40] Express (v2) Root Port (Slot+), MSI 00\n"
      "\n"
      "0000:01:00.0 3D controller [0302]: NVIDIA Corporation GH100 [10de:2330]\n"
      "\tRegion 0: Memory at 1000000000 (64-bit, prefetchable) [size=16G]\n"
      "\tKernel driver in use: nvidia\n"
      "\n"
      "0000:01:00.1 Non-Volatile memory controller [0108]: Samsung [144d:a80a]\n"
      "\tRegion 0: Memory at f0000000 (64-bit, non-prefetchable) [size=16K]\n"
      "\tKernel driver in use: nvme\n");
  EXPECT_EQ(run({"--from", file_}), exit_ok) << err();
  EXPECT_THAT(out(), ContainsRegex("GPU0 +0000:01:00.0"));
  EXPECT_THAT(out(), ContainsRegex("DRIVE0 +0000:01:00.1"));
  EXPECT_THAT(out(), ContainsRegex("GPU0 +X +PIX"));
}

TEST_F(topo_test, options_that_exclude_each_other) {
  EXPECT_EQ(run({"--json", "--dot"}), exit_usage);
  EXPECT_EQ(run({"--path", "a", "b"}), exit_usage);
  EXPECT_EQ(run({"--dot", "--path", "a"}), exit_usage);
  EXPECT_EQ(run({"--record", file_, "--json"}), exit_usage);
}

TEST_F(topo_test, names_from_a_file_do_not_reach_the_terminal_as_they_are) {
  around_.facts.machine.kernel = "7.2\x1b[31m";
  EXPECT_EQ(run({}), exit_ok);
  EXPECT_THAT(out(), Not(HasSubstr("\x1b")));
  around_.facts.machine.kernel = "7.2\xff";
  EXPECT_EQ(run({"--json"}), exit_ok);
  EXPECT_FALSE(parsed().empty());
}

}  // namespace
}  // namespace dmabridge::command

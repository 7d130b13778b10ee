// SPDX-License-Identifier: MIT
#include "arguments.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace dmabridge::command {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

template <typename Wanted>
auto parsed(std::vector<std::string> line) -> Wanted {
  line.insert(line.begin(), "dmabridge");
  auto result = parse(line);
  if (auto* wanted = std::get_if<Wanted>(&result)) return *wanted;
  ADD_FAILURE() << "parsed to something else: "
                << (std::holds_alternative<message>(result) ? std::get<message>(result).text : "");
  return {};
}

auto refusal(std::vector<std::string> line) -> std::string {
  const auto said = parsed<message>(std::move(line));
  EXPECT_TRUE(said.is_error) << said.text;
  return said.text;
}

TEST(arguments, defaults) {
  const auto load = parsed<load_arguments>({"load", "file"});
  EXPECT_EQ(load.path, "file");
  EXPECT_EQ(load.policy, policy::prefer);
  EXPECT_EQ(load.depth, 16U);
  EXPECT_EQ(load.block_size, 1U << 20);
  EXPECT_FALSE(load.length || load.size || load.keep || load.json);
  EXPECT_TRUE(load.successor.empty());
  EXPECT_TRUE(parsed<info_arguments>({"info"}).buffer.empty());
}

TEST(arguments, bench_rdma) {
  const auto plain = parsed<bench_rdma_arguments>({"bench", "rdma"});
  EXPECT_TRUE(plain.device.empty() && plain.region.empty() && !plain.json);
  EXPECT_EQ(plain.size, 16U << 20);
  EXPECT_EQ(plain.turns, 9U);
  const auto all = parsed<bench_rdma_arguments>({"bench", "rdma", "--json", "--device", "mlx5_0",
                                                 "--region", "vram0", "--size", "1M", "--policy",
                                                 "require", "--turns", "3"});
  EXPECT_TRUE(all.json);
  EXPECT_EQ(all.device, "mlx5_0");
  EXPECT_EQ(all.region, "vram0");
  EXPECT_EQ(all.size, 1U << 20);
  EXPECT_EQ(all.policy, policy::require);
  EXPECT_EQ(all.turns, 3U);
  EXPECT_THAT(refusal({"bench", "rdma", "--turns", "0"}), HasSubstr("from 1 to 1000"));
  EXPECT_THAT(refusal({"bench", "rdma", "--size"}), HasSubstr("--size needs a value"));
  refusal({"bench"});
}

TEST(arguments, all_of_load) {
  const auto load = parsed<load_arguments>(
      {"load", "--json", "--region", "vram0", "--offset", "1M", "--length", "64K", "--at", "4096",
       "--size", "2GiB", "--policy", "require", "--depth", "8", "--block-size", "128K", "file"});
  EXPECT_TRUE(load.json);
  EXPECT_EQ(load.region, "vram0");
  EXPECT_EQ(load.offset, 1U << 20);
  EXPECT_EQ(load.length, 65536U);
  EXPECT_EQ(load.at, 4096U);
  EXPECT_EQ(load.size, std::uint64_t{2} << 30);
  EXPECT_EQ(load.policy, policy::require);
  EXPECT_EQ(load.depth, 8U);
  EXPECT_EQ(load.block_size, 131072U);
}

TEST(arguments, successor_is_left_alone) {
  const auto load =
      parsed<load_arguments>({"load", "file", "--", "program", "--json", "--", "--policy"});
  EXPECT_THAT(load.successor, ElementsAre("program", "--json", "--", "--policy"));
  EXPECT_FALSE(load.json);
  EXPECT_THAT(refusal({"load", "file", "--"}), HasSubstr("COMMAND"));
  EXPECT_THAT(refusal({"load", "file", "--keep", "--", "program"}), HasSubstr("--keep"));
}

TEST(arguments, save) {
  const auto save = parsed<save_arguments>({"save", "out", "--buffer", "fd:3", "--force"});
  EXPECT_EQ(save.buffer, "fd:3");
  EXPECT_TRUE(save.force);
  EXPECT_EQ(parsed<save_arguments>({"save", "--", "-odd-name"}).path, "-odd-name");
}

TEST(arguments, explain) {
  const auto explain = parsed<explain_arguments>({"explain", "vram0", "nvme0n1", "mlx5_0"});
  EXPECT_EQ(explain.memory, "vram0");
  EXPECT_THAT(explain.importers, ElementsAre("nvme0n1", "mlx5_0"));
  EXPECT_EQ(explain.policy, policy::prefer);
  EXPECT_EQ(explain.size, 1U << 20);
  EXPECT_EQ(explain.way, direction::both);
  EXPECT_FALSE(explain.prove || explain.json || !explain.from.empty());
  const auto all = parsed<explain_arguments>(
      {"explain", "--json", "--policy", "forbid", "vram0", "--size", "64K", "--prove", "nvme0n1"});
  EXPECT_TRUE(all.json && all.prove);
  EXPECT_EQ(all.policy, policy::forbid);
  EXPECT_EQ(all.size, 65536U);
  EXPECT_EQ(parsed<explain_arguments>({"explain", "--from", "-", "a", "b"}).from, "-");
  EXPECT_EQ(parsed<explain_arguments>({"explain", "--for", "read", "a", "b"}).way, direction::read);
  EXPECT_EQ(parsed<explain_arguments>({"explain", "a", "b", "--for", "write"}).way,
            direction::write);
  EXPECT_EQ(parsed<explain_arguments>({"explain", "a", "b", "--for", "both"}).way, direction::both);
  EXPECT_THAT(refusal({"explain", "a", "b", "--for", "fun"}), HasSubstr("\"fun\""));
  EXPECT_THAT(refusal({"explain"}), HasSubstr("MEMORY"));
  EXPECT_THAT(refusal({"explain", "vram0"}), HasSubstr("IMPORTER"));
  EXPECT_THAT(refusal({"explain", "a", "b", "--from", "x", "--prove"}), HasSubstr("--from"));
  EXPECT_THAT(refusal({"explain", "a", "b", "--policy", "maybe"}), HasSubstr("\"maybe\""));
  EXPECT_THAT(refusal({"explain", "a", "b", "--size", "1X"}), HasSubstr("\"1X\""));
}

TEST(arguments, topo) {
  const auto plain = parsed<topo_arguments>({"topo"});
  EXPECT_FALSE(plain.json || plain.dot);
  EXPECT_TRUE(plain.path.empty() && plain.record.empty() && plain.from.empty());
  EXPECT_THAT(parsed<topo_arguments>({"topo", "--dot", "--path", "GPU0", "nvme0n1"}).path,
              ElementsAre("GPU0", "nvme0n1"));
  EXPECT_EQ(parsed<topo_arguments>({"topo", "--record", "-", "--from", "x"}).record, "-");
  EXPECT_THAT(refusal({"topo", "--path", "GPU0", "nvme0n1"}), HasSubstr("--dot"));
  EXPECT_THAT(refusal({"topo", "--dot", "--path", "GPU0"}), HasSubstr("--path needs a value"));
  EXPECT_THAT(refusal({"topo", "--dot", "--json"}), HasSubstr("--json"));
  EXPECT_THAT(refusal({"topo", "GPU0"}), HasSubstr("GPU0"));
}

TEST(arguments, what_makes_no_sense_is_named) {
  EXPECT_THAT(refusal({}), HasSubstr("subcommand"));
  EXPECT_THAT(refusal({"load"}), HasSubstr("FILE"));
  EXPECT_THAT(refusal({"load", "file", "--policy", "maybe"}), HasSubstr("\"maybe\""));
  EXPECT_THAT(refusal({"load", "file", "--size", "1X"}), HasSubstr("\"1X\""));
  EXPECT_THAT(refusal({"load", "file", "--depth", "0"}), HasSubstr("--depth"));
  EXPECT_THAT(refusal({"load", "file", "--block-size", "4G"}), HasSubstr("below 4G"));
  EXPECT_THAT(refusal({"load", "file", "--block-size", "0"}), HasSubstr("above 0"));
  EXPECT_THAT(refusal({"load", "file", "--buffer", "fd:3", "--size", "1M"}), HasSubstr("--size"));
  EXPECT_THAT(refusal({"load", "file", "--buffer", "fd:3", "--region", "r"}),
              HasSubstr("--region"));
  EXPECT_THAT(refusal({"load", "file", "more"}), HasSubstr("more"));
  EXPECT_THAT(refusal({"info", "--nonsense"}), HasSubstr("--nonsense"));
  EXPECT_THAT(refusal({"explode"}), HasSubstr("explode"));
}

TEST(arguments, option_without_its_value_says_what_it_takes) {
  EXPECT_THAT(refusal({"load", "file", "--policy"}),
              AllOf(HasSubstr("--policy needs a value after it, POLICY: require:"),
                    HasSubstr("prefer"), HasSubstr("forbid"), Not(HasSubstr("\n"))));
  EXPECT_THAT(refusal({"load", "file", "--offset"}), HasSubstr("--offset needs a value"));
  EXPECT_THAT(refusal({"load", "file", "--offset="}), HasSubstr("--offset needs a value"));
  EXPECT_THAT(refusal({"save", "file", "--depth"}), HasSubstr("1 to 4096"));
  EXPECT_THAT(refusal({"info", "--buffer"}), HasSubstr("pid:PID:FD"));
}

TEST(arguments, depth_is_a_whole_number_in_range) {
  EXPECT_EQ(parsed<load_arguments>({"load", "file", "--depth", "4096"}).depth, 4096U);
  for (const auto* text : {"0", "4097", "-1", "abc", "8x", "1.5", "99999999999"}) {
    EXPECT_THAT(refusal({"load", "file", "--depth", text}),
                AllOf(HasSubstr(text), HasSubstr("from 1 to 4096")));
  }
}

TEST(arguments, help_and_version) {
  EXPECT_THAT(parsed<message>({"--version"}).text, testing::MatchesRegex("dmabridge [0-9.]+\n"));
  for (const auto* subcommand : {"explain", "info", "load", "save", "topo"}) {
    const auto help = parsed<message>({subcommand, "--help"});
    EXPECT_FALSE(help.is_error);
    EXPECT_THAT(help.text, HasSubstr("Examples:"));
    EXPECT_THAT(help.text, HasSubstr(fmt::format("Usage: dmabridge {} [OPTION]...", subcommand)));
    // Words of the parser's own, which tell a reader nothing.
    for (const auto* word :
         {"TEXT", "REQUIRED", " INT", "UINT", "[16]", "Excludes", "Positionals"}) {
      EXPECT_THAT(help.text, Not(HasSubstr(word))) << subcommand;
    }
  }
}

}  // namespace
}  // namespace dmabridge::command

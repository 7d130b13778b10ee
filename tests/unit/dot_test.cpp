// SPDX-License-Identifier: MIT
#include "dot.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>

#include "gpu_server.hpp"
#include "matrix.hpp"

namespace dmabridge::command {
namespace {

using test::at;
using test::gpu_server;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

auto mark(const topology& machine, const char* memory, const char* importer) -> marked_path {
  marked_path marked{.memory = at(memory), .importer = at(importer)};
  marked.path = find_path(machine, marked.memory, marked.importer);
  const auto devices = list_devices(machine, {});
  const auto of = [&](const pci_address& address) -> const device& {
    return *std::ranges::find(devices, address, &device::function);
  };
  marked.word = p2p_between(machine, of(marked.memory), of(marked.importer)).word;
  return marked;
}

auto graph(const topology& machine, const std::optional<marked_path>& marked = {}) -> std::string {
  const auto devices = list_devices(machine, {});
  return to_dot(machine, devices, marked);
}

// Every quotation mark and brace has its counterpart, and statements end.
void expect_well_formed(const std::string& text) {
  bool quoted = false;
  int braces = 0;
  int brackets = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (quoted && text[i] == '\\') {
      ++i;
      continue;
    }
    if (text[i] == '"') quoted = !quoted;
    if (quoted) {
      EXPECT_NE(text[i], '\n') << "inside of a name";
      continue;
    }
    braces += (text[i] == '{') - (text[i] == '}');
    brackets += (text[i] == '[') - (text[i] == ']');
    EXPECT_GE(braces, 0);
    EXPECT_GE(brackets, 0);
  }
  EXPECT_FALSE(quoted);
  EXPECT_EQ(braces, 0);
  EXPECT_EQ(brackets, 0);
  EXPECT_TRUE(text.starts_with("graph ")) << text;
  EXPECT_TRUE(text.ends_with("}\n"));
}

TEST(dot, tree_from_host_bridge_to_devices) {
  const auto text = graph(gpu_server());
  expect_well_formed(text);
  EXPECT_THAT(text, HasSubstr("\"pci0000:00\" [label=\"host bridge\\npci0000:00\\n8086:29c0\""));
  EXPECT_THAT(text, HasSubstr("\"pci0000:00\" -- \"0000:00:01.0\";"));
  EXPECT_THAT(text, HasSubstr("\"0000:01:00.0\" -- \"0000:02:01.0\";"));
  EXPECT_THAT(text, HasSubstr("\"0000:05:00.0\" [label=\"GPU1\\ncard1, renderD128\\n0000:05:00.0"));
  EXPECT_THAT(text, AllOf(Not(HasSubstr("red")), Not(HasSubstr("blue,"))));
}

TEST(dot, marked_path_inside_a_switch_does_not_reach_the_root) {
  const auto machine = gpu_server();
  const auto text = graph(machine, mark(machine, "0000:04:00.0", "0000:03:00.0"));
  expect_well_formed(text);
  EXPECT_THAT(text, HasSubstr("\"0000:01:00.0\" -- \"0000:02:00.0\" [color=blue"));
  EXPECT_THAT(text, HasSubstr("\"0000:02:01.0\" -- \"0000:04:00.0\" [color=blue"));
  EXPECT_THAT(text, HasSubstr("\"pci0000:00\" -- \"0000:00:01.0\";"));
  EXPECT_THAT(text, Not(HasSubstr("color=red")));
}

TEST(dot, host_bridge_that_blocks_is_red) {
  const auto machine = gpu_server();
  const auto text = graph(machine, mark(machine, "0000:04:00.0", "0000:07:00.0"));
  EXPECT_THAT(text, ContainsRegex("\"pci0000:00\" \\[[^\n]*color=red"));
  EXPECT_THAT(text, HasSubstr("\"pci0000:00\" -- \"0000:00:02.0\" [color=blue"));
  EXPECT_THAT(text, HasSubstr("does not list as forwarding"));
}

TEST(dot, bridges_that_redirect_to_a_host_bridge_that_blocks_are_red) {
  auto machine = gpu_server();
  test::redirect(machine, "0000:02:01.0");
  EXPECT_THAT(graph(machine, mark(machine, "0000:04:00.0", "0000:03:00.0")),
              ContainsRegex("\"0000:02:01.0\" \\[[^\n]*color=red"));
  machine.machine.cpu_vendor = "AuthenticAMD";
  machine.machine.cpu_family = 0x19;
  const auto passing = graph(machine, mark(machine, "0000:04:00.0", "0000:03:00.0"));
  EXPECT_THAT(passing, ContainsRegex("\"0000:02:01.0\" \\[[^\n]*color=orange"));
  EXPECT_THAT(passing, Not(HasSubstr("color=red")));
}

TEST(dot, names_from_anybody_stay_inside_their_quotation_marks) {
  auto machine = gpu_server();
  machine.drm[0].card = "x\"]; evil [label=\"\\";
  machine.blocks[0].name = "a\nb";
  test::function_of(machine, "0000:06:00.0").driver = "\\";
  expect_well_formed(graph(machine));
}

TEST(dot, several_host_bridges_meet_in_the_cpus) {
  test::made_machine other;
  other.host_bridge("80:00.0").bridge("80:01.0", pci_port::root).device("81:00.0", "80:01.0");
  auto machine = gpu_server();
  machine.functions.insert(machine.functions.end(), other.made.functions.begin(),
                           other.made.functions.end());
  const auto text = graph(machine, mark(machine, "0000:04:00.0", "0000:81:00.0"));
  expect_well_formed(text);
  EXPECT_THAT(text, HasSubstr("\"system\" -- \"pci0000:80\" [color=blue"));
  EXPECT_THAT(text, HasSubstr("\"system\" -- \"pci0000:00\" [color=blue"));
}

TEST(dot, machine_without_devices_is_a_graph) {
  expect_well_formed(graph(topology()));
}

}  // namespace
}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#include "dmabridge/recording.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "error_of.hpp"
#include "hardware_address.hpp"
#include "random_topology.hpp"
#include "topology_check.hpp"

namespace dmabridge {
namespace {

using nlohmann::json;
using test::error_of;
using test::random_topology;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(recording, read_back_is_the_same_topology) {
  for (std::uint32_t seed = 0; seed < 100; ++seed) {
    const auto machine = random_topology(seed);
    ASSERT_FALSE(find_inconsistency(machine).has_value()) << "seed " << seed;
    ASSERT_EQ(read_recording(record(machine)), machine) << "seed " << seed;
  }
}

TEST(recording, of_nothing_is_one_too) {
  EXPECT_EQ(read_recording(record({})), topology{});
}

TEST(recording, can_be_read_by_people) {
  topology machine;
  machine.functions = {{.address = {.bus = 3}, .vendor = 0x10de, .class_code = 0x030200}};
  EXPECT_THAT(record(machine), AllOf(HasSubstr("\"0000:03:00.0\""), HasSubstr("\"0x10de\""),
                                     HasSubstr("\"0x30200\"")));
}

TEST(recording, survives_names_that_are_no_text) {
  topology machine;
  machine.machine.kernel = "7.2\xff";
  EXPECT_EQ(read_recording(record(machine)).machine.kernel, "7.2\uFFFD");
}

TEST(recording, has_nothing_that_a_terminal_would_obey) {
  topology machine;
  machine.machine.kernel = "\x1b[2J \u009b2J \u00a0 \x7f";
  EXPECT_EQ(read_recording(record(machine)).machine.kernel, "?[2J ?2J \u00a0 ?");
}

// A recording with one value changed.
auto changed(const std::function<void(json&)>& change) -> std::string {
  auto whole = json::parse(R"({
    "format": "dmabridge topology",
    "version": 1,
    "machine": {"kernel": "7.2"},
    "functions": [
      {"address": "0000:00:01.0", "vendor": "0x8086", "device": "0x1", "class": "0x60400",
       "port": "root", "acs": {"present": true, "capabilities": "0x1f", "control": "0x1d"}},
      {"address": "0000:01:00.0", "parent": "0000:00:01.0", "vendor": "0x10de", "device": "0x1",
       "class": "0x30200", "port": "endpoint", "numa_node": 0, "iommu_group": 3,
       "bars": [{"number": 0, "start": "0x1000", "size": "0x1000"},
                {"number": 2, "size": "0x1000"}]}],
    "iommu_groups": [{"number": 3, "domain": "lazy"}],
    "blocks": [{"name": "sda", "kind": "disk", "function": "0000:01:00.0"},
               {"name": "sda1", "kind": "partition", "disk": "sda"},
               {"name": "md0", "kind": "md", "legs": ["sda"]}],
    "rdma": [{"name": "mlx5_0"}],
    "drm": [{"card": "card0"}],
    "nets": [{"name": "eth0"}]
  })");
  change(whole);
  return whole.dump(1);
}

auto failure_of(const std::string& text) -> std::string {
  const auto failure = error_of([&] { read_recording(text); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  return failure.what();
}

TEST(recording, the_example_of_these_tests_is_good) {
  EXPECT_EQ(read_recording(changed([](json&) {})).functions.size(), 2U);
}

struct damage {
  const char* name;
  const char* pointer;  // where the value is put
  const char* value;
  const char* complaint;
};

class damaged_recording : public testing::TestWithParam<damage> {};

TEST_P(damaged_recording, is_refused_with_place_and_reason) {
  const auto text = changed([&](json& whole) {
    whole[json::json_pointer(GetParam().pointer)] = json::parse(GetParam().value);
  });
  EXPECT_THAT(failure_of(text),
              AllOf(HasSubstr("cannot read the recording: line "), HasSubstr(", column "),
                    HasSubstr(GetParam().complaint), HasSubstr("dmabridge topo --record")));
}

INSTANTIATE_TEST_SUITE_P(
    recording, damaged_recording,
    testing::Values(
        damage{"format", "/format", R"("other")", "(format): \"other\" is not"},
        damage{"version", "/version", "2", "(version): version 2; this library reads version 1"},
        damage{"version_type", "/version", R"("1")", "(version): a number without sign"},
        damage{"no_object", "/machine", "[]", "(machine): an object in braces has to be here"},
        damage{"stranger", "/machine/serial", R"("1")",
               "(machine): \"serial\" is nothing that belongs here"},
        damage{"type", "/machine/kernel", "7", "(machine.kernel): a string has to be here"},
        damage{"negative", "/functions/1/numa_node", "-1", "(functions[1].numa_node): a number"},
        damage{"fraction", "/functions/1/numa_node", "0.5", "(functions[1].numa_node): a number"},
        damage{"large", "/functions/1/numa_node", "4294967296",
               "(functions[1].numa_node): 4294967296 is too large"},
        damage{"address", "/functions/0/address", R"("0000:00:20.0")",
               "(functions[0].address): \"0000:00:20.0\" is no PCI address"},
        damage{"short_address", "/functions/0/address", R"("00:01.0")",
               "(functions[0].address): \"00:01.0\" is no PCI address"},
        damage{"hexadecimal", "/functions/0/vendor", R"("8086")",
               "(functions[0].vendor): \"8086\" is no hexadecimal number"},
        damage{"many_bits", "/functions/0/vendor", R"("0x18086")",
               "(functions[0].vendor): \"0x18086\" is no hexadecimal number of at most 16 bits"},
        damage{"class_bits", "/functions/0/class", R"("0x1060400")",
               "(functions[0].class): 0x1060400 has more than 24 bits"},
        damage{"word", "/functions/0/port", R"("side")",
               "(functions[0].port): \"side\" is none of"},
        damage{"twice", "/functions/1/address", R"("0000:00:01.0")",
               "(functions[1].address): 0000:00:01.0 is there twice"},
        damage{"order", "/functions/0/address", R"("0000:02:00.0")",
               "(functions[1].address): 0000:01:00.0 comes after 0000:02:00.0"},
        damage{"no_parent", "/functions/1/parent", R"("0000:00:02.0")",
               "(functions[1].parent): 0000:00:02.0 is not among the functions"},
        damage{"parent_endpoint", "/functions/1/parent", R"("0000:01:00.0")",
               "(functions[1].parent): 0000:01:00.0 is no bridge to another bus"},
        damage{"circle", "/functions/0/parent", R"("0000:00:01.0")",
               "(functions[0].parent): 0000:00:01.0 is above itself"},
        damage{"physical", "/functions/1/physical", R"("0000:01:00.0")",
               "(functions[1].physical): 0000:01:00.0 is no physical function"},
        damage{"group", "/functions/1/iommu_group", "4",
               "(functions[1].iommu_group): there is no IOMMU group 4"},
        damage{"group_twice", "/iommu_groups/1", R"({"number": 3, "domain": "lazy"})",
               "(iommu_groups[1].number): 3 is there twice"},
        damage{"mask", "/functions/1/dma_mask_bits", "65",
               "(functions[1].dma_mask_bits): 65 is not from 1 to 64"},
        damage{"bar_number", "/functions/1/bars/1/number", "6",
               "(functions[1].bars[1].number): 6 is not from 0 to 5"},
        damage{"bar_order", "/functions/1/bars/1/number", "0",
               "(functions[1].bars[1].number): 0 comes after 0"},
        damage{"bar_size", "/functions/1/bars/0/size", R"("0x0")",
               "(functions[1].bars[0].size): a BAR of no size"},
        damage{"bar_end", "/functions/1/bars/0/start", R"("0xffffffffffffffff")",
               "(functions[1].bars[0].size): 0x1000 bytes at 0xffffffffffffffff"},
        damage{"block_function", "/blocks/0/function", R"("0000:09:00.0")",
               "(blocks[0].function): 0000:09:00.0 is not among the functions"},
        damage{"block_twice", "/blocks/1/name", R"("sda")", "(blocks[1].name): sda is there twice"},
        damage{"block_name", "/blocks/0/name", R"("../sda")",
               "(blocks[0].name): \"../sda\" is no name of a device"},
        damage{"no_name", "/nets/0/name", R"("")", "(nets[0].name): \"\" is no name of a device"},
        damage{"disk", "/blocks/1/disk", R"("sdb")", "(blocks[1].disk): sdb is not among"},
        damage{"disk_of_disk", "/blocks/0/disk", R"("md0")",
               "(blocks[0].disk): a partition is of a disk, and nothing else is"},
        damage{"leg", "/blocks/2/legs/0", R"("sdb")", "(blocks[2].legs[0]): sdb is not among"},
        damage{"leg_circle", "/blocks/2/legs/0", R"("md0")", "(blocks[2].name): md0 stands on"},
        damage{"leg_long_circle", "/blocks/0/legs", R"(["md0"])", "stands on itself"},
        damage{"drm_empty", "/drm/0/card", R"("")", "(drm[0].card): neither a card nor"},
        damage{"drm_twice", "/drm/1", R"({"render": "card0"})",
               "(drm[1].render): card0 is there twice"},
        damage{"rdma_function", "/rdma/0/function", R"("0000:09:00.0")",
               "(rdma[0].function): 0000:09:00.0 is not among the functions"},
        damage{"control_character", "/machine/kernel", R"("\u001b[2J")",
               "a control character in a string"},
        damage{"second_control_set", "/machine/kernel", R"("\u009b2J")",
               "a control character in a string"},
        damage{"depth", "/machine/kernel", "[[[[[[[[1]]]]]]]]", "more than 8 levels of brackets"}),
    [](const auto& each) { return each.param.name; });

TEST(recording, that_lacks_a_part_is_refused) {
  for (const auto* part : {"format", "version", "machine", "functions"}) {
    const auto text = changed([&](json& whole) { whole.erase(part); });
    EXPECT_THAT(failure_of(text), HasSubstr("there is no \"" + std::string(part) + "\""));
  }
}

TEST(recording, the_line_of_what_is_wrong_is_named) {
  EXPECT_THAT(failure_of("{\n \"format\": \"dmabridge topology\",\n \"version\": 9}"),
              HasSubstr("line 3, column 13 (version): version 9"));
  EXPECT_THAT(failure_of("{\n \"format\":: 1}"), HasSubstr("line 2, column 11: syntax error"));
  EXPECT_THAT(failure_of("{\n \"a\": 1,\n \"a\": 2}"),
              HasSubstr("line 3, column 4: \"a\" is there twice"));
}

TEST(recording, cut_off_anywhere_is_refused) {
  const auto text = changed([](json&) {});
  for (std::size_t length = 0; length < text.size(); ++length) failure_of(text.substr(0, length));
}

TEST(recording, what_is_wrong_with_it_is_safe_to_print) {
  for (const std::string text : {"{\"\x1b[2J", "\x1b[31m", "{\"a\":\"\xff\xfe", "\xef\xbb"}) {
    const auto message = failure_of(text);
    for (const auto letter : message)
      EXPECT_TRUE(letter == '\n' || (letter & 0xe0) != 0) << message;
  }
}

TEST(recording, long_names_do_not_fill_the_screen) {
  const auto text =
      changed([](json& whole) { whole["blocks"][0]["name"] = std::string(10'000, 'x'); });
  EXPECT_LT(failure_of(text).size(), 400U);
}

TEST(recording, of_too_much_is_refused_before_it_costs) {
  EXPECT_THAT(failure_of(std::string((16 << 20) + 1, ' ')), HasSubstr("more than 16777216 bytes"));
  std::string values = "{\"a\":[";
  for (int count = 0; count < 600'000; ++count) values += "0,";
  EXPECT_THAT(failure_of(values), HasSubstr("more than 500000 values"));
  EXPECT_THAT(failure_of(std::string(1 << 20, '[')), HasSubstr("more than 8 levels"));
  std::string members = "{";
  for (int count = 0; count < 100; ++count) members += "\"" + std::to_string(count) + "\":0,";
  EXPECT_THAT(failure_of(members), HasSubstr("more than 64 members"));
  EXPECT_THAT(failure_of("\"" + std::string(20'000, 'x') + "\""),
              HasSubstr("a string of more than 16384 bytes"));
}

TEST(address_hider, hides_addresses_in_names_only) {
  address_hider hider;
  EXPECT_EQ(hider.hide("enx00a0c9112233"), "enx1");
  EXPECT_EQ(hider.hide("enx00A0C9112233"), "enx1") << "the same in capitals";
  EXPECT_EQ(hider.hide("wlx00a0c9112234 and enx00a0c9112233"), "wlx2 and enx1");
  EXPECT_EQ(hider.hide("rocex0123456789abcdef"), "rocex3");
  EXPECT_EQ(hider.hide("at 00:a0:c9:11:22:33, or 01-00-a0-c9-11-22-33-00"), "at 1, or 4");
  EXPECT_EQ(hider.hide("guid e41d:2d03:0005:f3a0"), "guid 5");
}

TEST(address_hider, leaves_everything_else) {
  address_hider hider;
  for (const auto* text :
       {"0000:03:00.0", "enp3s0f0np0", "nvme0n1", "enx00a0c91122", "renderD128", "10000:e1:00.0",
        "0000:03:00.0-0000:04:00.0", "6.18.44-fc-v657", "xenx00a0c9112233", ""})
    EXPECT_EQ(hider.hide(text), text);
}

}  // namespace
}  // namespace dmabridge

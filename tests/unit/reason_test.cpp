// SPDX-License-Identifier: MIT
#include "dmabridge/reason.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <string_view>

#include "dmabridge/error.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {
namespace {

using testing::HasSubstr;

// What the ABI's header enumerates, by the lower-case rest of the name.
auto codes_of_header() -> std::map<std::string, std::uint32_t> {
  std::ifstream header(UAPI_HEADER);
  const std::regex entry(R"(^\s*DMABRIDGE_REASON_([A-Z0-9_]+)\s*=\s*(\d+),)");
  std::map<std::string, std::uint32_t> codes;
  for (std::string line; std::getline(header, line);) {
    std::smatch found;
    if (!std::regex_search(line, found, entry)) continue;
    auto name = found[1].str();
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    codes[name] = static_cast<std::uint32_t>(std::stoul(found[2]));
  }
  return codes;
}

TEST(reason, table_has_every_code_of_the_abi_under_its_name) {
  const auto codes = codes_of_header();
  ASSERT_GE(codes.size(), 41U) << "the header was not understood";
  EXPECT_EQ(reason_table().size(), codes.size());
  for (const auto& [name, code] : codes) {
    EXPECT_EQ(reason{.code = code}.id(), name);
  }
}

TEST(reason, table_is_ascending_and_complete) {
  std::set<std::string_view> ids;
  std::uint32_t last = 0;
  for (const auto& entry : reason_table()) {
    EXPECT_TRUE(entry.code > last || &entry == reason_table().data()) << entry.id;
    last = entry.code;
    EXPECT_TRUE(ids.insert(entry.id).second) << entry.id;
    EXPECT_FALSE(entry.text.empty()) << entry.id;
    // Nothing is the matter with a buffer that went back.
    const auto needs_none =
        entry.code == DMABRIDGE_REASON_NONE || entry.code == DMABRIDGE_REASON_RESTORED;
    EXPECT_TRUE(!entry.remedy.empty() || needs_none) << entry.id;
  }
}

// The page's text on one reason, its lines joined; empty if it has none.
auto page_on(const reason_description& entry) -> std::string {
  std::ifstream page(REASONS_PAGE);
  const auto title = fmt::format(".It Sy {} Pq {}", entry.id, entry.code);
  std::string text;
  bool found = false;
  for (std::string line; std::getline(page, line);) {
    if (found && (line.starts_with(".It") || line.starts_with(".El"))) break;
    if (found && line != ".br") text += line + " ";
    found = found || line == title;
  }
  return text;
}

// A field stands in the page in capitals, and its sentences are complete.
auto as_in_page(std::string_view label, std::string_view format) -> std::string {
  std::string text(label);
  bool in_field = false;
  for (const auto letter : format) {
    if (letter == '{' || letter == '}') {
      in_field = letter == '{';
    } else {
      text += in_field ? static_cast<char>(std::toupper(letter)) : letter;
    }
  }
  if (label.empty()) text.front() = static_cast<char>(std::toupper(text.front()));
  return text;
}

TEST(reason, manual_page_says_of_each_what_the_table_says) {
  for (const auto& entry : reason_table()) {
    if (entry.code == DMABRIDGE_REASON_NONE) continue;
    const auto page = page_on(entry);
    EXPECT_THAT(page, HasSubstr(as_in_page("", entry.text) + ". ")) << entry.id;
    if (!entry.evidence.empty() && entry.evidence != "{name}") {
      EXPECT_THAT(page, HasSubstr(as_in_page("Evidence: ", entry.evidence) + ". ")) << entry.id;
    }
    if (!entry.remedy.empty()) {
      const auto* alternative = entry.prefer_helps ? ", or use policy prefer. " : ". ";
      EXPECT_THAT(page, HasSubstr(as_in_page("To fix it: ", entry.remedy) + alternative))
          << entry.id;
    }
  }
}

TEST(reason, policy_that_is_in_force_is_not_advised) {
  for (const auto& entry : reason_table()) {
    const reason why{.code = entry.code, .name = "x"};
    const auto advised = [&](std::optional<policy> in_force) {
      return why.remedy(in_force).ends_with(", or use policy prefer");
    };
    EXPECT_EQ(advised(policy::require), entry.prefer_helps) << entry.id;
    EXPECT_EQ(advised({}), entry.prefer_helps) << entry.id;
    EXPECT_FALSE(advised(policy::prefer)) << entry.id;
    EXPECT_FALSE(advised(policy::forbid)) << entry.id;
    // The alternative has one place, where it can be left out.
    EXPECT_THAT(std::string(entry.remedy), testing::Not(HasSubstr("or policy prefer")));
    EXPECT_THAT(std::string(entry.remedy), testing::Not(HasSubstr("or use policy prefer")));
  }
}

TEST(reason, failed_copy_names_the_errno_of_either_sign) {
  const reason why{.code = DMABRIDGE_REASON_COPY_FAILED, .value = 5};
  EXPECT_THAT(why.evidence(), HasSubstr("EIO"));
  const reason negative{.code = DMABRIDGE_REASON_COPY_FAILED, .value = ~std::uint64_t{0} - 4};
  EXPECT_EQ(negative.evidence(), why.evidence());
}

TEST(reason, io_in_flight_says_for_how_long_it_was_waited_for) {
  const reason why{.code = DMABRIDGE_REASON_IO_IN_FLIGHT, .blocks_move = true, .value = 3000};
  EXPECT_THAT(why.evidence(), HasSubstr("3000 ms"));
  EXPECT_THAT(why.remedy(), HasSubstr("try again"));
  EXPECT_THAT(why.remedy(policy::require), testing::Not(HasSubstr("policy prefer")));
}

TEST(reason, every_entry_can_be_filled_in_with_and_without_evidence) {
  for (const auto& entry : reason_table()) {
    for (const auto value : {std::uint64_t{0}, std::uint64_t{0x1234}, ~std::uint64_t{0}}) {
      reason why{.code = entry.code, .value = value, .name = "nvme0n1"};
      EXPECT_NO_THROW(format_reason(why, "  ")) << entry.id;
      why.name.clear();
      why.device = pci_address::unpack(0x300);
      const auto text = format_reason(why, "  ");
      EXPECT_THAT(text, HasSubstr(std::string(entry.text)));
      EXPECT_EQ(text.find('{'), std::string::npos) << text;
    }
  }
}

TEST(reason, acs_redirect_says_how_to_boot) {
  const reason why{
      .code = DMABRIDGE_REASON_ACS_REDIRECT, .device = pci_address::unpack(0x0100), .value = 0x1d};
  EXPECT_THAT(why.evidence(), HasSubstr("0000:01:00.0"));
  EXPECT_THAT(why.evidence(), HasSubstr("0x1d"));
  EXPECT_THAT(why.evidence(), HasSubstr("P2P request redirect"));
  EXPECT_THAT(why.remedy(), HasSubstr("pci=disable_acs_redir=0000:01:00.0"));
}

// The kernel takes its parameter once.
TEST(reason, remedies_of_several_redirecting_bridges_are_one_command) {
  const auto redirecting = [](std::uint64_t bridge) {
    return reason{
        .code = DMABRIDGE_REASON_ACS_REDIRECT, .device = pci_address::unpack(bridge), .value = 4};
  };
  const std::vector<reason> reasons{redirecting(0x0208),
                                    redirecting(0x0100),
                                    {.code = DMABRIDGE_REASON_RESTORED},
                                    {.code = DMABRIDGE_REASON_NO_IMPORTER},
                                    redirecting(0x0208),
                                    {.code = 9999}};
  const auto all = remedies(reasons, policy::prefer);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_THAT(all[0], HasSubstr("pci=disable_acs_redir=0000:01:00.0;0000:02:01.0 ("));
  EXPECT_THAT(all[0], testing::Not(HasSubstr("policy prefer")));
  EXPECT_THAT(all[1], HasSubstr("modprobe"));
  EXPECT_THAT(all[2], HasSubstr("update"));
  EXPECT_THAT(remedies(reasons).front(), HasSubstr("or use policy prefer"));
  EXPECT_THAT(remedies({}), testing::IsEmpty());
}

TEST(reason, unlisted_host_bridge_is_named_with_its_id) {
  const reason why{.code = DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED,
                   .device = pci_address::unpack(0),
                   .value = 0x8086'29c0};
  EXPECT_THAT(why.evidence(), HasSubstr("8086:29c0"));
  EXPECT_THAT(why.remedy(), HasSubstr("one PCIe switch"));
  EXPECT_THAT(why.remedy(), HasSubstr("policy prefer"));
}

TEST(reason, policy_conflict_names_both) {
  const reason why{
      .code = DMABRIDGE_REASON_POLICY_CONFLICT,
      .value = std::uint64_t{DMABRIDGE_POLICY_REQUIRE} << 32 | DMABRIDGE_POLICY_FORBID};
  EXPECT_THAT(why.evidence(), HasSubstr("require"));
  EXPECT_THAT(why.evidence(), HasSubstr("forbid"));
}

TEST(reason, code_of_a_newer_module_is_shown_not_dropped) {
  dmabridge_verdict raw{};
  raw.nr_reasons = 1;
  raw.reasons[0].code = 9999;
  raw.reasons[0].value = 0xbeef;
  std::strcpy(raw.reasons[0].name, "novel");
  const auto word = verdict::from_kernel(raw);
  ASSERT_EQ(word.reasons.size(), 1U);
  const auto& why = word.reasons.front();
  EXPECT_EQ(why.id(), "unknown_reason_9999");
  EXPECT_THAT(why.text(), HasSubstr("unknown reason 9999"));
  EXPECT_THAT(why.text(), HasSubstr("newer"));
  EXPECT_THAT(why.evidence(), HasSubstr("0xbeef"));
  EXPECT_THAT(why.evidence(), HasSubstr("novel"));
  EXPECT_FALSE(why.remedy().empty());
}

TEST(reason, taken_over_from_the_kernel_whole) {
  dmabridge_reason raw{};
  raw.code = DMABRIDGE_REASON_DEMOTED;
  raw.flags = DMABRIDGE_REASON_HAS_DEVICE | DMABRIDGE_REASON_BLOCKS_P2P;
  raw.device = 0x00010203;
  raw.value = 7;
  std::memset(raw.name, 'x', sizeof(raw.name));  // no closing NUL
  const auto why = reason::from_kernel(raw);
  EXPECT_TRUE(why.blocks_p2p);
  EXPECT_FALSE(why.blocks_move);
  ASSERT_TRUE(why.device);
  EXPECT_EQ(to_string(*why.device), "0001:02:00.3");
  EXPECT_EQ(why.name, std::string(sizeof(raw.name), 'x'));
  raw.flags = 0;
  EXPECT_FALSE(reason::from_kernel(raw).device);
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// The table of exporters and importers is whole, and the page in the tree is what is made of it. A
// guest test (matrix) compares it with what happens.
#include "exporter_page.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>

#include "dmabridge/reason.hpp"
#include "exporter_table.hpp"

namespace dmabridge {
namespace {

using docs::exporter_table;
using docs::table_cell;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const std::filesystem::path docs_folder = SOURCE_ROOT "/docs";
const auto table_file = docs_folder / "exporters-and-importers.json";

auto read(const std::filesystem::path& path) -> std::string {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

auto table_in_tree() -> exporter_table {
  return docs::parse_exporter_table(read(table_file));
}

auto is_known_reason(const std::string& id) -> bool {
  const auto all = reason_table();
  return std::ranges::find(all, id, &reason_description::id) != all.end();
}

// "EINVAL", "VK_ERROR_UNKNOWN"
auto is_result(const std::string& name) -> bool {
  return name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == std::string::npos &&
         (name.starts_with('E') || name.starts_with("VK_"));
}

TEST(exporter_table, cells_are_read_as_they_were_written) {
  for (const table_cell& cell :
       {table_cell{"imported", {}}, table_cell{"bounce", {"foreign_buffer"}},
        table_cell{"binding, system", {"demoted", "by_cpu", "no_dmabuf_mr"}}}) {
    EXPECT_EQ(docs::parse_cell(docs::to_text(cell)), cell) << docs::to_text(cell);
  }
  EXPECT_EQ(docs::parse_cell("a, b: c, d").outcome, "a, b");
  EXPECT_THAT(docs::parse_cell("a, b: c, d").reasons, ElementsAre("c", "d"));
}

TEST(exporter_table, is_in_the_tree_as_it_is_written) {
  EXPECT_EQ(docs::to_text(table_in_tree()), read(table_file));
}

TEST(exporter_table, lacks_no_cell) {
  auto table = table_in_tree();
  EXPECT_GE(table.exporters.size(), 18U);
  EXPECT_GE(table.importers.size(), 8U);
  table.importers.push_back({"another", "another"});
  for (auto& row : table.exporters) row.cells["another"] = {"imported", {}};
  auto text = docs::to_text(table);
  EXPECT_NO_THROW(docs::parse_exporter_table(text));
  text.replace(text.rfind("\"another\": \"imported\""), 9, "\"missing\"");
  EXPECT_THROW(docs::parse_exporter_table(text), std::exception);
}

TEST(exporter_table, says_why_wherever_it_is_refused_or_not_run) {
  for (const auto& row : table_in_tree().exporters) {
    for (const auto& [importer, cell] : row.cells) {
      SCOPED_TRACE(row.id + " to " + importer);
      const bool ran = cell.outcome != "not run";
      if (!ran || cell.outcome == "refused") {
        EXPECT_THAT(cell.reasons, testing::Not(IsEmpty()));
      }
      for (const auto& why : cell.reasons) {
        EXPECT_TRUE(!ran || is_known_reason(why) || is_result(why)) << why;
      }
    }
  }
}

// A header that gives out exported memory has a row that is made by it.
TEST(exporter_table, has_a_row_for_every_adaptor) {
  const auto table = table_in_tree();
  for (const auto& entry :
       std::filesystem::directory_iterator(SOURCE_ROOT "/userspace/include/dmabridge")) {
    const auto text = read(entry.path());
    const auto name = entry.path().filename().string();
    // any_memory.hpp is for memory that another has exported.
    if (text.find("-> exported_memory;") == std::string::npos || name == "any_memory.hpp") continue;
    EXPECT_TRUE(std::ranges::any_of(table.exporters, [&](const auto& row) {
      return text.find(' ' + row.made_by + '(') != std::string::npos;
    })) << name;
  }
}

TEST(exporter_page, is_as_made) {
  EXPECT_EQ(read(docs_folder / "exporters-and-importers.md"),
            docs::exporters_and_importers(table_in_tree()))
      << "make it again: meson compile -C BUILD_FOLDER pages";
}

TEST(exporter_page, has_a_line_for_every_row) {
  const auto page = docs::exporters_and_importers(table_in_tree());
  for (const auto& row : table_in_tree().exporters)
    EXPECT_THAT(page, HasSubstr("\n| " + row.title + "<br>`" + row.made_by + "()` |"));
}

TEST(exporter_page, leads_to_the_sections_of_its_reasons) {
  const auto page = docs::exporters_and_importers(table_in_tree());
  const auto reasons = read(docs_folder / "why-not-p2p.md");
  const std::regex link(R"(\[([a-z0-9_]+)\]\(why-not-p2p\.md#([a-z0-9_]+)-([0-9]+)\))");
  std::set<std::string> linked;
  for (std::sregex_iterator found(page.begin(), page.end(), link), end; found != end; ++found) {
    linked.insert((*found)[1]);
    EXPECT_EQ((*found)[1], (*found)[2]);
    const auto heading = fmt::format("\n### {} ({})\n", (*found)[2].str(), (*found)[3].str());
    EXPECT_NE(reasons.find(heading), std::string::npos) << heading;
  }
  for (const auto& row : table_in_tree().exporters) {
    for (const auto& [importer, cell] : row.cells) {
      for (const auto& why : cell.reasons) EXPECT_EQ(linked.contains(why), is_known_reason(why));
    }
  }
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// The pages in the tree are what is made of the table of reasons.
#include "pages.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "dmabridge/reason.hpp"

namespace dmabridge {
namespace {

using testing::HasSubstr;

auto read(const char* path) -> std::string {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

constexpr auto refresh = "make it again: meson compile -C BUILD_FOLDER pages";

TEST(pages, why_not_p2p_is_as_made) {
  EXPECT_EQ(read(WHY_NOT_P2P_PAGE), docs::why_not_p2p()) << refresh;
}

TEST(pages, reasons_manual_is_as_made) {
  EXPECT_EQ(read(REASONS_PAGE), docs::reasons_manual()) << refresh;
}

TEST(pages, every_reason_has_its_section_with_meaning_and_remedy) {
  const auto page = docs::why_not_p2p();
  for (const auto& entry : reason_table()) {
    if (entry.code == DMABRIDGE_REASON_NONE) continue;
    const auto title = "\n### " + std::string(entry.id) + " (" + std::to_string(entry.code) + ")\n";
    const auto start = page.find(title);
    ASSERT_NE(start, std::string::npos) << entry.id;
    const auto section = page.substr(start + 1, page.find("\n#", start + title.size()) - start);
    EXPECT_GT(section.size(), title.size() + 10) << entry.id;
    EXPECT_EQ(section.find("To fix it: ") != std::string::npos, !entry.remedy.empty()) << entry.id;
    EXPECT_EQ(section.find('{'), std::string::npos) << entry.id;
  }
}

}  // namespace
}  // namespace dmabridge

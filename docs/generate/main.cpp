// SPDX-License-Identifier: MIT
// Writes the pages that are made of the table of reasons into docs/ of the tree that it is given.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "pages.hpp"

namespace {

auto write(const std::filesystem::path& path, const std::string& text) -> bool {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) std::fprintf(stderr, "pages: cannot write %s\n", path.c_str());
  return static_cast<bool>(file);
}

}  // namespace

auto main(int argc, char** argv) -> int {
  if (argc != 2) {
    std::fprintf(stderr, "usage: pages SOURCE_ROOT\n");
    return 2;
  }
  const auto docs = std::filesystem::path(argv[1]) / "docs";
  const auto written =
      write(docs / "why-not-p2p.md", dmabridge::docs::why_not_p2p()) &&
      write(docs / "man" / "dmabridge-reasons.7", dmabridge::docs::reasons_manual());
  return written ? 0 : 1;
}

// SPDX-License-Identifier: MIT
// Writes the pages that are made of tables into docs/ of the tree that it is given.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "exporter_page.hpp"
#include "pages.hpp"

namespace {

auto write(const std::filesystem::path& path, const std::string& text) -> bool {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) std::fprintf(stderr, "pages: cannot write %s\n", path.c_str());
  return static_cast<bool>(file);
}

auto exporter_page(const std::filesystem::path& docs) -> std::string {
  const auto path = docs / "exporters-and-importers.json";
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return dmabridge::docs::exporters_and_importers(dmabridge::docs::parse_exporter_table(text));
}

}  // namespace

auto main(int argc, char** argv) -> int {
  if (argc != 2) {
    std::fprintf(stderr, "usage: pages SOURCE_ROOT\n");
    return 2;
  }
  const auto docs = std::filesystem::path(argv[1]) / "docs";
  try {
    const auto written =
        write(docs / "why-not-p2p.md", dmabridge::docs::why_not_p2p()) &&
        write(docs / "man" / "dmabridge-reasons.7", dmabridge::docs::reasons_manual()) &&
        write(docs / "exporters-and-importers.md", exporter_page(docs));
    return written ? 0 : 1;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "pages: %s: %s\n", (docs / "exporters-and-importers.json").c_str(),
                 failure.what());
    return 1;
  }
}

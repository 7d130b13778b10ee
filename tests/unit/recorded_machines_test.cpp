// SPDX-License-Identifier: MIT
//
// Real machines, built from what their owners published (tests/recordings/*.json), against the
// matrix that `nvidia-smi topo -m` printed there (*.matrix, which names the source).
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "dmabridge/path.hpp"
#include "dmabridge/recording.hpp"

namespace dmabridge {
namespace {

namespace filesystem = std::filesystem;

auto content_of(const filesystem::path& file) -> std::string {
  std::ifstream stream(file);
  return {std::istreambuf_iterator<char>(stream), {}};
}

auto files_of(const std::string& kind) -> std::vector<std::string> {
  std::vector<std::string> files;
  for (const auto& entry : filesystem::directory_iterator(RECORDINGS))
    if (entry.path().extension() == kind) files.push_back(entry.path().stem());
  std::ranges::sort(files);
  return files;
}

struct matrix {
  bool has_source = false;
  std::map<std::string, pci_address> devices{};
  std::vector<std::string> columns{};
  std::map<std::pair<std::string, std::string>, std::string> cells{};
};

auto read_matrix(const std::string& text) -> matrix {
  matrix read;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    const std::vector<std::string> cells{std::istream_iterator<std::string>(words), {}};
    if (line.starts_with('#')) {
      read.has_source |= line.find("https://") != std::string::npos;
    } else if (cells.size() == 3 && cells[0] == "device") {
      read.devices[cells[1]] = pci_address::parse(cells[2]).value();
    } else if (read.columns.empty()) {
      read.columns = cells;
    } else {
      for (std::size_t at = 1; at < cells.size(); ++at)
        read.cells[{cells[0], read.columns.at(at - 1)}] = cells[at];
    }
  }
  return read;
}

class recorded_machine : public testing::TestWithParam<std::string> {
 protected:
  auto path(const std::string& kind) const -> filesystem::path {
    return filesystem::path(RECORDINGS) / (GetParam() + kind);
  }
};

TEST_P(recorded_machine, stands_as_this_library_would_write_it) {
  const auto text = content_of(path(".json"));
  EXPECT_EQ(record(read_recording(text)), text);
}

TEST_P(recorded_machine, is_as_far_apart_as_its_owner_saw) {
  const auto machine = read_recording(content_of(path(".json")));
  const auto published = read_matrix(content_of(path(".matrix")));
  ASSERT_TRUE(published.has_source);
  constexpr auto comparable =
      std::to_array<std::string_view>({"X", "PIX", "PXB", "PHB", "NODE", "SYS"});
  std::size_t compared = 0;
  for (const auto& [pair, word] : published.cells) {
    // NVLink hides the distance by PCIe.
    if (std::ranges::find(comparable, word) == comparable.end()) continue;
    const auto& one = published.devices.at(pair.first);
    const auto& other = published.devices.at(pair.second);
    EXPECT_EQ(to_string(find_path(machine, one, other).distance_class), word)
        << pair.first << " " << pair.second;
    EXPECT_EQ(to_string(find_path(machine, other, one).distance_class), word)
        << pair.second << " " << pair.first;
    ++compared;
  }
  EXPECT_GE(compared, 45U);
}

INSTANTIATE_TEST_SUITE_P(all, recorded_machine, testing::ValuesIn(files_of(".matrix")),
                         [](const auto& each) {
                           auto name = each.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(recorded_machines, are_three_at_least) {
  EXPECT_GE(files_of(".matrix").size(), 3U);
}

TEST(recorded_machines, show_every_distance) {
  std::set<std::string> words;
  for (const auto& name : files_of(".matrix")) {
    const auto text = content_of(filesystem::path(RECORDINGS) / (name + ".matrix"));
    for (const auto& [pair, word] : read_matrix(text).cells) words.insert(word);
  }
  EXPECT_THAT(words, testing::IsSupersetOf({"PIX", "PXB", "PHB", "NODE", "SYS"}));
}

// A guest's `lspci -D -nn -vvv`, as root, of tests/topologies/multifunction-acs.json.
TEST(recorded_guest, is_read_from_what_lspci_printed) {
  const auto machine =
      read_lspci(content_of(filesystem::path(RECORDINGS) / "multifunction-acs.lspci"));
  const auto* port = machine.find({.device = 1});
  ASSERT_NE(port, nullptr);
  EXPECT_EQ(port->port, pci_port::root);
  EXPECT_EQ(port->acs, (pci_acs{true, 0x5f, 0x1d}));
  EXPECT_EQ(machine.find({.bus = 1})->parent, port->address);
  EXPECT_EQ(machine.find({.bus = 1})->driver, "nvme");
}

}  // namespace
}  // namespace dmabridge

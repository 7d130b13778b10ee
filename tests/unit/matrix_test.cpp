// SPDX-License-Identifier: MIT
#include "matrix.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "gpu_server.hpp"

namespace dmabridge::command {
namespace {

using test::gpu_server;
using testing::ElementsAre;
using testing::HasSubstr;

auto lines(const std::string& text) -> std::vector<std::string> {
  std::vector<std::string> all;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) all.push_back(line);
  return all;
}

TEST(matrix, proximity_is_symmetric_and_in_the_known_words) {
  const auto machine = gpu_server();
  const auto devices = list_devices(machine, {});
  const auto rows = proximity_rows(machine, devices);
  ASSERT_EQ(rows.size(), 5U);
  EXPECT_THAT(rows[0].cells, ElementsAre("X", "PIX", "PIX", "PHB", "PIX"));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j < rows.size(); ++j) EXPECT_EQ(rows[i].cells[j], rows[j].cells[i]);
  }
}

TEST(matrix, only_memory_has_a_row_of_peers) {
  const auto machine = gpu_server();
  const auto devices = list_devices(machine, {});
  const auto rows = p2p_rows(machine, devices);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_THAT(rows[0].cells, ElementsAre("X", "yes", "yes", "no", "yes"));
  EXPECT_THAT(rows[1].cells, ElementsAre("yes", "X", "yes", "no", "yes"));
}

TEST(matrix, host_bridge_that_forwards_is_another_word_than_yes) {
  auto machine = gpu_server();
  machine.machine.cpu_vendor = "AuthenticAMD";
  machine.machine.cpu_family = 0x19;
  const auto devices = list_devices(machine, {});
  EXPECT_THAT(p2p_rows(machine, devices)[0].cells, ElementsAre("X", "yes", "yes", "hb", "yes"));
}

TEST(matrix, what_is_not_known_is_never_yes) {
  auto machine = gpu_server();
  test::function_of(machine, "0000:02:00.0").acs.reset();
  auto devices = list_devices(machine, {});
  EXPECT_THAT(p2p_rows(machine, devices)[0].cells, ElementsAre("X", "yes", "?", "no", "yes"));
  machine = gpu_server();
  test::function_of(machine, "0000:03:00.0").dma_mask_bits.reset();
  devices = list_devices(machine, {});
  EXPECT_THAT(p2p_rows(machine, devices)[0].cells, ElementsAre("X", "yes", "yes*", "no", "yes"));
}

TEST(matrix, gpu_whose_bars_could_not_be_read_has_its_row) {
  auto machine = gpu_server();
  test::function_of(machine, "0000:04:00.0").bars.clear();
  const auto devices = list_devices(machine, {});
  const auto* gpu = &*std::ranges::find(devices, test::at("0000:04:00.0"), &device::function);
  EXPECT_TRUE(has_p2p_row(*gpu));
  EXPECT_EQ(p2p_between(machine, *gpu, *find_device(devices, "nvme0n1")).cell, "yes*");
}

TEST(matrix, denied_pairs_and_other_disks_are_no) {
  auto machine = gpu_server();
  machine.denied = {{.one = test::at("0000:04:00.0"), .other = test::at("0000:03:00.0")}};
  machine.rdma.clear();
  machine.nets.clear();
  machine.blocks.push_back(test::disk("vda", "0000:06:00.0", "virtio_blk"));
  const auto devices = list_devices(machine, {});
  const auto* disk = find_device(devices, "vda");
  ASSERT_NE(disk, nullptr);
  EXPECT_EQ(p2p_between(machine, devices[0], *disk).cell, "no");
  EXPECT_EQ(p2p_between(machine, devices[0], *find_device(devices, "nvme0n1")).cell, "no");
  EXPECT_EQ(p2p_between(machine, devices[1], *find_device(devices, "nvme0n1")).cell, "yes");
}

TEST(matrix, stolen_memory_is_ram_for_everybody) {
  const auto machine = gpu_server();
  region_info region;
  region.name = "apu0";
  region.kind = region_kind::stolen;
  region.device = test::at("0000:04:00.0");
  region.has_pages = true;
  const std::vector<region_info> regions{region};
  const auto devices = list_devices(machine, regions);
  EXPECT_THAT(p2p_rows(machine, devices)[0].cells, ElementsAre("X", "ram", "ram", "ram", "ram"));
}

class wide_matrix : public testing::Test {
 protected:
  wide_matrix() {
    for (unsigned i = 0; i < 48; ++i) {
      devices_.push_back({.label = fmt::format("nvme{}n1", i)});
      rows_.push_back({.device = i, .cells = std::vector<std::string>(48, "NODE")});
    }
  }

  std::vector<device> devices_;
  std::vector<matrix_row> rows_;
};

TEST_F(wide_matrix, is_one_part_for_a_pipe) {
  EXPECT_EQ(lines(to_text(rows_, devices_, "", {})).size(), 49U);
}

TEST_F(wide_matrix, is_cut_into_parts_for_a_terminal_and_loses_nothing) {
  for (const unsigned columns : {1U, 20U, 80U, 200U}) {
    const auto text = lines(to_text(rows_, devices_, "", columns));
    std::size_t cells = 0;
    for (const auto& line : text) {
      if (columns >= 20) EXPECT_LE(line.size(), columns);
      for (auto found = line.find("NODE"); found != std::string::npos;
           found = line.find("NODE", found + 1)) {
        ++cells;
      }
    }
    EXPECT_EQ(cells, 48U * 48U) << columns;
    EXPECT_EQ(std::ranges::count(text, std::string()) + 1,
              static_cast<std::ptrdiff_t>((text.size() + 1) / 50))
        << "each part has a heading, 48 rows and an empty line after it";
  }
}

}  // namespace
}  // namespace dmabridge::command

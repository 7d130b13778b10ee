// SPDX-License-Identifier: MIT
#include "devices.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gpu_server.hpp"
#include "unread.hpp"

namespace dmabridge::command {
namespace {

using test::at;
using test::gpu_server;
using testing::ElementsAre;
using testing::HasSubstr;

auto labels(const std::vector<device>& devices) -> std::vector<std::string> {
  std::vector<std::string> all;
  for (const auto& entry : devices) all.push_back(entry.label);
  return all;
}

TEST(devices, each_function_once_by_the_name_that_people_know) {
  const auto machine = gpu_server();
  const auto devices = list_devices(machine, {});
  EXPECT_THAT(labels(devices), ElementsAre("GPU0", "GPU1", "nvme0n1", "nvme1n1", "mlx5_0"));
  EXPECT_THAT(devices[1].names, ElementsAre("card1", "renderD128"));
  EXPECT_THAT(devices[4].names, ElementsAre("mlx5_0", "ens1f0np0"));
  EXPECT_EQ(devices[0].memory->size, 16 * test::gib);
  EXPECT_EQ(devices[0].importer, "0000:04:00.0");
  EXPECT_EQ(devices[1].importer, "card1");
  EXPECT_EQ(devices[4].importer, "mlx5_0");
}

TEST(devices, long_names_give_way_to_numbers) {
  auto machine = gpu_server();
  machine.rdma.clear();
  machine.blocks[0].name = "nvme100n12";
  const auto devices = list_devices(machine, {});
  EXPECT_THAT(labels(devices), ElementsAre("GPU0", "GPU1", "DRIVE0", "nvme1n1", "NIC0"));
  EXPECT_EQ(devices[2].importer, "nvme100n12");
  EXPECT_EQ(devices[4].importer, "0000:06:00.0");
}

TEST(devices, display_of_a_management_controller_does_not_take_the_first_number) {
  auto machine = gpu_server();
  auto& controller = test::function_of(machine, "0000:04:00.0");
  controller.bars = {{.number = 0, .start = 0xe0000000, .size = 16 << 20}};
  const auto devices = list_devices(machine, {});
  EXPECT_EQ(find_device(devices, "GPU0")->function, at("0000:05:00.0"));
  EXPECT_EQ(find_device(devices, "GPU1")->function, at("0000:04:00.0"));
}

TEST(devices, regions_own_memory_whatever_they_are_on) {
  const auto machine = gpu_server();
  region_info on_gpu;
  on_gpu.name = "vram0";
  on_gpu.device = at("0000:04:00.0");
  auto on_port = on_gpu;
  on_port.name = "0000:00:00.0-bar2";
  on_port.device = at("0000:00:00.0");
  auto elsewhere = on_gpu;
  elsewhere.device.reset();
  const std::vector<region_info> regions{on_gpu, on_port, elsewhere};
  const auto devices = list_devices(machine, regions);
  EXPECT_THAT(labels(devices), ElementsAre("GPU0", "GPU1", "MEM0", "nvme0n1", "nvme1n1", "mlx5_0"));
  EXPECT_EQ(devices[0].region->name, "vram0");
  EXPECT_EQ(devices[2].region->name, "0000:00:00.0-bar2");
  EXPECT_EQ(find_device(devices, "nosuch"), nullptr);
}

TEST(devices, disks_of_no_pci_function_are_no_devices) {
  auto machine = gpu_server();
  machine.blocks.push_back({.name = "md0", .kind = block_kind::md, .legs = {"nvme0n1"}});
  machine.blocks.push_back({.name = "ram0", .kind = block_kind::disk});
  EXPECT_EQ(list_devices(machine, {}).size(), 5U);
}

TEST(unread, facts_of_one_cause_are_one_line) {
  std::vector<unread_fact> facts;
  for (int i = 0; i < 12; ++i) {
    facts.push_back({"ACS of bridge " + std::to_string(i), "it is for root", "run this as root"});
  }
  facts.push_back({"Secure Boot", "no efivars", ""});
  facts.push_back({"Secure Boot", "no efivars", ""});
  EXPECT_EQ(to_text(facts, "  "),
            "  ACS of bridge 0, ACS of bridge 1, ACS of bridge 2 and 9 more: it is for root; run "
            "this as root\n"
            "  Secure Boot: no efivars\n");
  EXPECT_EQ(to_text(std::vector<unread_fact>(), "  "), "");
}

}  // namespace
}  // namespace dmabridge::command

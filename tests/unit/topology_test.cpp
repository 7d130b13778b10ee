// SPDX-License-Identifier: MIT
#include "dmabridge/topology.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "topology_check.hpp"

namespace dmabridge {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

constexpr pci_address first{.bus = 1};
constexpr pci_address second{.bus = 2};

TEST(topology, finds_functions_by_address) {
  topology machine;
  EXPECT_EQ(machine.find(first), nullptr);
  machine.functions = {{.address = first}, {.address = second}};
  EXPECT_EQ(machine.find(first), &machine.functions[0]);
  EXPECT_EQ(machine.find(second), &machine.functions[1]);
  EXPECT_EQ(machine.find({.bus = 3}), nullptr);
  EXPECT_EQ(machine.find({.bus = 0}), nullptr);
}

TEST(topology, finds_devices_by_name) {
  topology machine;
  machine.blocks = {{.name = "nvme0n1"}};
  machine.rdma = {{.name = "mlx5_0"}};
  machine.nets = {{.name = "eth0"}};
  EXPECT_EQ(machine.find_block("nvme0n1"), machine.blocks.data());
  EXPECT_EQ(machine.find_block("nvme0n"), nullptr);
  EXPECT_EQ(machine.find_rdma("mlx5_0"), machine.rdma.data());
  EXPECT_EQ(machine.find_rdma(""), nullptr);
  EXPECT_EQ(machine.find_net("eth0"), machine.nets.data());
  EXPECT_EQ(machine.find_net("eth1"), nullptr);
}

TEST(topology, finds_drm_nodes_by_either_name) {
  topology machine;
  machine.drm = {{.render = "renderD128"}, {.card = "card1", .render = "renderD129"}};
  EXPECT_EQ(machine.find_drm("renderD128"), &machine.drm[0]);
  EXPECT_EQ(machine.find_drm("card1"), &machine.drm[1]);
  EXPECT_EQ(machine.find_drm("renderD129"), &machine.drm[1]);
  EXPECT_EQ(machine.find_drm(""), nullptr) << "a node without a card is not found by no name";
}

TEST(drop_dangling, leaves_a_consistent_topology_alone) {
  topology machine;
  machine.functions = {{.address = first}};
  machine.nets = {{.name = "eth0", .function = first}};
  const auto before = machine;
  drop_dangling(machine);
  EXPECT_EQ(machine, before);
}

TEST(drop_dangling, takes_out_what_leads_nowhere_and_says_so) {
  topology machine;
  machine.functions = {{.address = first}};
  machine.blocks = {{.name = "sda", .kind = block_kind::disk, .function = second},
                    {.name = "sda1", .kind = block_kind::partition, .disk = "sda"}};
  machine.rdma = {{.name = "mlx5_0", .function = second}};
  machine.drm = {{.card = "card0", .function = second}};
  machine.nets = {{.name = "eth0", .function = second}, {.name = "eth1", .function = first}};
  drop_dangling(machine);
  EXPECT_FALSE(find_inconsistency(machine).has_value());
  EXPECT_THAT(machine.blocks, SizeIs(0)) << "a partition goes with its disk";
  EXPECT_THAT(machine.rdma, SizeIs(0));
  EXPECT_THAT(machine.drm, SizeIs(0));
  EXPECT_THAT(machine.nets, SizeIs(1));
  ASSERT_THAT(machine.unread, SizeIs(5));
  EXPECT_THAT(machine.unread[0].why, HasSubstr("0000:02:00.0 is not among the functions"));
}

}  // namespace
}  // namespace dmabridge

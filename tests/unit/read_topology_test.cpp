// SPDX-License-Identifier: MIT
//
// read_topology() on machines made of files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwloc.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "dmabridge/recording.hpp"
#include "dmabridge/topology.hpp"
#include "error_of.hpp"
#include "made_up_machine.hpp"
#include "topology_check.hpp"

namespace dmabridge {
namespace {

using test::config_space;
using test::error_of;
using test::made_up_machine;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr auto root_bus = "sys/devices/pci0000:00";
constexpr unsigned root_port = 4;
constexpr unsigned upstream_port = 5;
constexpr unsigned downstream_port = 6;
constexpr unsigned endpoint = 0;
constexpr std::uint8_t type_one = 1;

auto at(const char* address) -> pci_address {
  return pci_address::parse(address).value();
}

auto missed(const topology& machine, const std::string& what) -> bool {
  return std::ranges::any_of(machine.unread, [&](const auto& fact) { return fact.what == what; });
}

class machine_test : public testing::Test {
 protected:
  machine_test() { test::write_plain_facts(machine_); }

  auto read() const -> topology {
    auto found = read_topology(machine_.roots());
    EXPECT_EQ(find_inconsistency(found).has_value(), false);
    EXPECT_EQ(read_recording(record(found)), found) << "what is read can be recorded";
    return found;
  }

  auto add_port(const std::string& address, const std::string& parent, unsigned type,
                config_space::reach reach = config_space::reach::whole) const -> std::string {
    return machine_.add(address, {.parent = parent,
                                  .class_code = 0x060400,
                                  .config = config_space(type_one).express(type).acs(0x5f, 0x1d),
                                  .reach = reach});
  }

  auto add_endpoint(const std::string& address, const std::string& parent) const -> std::string {
    return machine_.add(
        address, {.parent = parent, .config = config_space().express(endpoint).command(0x0006)});
  }

  made_up_machine machine_;
};

using function_test = machine_test;
using block_test = machine_test;
using device_test = machine_test;
using facts_test = machine_test;

TEST_F(function_test, form_the_tree_that_the_kernel_shows) {
  const auto root = add_port("0000:00:01.0", root_bus, root_port);
  const auto up = add_port("0000:01:00.0", root, upstream_port);
  const auto down = add_port("0000:02:00.0", up, downstream_port);
  add_endpoint("0000:03:00.0", down);
  const auto machine = read();
  ASSERT_EQ(machine.functions.size(), 4U);
  EXPECT_EQ(machine.functions[0].parent, std::nullopt);
  EXPECT_EQ(machine.functions[0].port, pci_port::root);
  EXPECT_EQ(machine.functions[0].acs, (pci_acs{true, 0x5f, 0x1d}));
  EXPECT_EQ(machine.functions[1].parent, at("0000:00:01.0"));
  EXPECT_EQ(machine.functions[1].port, pci_port::upstream);
  EXPECT_EQ(machine.functions[2].port, pci_port::downstream);
  EXPECT_EQ(machine.functions[3].parent, at("0000:02:00.0"));
  EXPECT_EQ(machine.functions[3].port, pci_port::endpoint);
  EXPECT_EQ(machine.functions[3].memory_enabled, true);
}

TEST_F(function_test, have_what_their_files_say) {
  machine_.write("sys/kernel/iommu_groups/7/type", "DMA-FQ\n");
  machine_.add("0000:00:02.0",
               {.parent = root_bus,
                .vendor = 0x10de,
                .device = 0x2330,
                .class_code = 0x030200,
                .config = config_space().express(endpoint).command(0),
                // BAR 0 of 64 bits, the upper half of it, an I/O BAR, one that has no place yet.
                .resource = "0x0000038000000000 0x0000038fffffffff 0x000000000014220c\n"
                            "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
                            "0x000000000000e000 0x000000000000e07f 0x0000000000040101\n"
                            "0x0000000000000000 0x0000000000ffffff 0x0000000020040200\n",
                .driver = "nvidia",
                .numa_node = 1,
                .iommu_group = 7});
  const auto machine = read();
  ASSERT_EQ(machine.functions.size(), 1U);
  const auto& function = machine.functions[0];
  EXPECT_EQ(function.vendor, 0x10de);
  EXPECT_EQ(function.device, 0x2330);
  EXPECT_EQ(function.class_code, 0x030200U);
  EXPECT_EQ(function.driver, "nvidia");
  EXPECT_EQ(function.numa_node, 1);
  EXPECT_EQ(function.iommu_group, 7U);
  EXPECT_EQ(function.dma_mask_bits, 64U);
  EXPECT_EQ(function.memory_enabled, false);
  EXPECT_THAT(function.bars, ElementsAre(pci_bar{0, 0x38000000000, 0x1000000000, true},
                                         pci_bar{3, 0, 0x1000000, false}));
  EXPECT_EQ(machine.iommu_groups.at(7), iommu_domain::lazy);
}

TEST_F(function_test, with_hidden_configuration_leave_acs_unread) {
  const auto root = add_port("0000:00:01.0", root_bus, root_port, config_space::reach::hidden);
  add_endpoint("0000:01:00.0", root);
  const auto machine = read();
  EXPECT_EQ(machine.functions[0].acs, std::nullopt);
  EXPECT_EQ(machine.functions[0].port, pci_port::unknown);
  EXPECT_TRUE(missed(machine, "ACS of 0000:00:01.0"));
  EXPECT_TRUE(missed(machine, "port type of 0000:00:01.0"));
  EXPECT_THAT(machine.unread,
              Contains(testing::AllOf(Field(&unread_fact::what, "ACS of 0000:00:01.0"),
                                      Field(&unread_fact::remedy, "run this as root"))));
}

TEST_F(function_test, tell_their_port_by_its_services_to_everybody) {
  const auto root = add_port("0000:00:01.0", root_bus, root_port, config_space::reach::hidden);
  machine_.folder(root + "/0000:00:01.0:pcie002");
  const auto up = add_port("0000:01:00.0", root, upstream_port, config_space::reach::hidden);
  machine_.folder(up + "/0000:01:00.0:pcie108");
  const auto down = add_port("0000:02:00.0", up, downstream_port, config_space::reach::hidden);
  machine_.folder(down + "/0000:02:00.0:pcie204");
  const auto machine = read();
  EXPECT_EQ(machine.functions[0].port, pci_port::root);
  EXPECT_EQ(machine.functions[1].port, pci_port::upstream);
  EXPECT_EQ(machine.functions[2].port, pci_port::downstream);
  EXPECT_FALSE(missed(machine, "port type of 0000:00:01.0"));
  EXPECT_TRUE(missed(machine, "ACS of 0000:00:01.0"));
}

TEST_F(function_test, of_conventional_pci_have_no_acs) {
  machine_.add("0000:00:1e.0", {.parent = root_bus,
                                .class_code = 0x060401,
                                .config = config_space(type_one),
                                .reach = config_space::reach::conventional});
  const auto machine = read();
  EXPECT_EQ(machine.functions[0].port, pci_port::bridge);
  EXPECT_EQ(machine.functions[0].acs, pci_acs{});
  EXPECT_FALSE(missed(machine, "ACS of 0000:00:1e.0"));
}

TEST_F(function_test, behind_cardbus_have_a_bridge_too) {
  const auto bridge = machine_.add("0000:00:04.0", {.parent = root_bus,
                                                    .class_code = 0x060700,
                                                    .config = config_space(2),
                                                    .reach = config_space::reach::conventional});
  machine_.add("0000:05:00.0", {.parent = bridge});
  EXPECT_EQ(read().find(at("0000:05:00.0"))->parent, at("0000:00:04.0"));
}

TEST_F(function_test, that_do_not_answer_are_said_to) {
  machine_.add("0000:00:02.0", {.parent = root_bus});
  machine_.write(std::string(root_bus) + "/0000:00:02.0/config", std::string(4096, '\xff'));
  const auto machine = read();
  EXPECT_EQ(machine.functions[0].memory_enabled, std::nullopt);
  EXPECT_TRUE(missed(machine, "configuration space of 0000:00:02.0"));
}

TEST_F(function_test, that_vanish_meanwhile_do_not_stop_the_rest) {
  machine_.add("0000:00:02.0", {.parent = root_bus});
  const auto gone = machine_.add("0000:00:03.0", {.parent = root_bus});
  std::filesystem::remove(machine_.path() + "/" + gone + "/resource");
  const auto machine = read();
  EXPECT_EQ(machine.functions.size(), 1U);
  EXPECT_TRUE(missed(machine, "0000:00:03.0"));
}

TEST_F(function_test, that_are_virtual_stand_below_the_bridge_of_the_physical_one) {
  const auto root = add_port("0000:00:01.0", root_bus, root_port);
  const auto physical = add_endpoint("0000:01:00.0", root);
  // The kernel has made up bus 2 for it; no bridge leads there.
  const auto child = add_endpoint("0000:02:00.1", root);
  machine_.link(child + "/physfn", physical);
  const auto machine = read();
  const auto* found = machine.find(at("0000:02:00.1"));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->parent, at("0000:00:01.0"));
  EXPECT_EQ(found->physical, at("0000:01:00.0"));
  EXPECT_EQ(found->memory_enabled, std::nullopt) << "its own bit says nothing";
}

TEST_F(function_test, behind_vmd_are_in_a_domain_of_their_own) {
  const auto vmd = machine_.add("0000:00:0e.0", {.parent = root_bus, .class_code = 0x010400});
  const auto root = add_port("10000:e0:06.0", vmd + "/pci10000:e0", root_port);
  add_endpoint("10000:e1:00.0", root);
  const auto machine = read();
  ASSERT_EQ(machine.functions.size(), 3U);
  EXPECT_EQ(machine.functions[1].address.domain, 0x10000U);
  EXPECT_EQ(machine.functions[1].parent, std::nullopt) << "as for the kernel, it is on a root bus";
  EXPECT_EQ(machine.functions[2].parent, at("10000:e0:06.0"));
}

TEST_F(function_test, that_there_are_none_is_said) {
  std::filesystem::remove_all(machine_.path() + "/sys/bus");
  const auto machine = read();
  EXPECT_THAT(machine.functions, IsEmpty());
  EXPECT_TRUE(missed(machine, "PCI functions"));
}

TEST_F(function_test, have_no_guessed_numa_node) {
  add_endpoint("0000:00:02.0", root_bus);
  const auto machine = read();
  EXPECT_EQ(machine.functions[0].numa_node, std::nullopt);
  EXPECT_TRUE(missed(machine, "NUMA node of 1 functions"));
}

TEST(read_topology, without_sys_is_an_error) {
  const made_up_machine machine;
  auto roots = machine.roots();
  roots.sys = machine.path() + "/nowhere";
  const auto failure = error_of([&] { read_topology(roots); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("nowhere is empty or not there"));
}

TEST(read_topology, of_this_machine_works_whoever_asks) {
  const auto machine = read_topology();
  EXPECT_FALSE(machine.machine.kernel.empty());
  EXPECT_FALSE(find_inconsistency(machine).has_value());
  EXPECT_EQ(read_recording(record(machine)).functions, machine.functions);
}

auto address_of(hwloc_obj_t function) -> pci_address {
  const auto& pci = function->attr->pcidev;
  return {.domain = pci.domain, .bus = pci.bus, .device = pci.dev, .function = pci.func};
}

// The bridge that hwloc has above an object; nothing: a host bridge.
auto bridge_above(hwloc_obj_t object) -> std::optional<pci_address> {
  const auto* bridge = object->parent;
  if (bridge == nullptr || bridge->type != HWLOC_OBJ_BRIDGE) return {};
  if (bridge->attr->bridge.upstream_type != HWLOC_OBJ_BRIDGE_PCI) return {};
  const auto& pci = bridge->attr->bridge.upstream.pci;
  return pci_address{.domain = pci.domain, .bus = pci.bus, .device = pci.dev, .function = pci.func};
}

auto function_of_device(const topology& machine, const std::string& name)
    -> std::optional<pci_address> {
  if (const auto* block = machine.find_block(name); block != nullptr) return block->function;
  if (const auto* rdma = machine.find_rdma(name); rdma != nullptr) return rdma->function;
  if (const auto* drm = machine.find_drm(name); drm != nullptr) return drm->function;
  if (const auto* net = machine.find_net(name); net != nullptr) return net->function;
  return {};
}

// A second opinion on the machine that this runs on, whatever it is: tree, ids and names.
TEST(read_topology, of_this_machine_is_what_hwloc_sees) {
  const auto machine = read_topology();
  hwloc_topology_t made = nullptr;
  ASSERT_EQ(hwloc_topology_init(&made), 0);
  const std::unique_ptr<hwloc_topology, decltype(&hwloc_topology_destroy)> seen(
      made, hwloc_topology_destroy);
  hwloc_topology_set_io_types_filter(made, HWLOC_TYPE_FILTER_KEEP_ALL);
  ASSERT_EQ(hwloc_topology_load(made), 0);
  if (hwloc_topology_is_thissystem(made) == 0) GTEST_SKIP() << "hwloc speaks of another machine";

  for (hwloc_obj_t object = nullptr; (object = hwloc_get_next_pcidev(made, object)) != nullptr;) {
    const auto* function = machine.find(address_of(object));
    ASSERT_NE(function, nullptr) << to_string(address_of(object));
    EXPECT_EQ(function->vendor, object->attr->pcidev.vendor_id);
    EXPECT_EQ(function->device, object->attr->pcidev.device_id);
    // hwloc goes by bus numbers, which virtual functions may have none of.
    if (!function->physical) EXPECT_EQ(function->parent, bridge_above(object));
  }
  for (hwloc_obj_t object = nullptr; (object = hwloc_get_next_osdev(made, object)) != nullptr;) {
    if (object->parent->type != HWLOC_OBJ_PCI_DEVICE) continue;
    const auto type = object->attr->osdev.type;
    // A GPU has names by its vendor's libraries as well ("nvml0").
    const std::string_view name = object->name;
    const auto is_drm = name.starts_with("card") || name.starts_with("renderD");
    if (type != HWLOC_OBJ_OSDEV_BLOCK && type != HWLOC_OBJ_OSDEV_NETWORK &&
        type != HWLOC_OBJ_OSDEV_OPENFABRICS && !is_drm)
      continue;
    EXPECT_EQ(function_of_device(machine, object->name), address_of(object->parent))
        << object->name;
  }
}

TEST_F(block_test, know_their_function_and_driver) {
  const auto drive = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "nvme"});
  const auto disk = drive + "/nvme/nvme0/nvme0n1";
  machine_.write(disk + "/size", "2048\n");
  machine_.write(disk + "/queue/stable_writes", "0\n");
  machine_.write(disk + "/integrity/format", "T10-DIF-TYPE1-CRC\n");
  machine_.write(drive + "/nvme/nvme0/transport", "pcie\n");
  machine_.link(disk + "/device", drive + "/nvme/nvme0");
  machine_.link("sys/class/block/nvme0n1", disk);
  machine_.write(disk + "/nvme0n1p1/partition", "1\n");
  machine_.write(disk + "/nvme0n1p1/size", "1024\n");
  machine_.link("sys/class/block/nvme0n1p1", disk + "/nvme0n1p1");
  const auto machine = read();
  ASSERT_EQ(machine.blocks.size(), 2U);
  EXPECT_EQ(machine.blocks[0], (block_node{.name = "nvme0n1",
                                           .kind = block_kind::disk,
                                           .function = at("0000:00:02.0"),
                                           .driver = "nvme",
                                           .stable_writes = false,
                                           .integrity = true,
                                           .size = 1 << 20}));
  EXPECT_EQ(machine.blocks[1].kind, block_kind::partition);
  EXPECT_EQ(machine.blocks[1].disk, "nvme0n1");
  EXPECT_EQ(machine.blocks[1].function, at("0000:00:02.0"));
  EXPECT_EQ(machine.blocks[1].stable_writes, false) << "the queue is the disk's";
}

TEST_F(block_test, over_fabrics_have_no_function) {
  const auto controller = std::string("sys/devices/virtual/nvme-fabrics/ctl/nvme1");
  machine_.write(controller + "/transport", "tcp\n");
  machine_.write(controller + "/nvme1n1/size", "2048\n");
  machine_.link(controller + "/nvme1n1/device", controller);
  machine_.link("sys/class/block/nvme1n1", controller + "/nvme1n1");
  const auto machine = read();
  EXPECT_EQ(machine.blocks[0].driver, "nvme-tcp");
  EXPECT_EQ(machine.blocks[0].function, std::nullopt);
}

TEST_F(block_test, of_virtio_have_the_driver_of_the_queue) {
  const auto function = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "virtio-pci"});
  machine_.folder("sys/bus/virtio/drivers/virtio_blk");
  machine_.link(function + "/virtio0/driver", "sys/bus/virtio/drivers/virtio_blk");
  machine_.write(function + "/virtio0/block/vda/size", "8\n");
  machine_.link(function + "/virtio0/block/vda/device", function + "/virtio0");
  machine_.link("sys/class/block/vda", function + "/virtio0/block/vda");
  const auto machine = read();
  EXPECT_EQ(machine.blocks[0].driver, "virtio_blk");
  EXPECT_EQ(machine.blocks[0].function, at("0000:00:02.0"));
}

TEST_F(block_test, that_are_stacked_name_their_legs) {
  const auto virtual_block = std::string("sys/devices/virtual/block/");
  const auto disk = [&](const std::string& name) {
    machine_.write(virtual_block + name + "/size", "2048\n");
    machine_.link("sys/class/block/" + name, virtual_block + name);
  };
  for (const auto* name : {"sda", "sdb", "md0", "dm-0", "dm-1", "dm-2"}) disk(name);
  machine_.write(virtual_block + "md0/md/level", "raid1\n");
  machine_.link(virtual_block + "md0/slaves/sda", virtual_block + "sda");
  machine_.link(virtual_block + "md0/slaves/sdb", virtual_block + "sdb");
  machine_.write(virtual_block + "dm-0/dm/uuid", "LVM-veryprivateidentifier\n");
  machine_.link(virtual_block + "dm-0/slaves/md0", virtual_block + "md0");
  machine_.write(virtual_block + "dm-1/dm/uuid", "mpath-3600508b400105e210000900000490000\n");
  machine_.link(virtual_block + "dm-1/slaves/sda", virtual_block + "sda");
  machine_.write(virtual_block + "dm-2/dm/uuid", "\n");
  const auto machine = read();
  const auto* md = machine.find_block("md0");
  ASSERT_NE(md, nullptr);
  EXPECT_EQ(md->kind, block_kind::md);
  EXPECT_EQ(md->level, "raid1");
  EXPECT_THAT(md->legs, ElementsAre("sda", "sdb"));
  EXPECT_EQ(machine.find_block("dm-0")->kind, block_kind::dm);
  EXPECT_EQ(machine.find_block("dm-0")->level, "LVM");
  EXPECT_THAT(machine.find_block("dm-0")->legs, ElementsAre("md0"));
  EXPECT_EQ(machine.find_block("dm-1")->kind, block_kind::multipath);
  EXPECT_EQ(machine.find_block("dm-2")->level, "");
}

TEST_F(block_test, of_nvme_multipath_have_their_paths_as_legs) {
  const auto head = std::string("sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1");
  machine_.write(head + "/size", "2048\n");
  machine_.link("sys/class/block/nvme0n1", head);
  for (const auto* path : {"nvme0c0n1", "nvme0c1n1", "nvme0c1n2", "nvme10c0n1"}) {
    const auto own = std::string("sys/devices/virtual/block/") + path;
    machine_.write(own + "/size", "2048\n");
    machine_.link(std::string("sys/class/block/") + path, own);
  }
  EXPECT_THAT(read().find_block("nvme0n1")->legs, ElementsAre("nvme0c0n1", "nvme0c1n1"));
  EXPECT_EQ(read().find_block("nvme0n1")->kind, block_kind::multipath);
  // Newer kernels say so themselves.
  machine_.link(head + "/multipath/nvme0c1n1", "sys/devices/virtual/block/nvme0c1n1");
  EXPECT_THAT(read().find_block("nvme0n1")->legs, ElementsAre("nvme0c1n1"));
}

class loop_test : public block_test {
 protected:
  loop_test() {
    machine_.write(loop_ + "/size", "2048\n");
    machine_.link("sys/class/block/loop0", loop_);
    machine_.write("sys/devices/virtual/block/sda/size", "2048\n");
    machine_.link("sys/class/block/sda", "sys/devices/virtual/block/sda");
    machine_.link("sys/dev/block/8:0", "sys/devices/virtual/block/sda");
    machine_.write("proc/self/mountinfo",
                   "21 1 0:20 / / rw - overlay overlay rw\n"
                   "22 21 8:0 / /data\\040disk rw,noatime shared:1 - ext4 /dev/sda rw\n"
                   "23 21 0:30 / /fast rw - btrfs /dev/sda rw\n"
                   "24 21 0:31 / /data rw - tmpfs tmpfs rw\n");
  }
  void back(const std::string& file) { machine_.write(loop_ + "/loop/backing_file", file + "\n"); }

  std::string loop_ = "sys/devices/virtual/block/loop0";
};

TEST_F(loop_test, stands_on_the_disk_of_its_file) {
  back("/data disk/images/one.img");
  const auto machine = read();
  EXPECT_EQ(machine.find_block("loop0")->kind, block_kind::loop);
  EXPECT_THAT(machine.find_block("loop0")->legs, ElementsAre("sda"));
}

TEST_F(loop_test, finds_the_device_of_file_systems_with_made_up_numbers) {
  back("/fast/one.img");
  EXPECT_THAT(read().find_block("loop0")->legs, ElementsAre("sda"));
}

TEST_F(loop_test, without_a_disk_below_says_so) {
  back("/data/one.img");
  const auto machine = read();
  EXPECT_THAT(machine.find_block("loop0")->legs, IsEmpty());
  EXPECT_TRUE(missed(machine, "what loop0 stands on"));
}

TEST_F(block_test, without_a_medium_are_left_out) {
  machine_.write("sys/devices/virtual/block/loop1/size", "0\n");
  machine_.link("sys/class/block/loop1", "sys/devices/virtual/block/loop1");
  EXPECT_THAT(read().blocks, IsEmpty());
}

TEST_F(device_test, of_rdma_are_told_from_software) {
  const auto card = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "mlx5_core"});
  const auto infiniband = [&](const std::string& name) {
    const auto own = card + "/infiniband/" + name;
    machine_.folder(own);
    machine_.link(own + "/device", card);
    machine_.link("sys/class/infiniband/" + name, own);
    return own;
  };
  const auto hardware = infiniband("mlx5_0");
  machine_.write(hardware + "/node_desc", "host mlx5_0\n");
  machine_.write(hardware + "/node_guid", "a088:c203:00ab:cdef\n");
  machine_.write(hardware + "/ports/1/gid_attrs/ndevs/0", "eth0\n");
  machine_.write(hardware + "/ports/1/gid_attrs/ndevs/1", "eth0\n");
  // Both stand below the card whose network device they borrow.
  machine_.write(infiniband("siw0") + "/node_desc", "Software iWARP stack\n");
  machine_.write(infiniband("rxe0") + "/parent", "eth0\n");
  const auto machine = read();
  EXPECT_EQ(*machine.find_rdma("mlx5_0"),
            (rdma_node{"mlx5_0", at("0000:00:02.0"), "mlx5_core", false, {"eth0"}}));
  EXPECT_TRUE(machine.find_rdma("siw0")->software);
  EXPECT_EQ(machine.find_rdma("siw0")->driver, "siw");
  EXPECT_TRUE(machine.find_rdma("rxe0")->software);
  EXPECT_EQ(machine.find_rdma("rxe0")->driver, "rdma_rxe");
  EXPECT_THAT(machine.find_rdma("rxe0")->netdevs, ElementsAre("eth0"));
}

// The auxiliary device in between has a driver of its own, "mlx5_core.sf".
TEST_F(device_test, of_rdma_that_are_subfunctions_have_their_functions_driver) {
  const auto card = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "mlx5_core"});
  const auto part = card + "/mlx5_core.sf.4";
  const auto own = part + "/infiniband/mlx5_2";
  machine_.folder("sys/bus/auxiliary/drivers/mlx5_core.sf");
  machine_.link(part + "/driver", "sys/bus/auxiliary/drivers/mlx5_core.sf");
  machine_.link(own + "/device", part);
  machine_.link("sys/class/infiniband/mlx5_2", own);
  const auto machine = read();
  EXPECT_EQ(*machine.find_rdma("mlx5_2"),
            (rdma_node{"mlx5_2", at("0000:00:02.0"), "mlx5_core", false, {}}));
  EXPECT_FALSE(missed(machine, "whether mlx5_2 reaches memory by DMA"));
}

TEST_F(device_test, of_rdma_with_an_unknown_driver_are_not_taken_for_hardware_silently) {
  const auto card = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "brand_new"});
  machine_.link(card + "/infiniband/new0/device", card);
  machine_.link("sys/class/infiniband/new0", card + "/infiniband/new0");
  EXPECT_TRUE(missed(read(), "whether new0 reaches memory by DMA"));
}

TEST_F(device_test, of_drm_are_one_node_with_card_and_render) {
  const auto gpu = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "amdgpu"});
  for (const auto* name : {"card0", "renderD128", "card0-DP-1"}) {
    const auto own = gpu + "/drm/" + name;
    machine_.folder(own);
    machine_.link(own + "/device", gpu);
    machine_.link(std::string("sys/class/drm/") + name, own);
  }
  machine_.write("sys/class/drm/version", "drm 1.1.0\n");
  const auto machine = read();
  EXPECT_THAT(machine.drm,
              ElementsAre(drm_node{"card0", "renderD128", at("0000:00:02.0"), "amdgpu"}));
}

TEST_F(device_test, of_the_network_are_those_with_hardware) {
  const auto card = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "e1000e"});
  machine_.link(card + "/net/eth0/device", card);
  machine_.link("sys/class/net/eth0", card + "/net/eth0");
  machine_.folder("sys/devices/virtual/net/lo");
  machine_.link("sys/class/net/lo", "sys/devices/virtual/net/lo");
  EXPECT_THAT(read().nets, ElementsAre(net_node{"eth0", at("0000:00:02.0"), "e1000e"}));
}

TEST_F(facts_test, of_the_kernel_and_cpu_are_read) {
  const auto facts = read().machine;
  EXPECT_EQ(facts.kernel, "7.2.12-test");
  EXPECT_EQ(facts.architecture, "x86_64");
  EXPECT_EQ(facts.command_line, "iommu=pt") << "and none of what names devices";
  EXPECT_EQ(facts.cpu_vendor, "GenuineIntel");
  EXPECT_EQ(facts.cpu_family, 6U);
  EXPECT_EQ(facts.config_p2pdma, true);
  EXPECT_EQ(facts.hypervisor, "");
  EXPECT_EQ(facts.memory_encryption, false);
  EXPECT_EQ(facts.secure_boot, false);
  EXPECT_EQ(facts.lockdown, "none");
}

TEST_F(facts_test, come_from_the_packed_configuration_first) {
  machine_.folder("proc");
  const auto path = machine_.path() + "/proc/config.gz";
  const auto file = gzopen(path.c_str(), "wb");
  gzputs(file, "# CONFIG_PCI_P2PDMA is not set\n");
  gzclose(file);
  EXPECT_EQ(read().machine.config_p2pdma, false);
}

TEST_F(facts_test, that_are_nowhere_are_unread) {
  std::filesystem::remove_all(machine_.path() + "/proc");
  std::filesystem::remove_all(machine_.path() + "/boot");
  std::filesystem::remove_all(machine_.path() + "/sys/firmware");
  std::filesystem::remove_all(machine_.path() + "/sys/kernel");
  const auto machine = read();
  EXPECT_EQ(machine.machine, machine_facts{.architecture = "x86_64"});
  for (const auto* what : {"kernel version", "kernel command line", "kernel configuration", "CPU",
                           "hypervisor", "memory encryption", "Secure Boot", "lockdown"})
    EXPECT_TRUE(missed(machine, what)) << what;
}

TEST_F(facts_test, name_the_hypervisor) {
  machine_.write("proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor\n");
  EXPECT_EQ(read().machine.hypervisor, "unknown");
  machine_.write("sys/class/dmi/id/sys_vendor", "QEMU\n");
  EXPECT_EQ(read().machine.hypervisor, "QEMU");
}

struct encryption_case {
  const char* name;
  const char* cpuinfo;
  const char* command_line;
  std::optional<bool> offered;
  std::optional<bool> expected;
};

class encryption_test : public machine_test, public testing::WithParamInterface<encryption_case> {};

TEST_P(encryption_test, is_never_guessed) {
  machine_.write("proc/cpuinfo", GetParam().cpuinfo);
  machine_.write("proc/cmdline", GetParam().command_line);
  auto roots = machine_.roots();
  roots.encrypts_as_guest = GetParam().offered;
  const auto machine = read_topology(roots);
  EXPECT_EQ(machine.machine.memory_encryption, GetParam().expected);
  EXPECT_EQ(missed(machine, "memory encryption"), !GetParam().expected.has_value());
}

constexpr auto amd = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu\n";
constexpr auto amd_sme = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu sme sev\n";
constexpr auto amd_guest = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu hypervisor\n";
constexpr auto tdx_guest = "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor tdx_guest\n";

INSTANTIATE_TEST_SUITE_P(
    facts, encryption_test,
    testing::Values(
        encryption_case{"amd_without", amd, "", true, false},
        encryption_case{"amd_on", amd_sme, "mem_encrypt=on", true, true},
        encryption_case{"amd_off", amd_sme, "mem_encrypt=on mem_encrypt=off", true, false},
        encryption_case{"amd_by_configuration", amd_sme, "", true, false},
        encryption_case{"amd_guest_without", amd_guest, "", false, false},
        encryption_case{"amd_guest_offered", amd_guest, "", true, std::nullopt},
        encryption_case{"amd_guest_not_asked", amd_guest, "", std::nullopt, std::nullopt},
        encryption_case{"tdx", tdx_guest, "", false, true}),
    [](const auto& each) { return each.param.name; });

TEST_F(facts_test, of_secure_boot_are_the_firmwares) {
  const auto variable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
  machine_.write("sys/firmware/efi/efivars/Other-1", "x");
  EXPECT_EQ(read().machine.secure_boot, false) << "firmware without Secure Boot";
  machine_.write(variable, std::string("\6\0\0\0\1", 5));
  EXPECT_EQ(read().machine.secure_boot, true);
  machine_.write(variable, std::string("\6\0\0\0\0", 5));
  EXPECT_EQ(read().machine.secure_boot, false);
  machine_.forbid(variable);
  const auto machine = read();
  EXPECT_EQ(machine.machine.secure_boot, std::nullopt);
  EXPECT_TRUE(missed(machine, "Secure Boot"));
}

TEST_F(facts_test, of_lockdown_are_the_kernels) {
  machine_.write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
  EXPECT_EQ(read().machine.lockdown, "integrity");
  std::filesystem::remove(machine_.path() + "/sys/kernel/security/lockdown");
  machine_.write("sys/kernel/security/lsm", "capability,yama\n");
  EXPECT_EQ(read().machine.lockdown, "none");
  machine_.write("sys/kernel/security/lsm", "capability,lockdown\n");
  EXPECT_EQ(read().machine.lockdown, std::nullopt);
}

TEST_F(facts_test, of_iommu_domains_that_cannot_be_read_are_unread) {
  machine_.add("0000:00:02.0", {.parent = root_bus, .iommu_group = 3});
  machine_.add("0000:00:03.0", {.parent = root_bus, .iommu_group = 4});
  machine_.write("sys/kernel/iommu_groups/4/type", "identity\n");
  const auto machine = read();
  EXPECT_EQ(machine.iommu_groups.at(3), iommu_domain::unknown);
  EXPECT_EQ(machine.iommu_groups.at(4), iommu_domain::identity);
  EXPECT_TRUE(missed(machine, "IOMMU group 3's domain type"));
}

TEST_F(facts_test, include_who_is_denied) {
  const auto list = "sys/module/dmabridge/parameters/deny";
  EXPECT_THAT(read().denied, IsEmpty());
  machine_.write(list, "0000:03:00.0-0000:04:00.0,0000:05:00.0\n");
  EXPECT_THAT(read().denied, ElementsAre(denied_pair{at("0000:03:00.0"), at("0000:04:00.0")},
                                         denied_pair{at("0000:05:00.0"), std::nullopt}));
  machine_.write(list, "(null)\n");
  EXPECT_THAT(read().denied, IsEmpty());
  machine_.write(list, "gpu,0000:05:00.0\n");
  const auto machine = read();
  EXPECT_EQ(machine.denied.size(), 1U);
  EXPECT_TRUE(missed(machine, "\"gpu\" in the deny list"));
  machine_.forbid(list);
  EXPECT_TRUE(missed(read(), "deny list"));
}

// There is no place for them in a topology, but names can carry them.
TEST_F(device_test, keep_serial_numbers_and_addresses_out_of_recordings) {
  const auto card = machine_.add("0000:00:02.0", {.parent = root_bus, .driver = "mlx5_core"});
  const auto net = card + "/net/enxa088c2abcdef";
  machine_.write(net + "/address", "a0:88:c2:ab:cd:ef\n");
  machine_.link(net + "/device", card);
  machine_.link("sys/class/net/enxa088c2abcdef", net);
  const auto rdma = card + "/infiniband/rocexa088c20300abcdef";
  machine_.write(rdma + "/node_guid", "a088:c203:00ab:cdef\n");
  machine_.write(rdma + "/sys_image_guid", "a088:c203:00ab:cdef\n");
  machine_.write(rdma + "/node_desc", "host 00SERIAL00\n");
  machine_.write(rdma + "/ports/1/gids/0", "fe80:0000:0000:0000:a288:c2ff:feab:cdef\n");
  machine_.write(rdma + "/ports/1/gid_attrs/ndevs/0", "enxa088c2abcdef\n");
  machine_.link(rdma + "/device", card);
  machine_.link("sys/class/infiniband/rocexa088c20300abcdef", rdma);
  machine_.write(card + "/serial_number", "00SERIAL00\n");
  const auto disk = card + "/nvme/nvme0/nvme0n1";
  machine_.write(disk + "/size", "2048\n");
  machine_.write(disk + "/wwid", "eui.00SERIAL00\n");
  machine_.write(card + "/nvme/nvme0/serial", "00SERIAL00\n");
  machine_.write("sys/class/dmi/id/product_serial", "00SERIAL00\n");
  machine_.link(disk + "/device", card + "/nvme/nvme0");
  machine_.link("sys/class/block/nvme0n1", disk);

  const auto machine = read_topology(machine_.roots());
  EXPECT_NE(machine.find_net("enxa088c2abcdef"), nullptr) << "on the machine, names are names";
  const auto text = record(machine);
  for (const auto* secret :
       {"SERIAL", "a088c2", "a0:88:c2", "a088:c2", "00ab:cdef", "abcdef", "11-22-33", "a0-c9"})
    EXPECT_THAT(text, Not(HasSubstr(secret)));
  const auto again = read_recording(text);
  ASSERT_EQ(again.nets.size(), 1U);
  ASSERT_EQ(again.rdma.size(), 1U);
  EXPECT_THAT(again.nets[0].name, testing::MatchesRegex("enx[12]"));
  EXPECT_THAT(again.rdma[0].netdevs, ElementsAre(again.nets[0].name))
      << "the same stand-in everywhere";
}

}  // namespace
}  // namespace dmabridge

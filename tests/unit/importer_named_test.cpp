// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "dmabridge/plan.hpp"
#include "error_of.hpp"
#include "made_machine.hpp"

namespace dmabridge {
namespace {

using test::at;
using test::error_of;
using test::made_machine;
using test::usual_machine;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

auto codes(const importer_facts& facts) -> std::multiset<std::uint32_t> {
  std::multiset<std::uint32_t> result;
  for (const auto& why : facts.own) result.insert(why.code);
  return result;
}

auto disk(const char* name, const char* function, const char* driver = "nvme") -> block_node {
  return {.name = name,
          .kind = block_kind::disk,
          .function = at(function),
          .driver = driver,
          .stable_writes = false,
          .integrity = false};
}

auto stacked(const char* name, block_kind kind, std::vector<std::string> legs,
             const char* level = "") -> block_node {
  return {.name = name,
          .kind = kind,
          .legs = std::move(legs),
          .level = level,
          .stable_writes = false,
          .integrity = false};
}

auto full_machine() -> topology {
  auto machine = usual_machine().made;
  machine.blocks = {disk("nvme0n1", "04:00.0"),
                    {.name = "nvme0n1p1", .kind = block_kind::partition, .disk = "nvme0n1"},
                    disk("nvme1n1", "05:00.0"),
                    disk("vda", "06:00.0", "virtio_blk"),
                    {.name = "nvme2n1",
                     .kind = block_kind::disk,
                     .driver = "nvme-tcp",
                     .stable_writes = false,
                     .integrity = false},
                    stacked("md0", block_kind::md, {"nvme0n1", "nvme1n1"}, "raid1"),
                    stacked("md1", block_kind::md, {"nvme0n1p1", "vda"}, "raid0"),
                    stacked("dm-0", block_kind::dm, {"md0"}, "LVM"),
                    stacked("loop0", block_kind::loop, {"dm-0"})};
  machine.rdma = {
      {.name = "mlx5_0", .function = at("05:00.0"), .driver = "mlx5_core", .netdevs = {"ens5"}},
      {.name = "rxe0", .driver = "rdma_rxe", .software = true},
      {.name = "odd0", .function = at("05:00.0"), .driver = "novelty"},
      {.name = "efa_0", .function = at("05:00.0"), .driver = "efa"}};
  machine.drm = {
      {.card = "card0", .render = "renderD128", .function = at("03:00.0"), .driver = "xe"},
      {.card = "card1", .function = at("05:00.0"), .driver = "i915"}};
  return machine;
}

auto named(const char* name) -> importer_facts {
  return importer_named(full_machine(), name, policy::prefer);
}

TEST(importer_named, pci_function_with_and_without_its_domain) {
  for (const auto* const name : {"04:00.0", "0000:04:00.0"}) {
    const auto facts = importer_named(full_machine(), name, policy::require);
    EXPECT_EQ(facts.name, "0000:04:00.0");
    EXPECT_EQ(facts.kind, importer_kind::pci);
    EXPECT_THAT(facts.functions, ElementsAre(at("04:00.0")));
    EXPECT_EQ(facts.policy, policy::require);
    EXPECT_FALSE(facts.needs_pages);
  }
}

TEST(importer_named, drive_and_its_partition) {
  for (const auto* const name : {"nvme0n1", "/dev/nvme0n1", "/dev/nvme0n1p1"}) {
    const auto facts = named(name);
    EXPECT_EQ(facts.name, name);
    EXPECT_EQ(facts.kind, importer_kind::block);
    EXPECT_THAT(facts.functions, ElementsAre(at("04:00.0")));
    EXPECT_TRUE(facts.needs_pages);
    EXPECT_TRUE(facts.can_bounce);
    EXPECT_THAT(facts.own, IsEmpty());
    EXPECT_THAT(facts.missing, IsEmpty());
    EXPECT_THAT(facts.legs, IsEmpty());
  }
}

TEST(importer_named, queue_takes_peers_memory_by_driver) {
  EXPECT_THAT(codes(named("vda")), ElementsAre(DMABRIDGE_REASON_QUEUE_NO_P2P));
  auto machine = full_machine();
  machine.blocks[0].driver.clear();
  const auto facts = importer_named(machine, "nvme0n1", policy::prefer);
  EXPECT_THAT(facts.own, IsEmpty());
  ASSERT_EQ(facts.missing.size(), 1U);
  EXPECT_THAT(facts.missing.front().what, HasSubstr("driver of nvme0n1"));
}

TEST(importer_named, disk_over_a_network_has_no_function_to_reach) {
  const auto facts = named("nvme2n1");
  EXPECT_THAT(facts.functions, IsEmpty());
  EXPECT_THAT(codes(facts), Contains(DMABRIDGE_REASON_STACKED_DEVICE));
}

TEST(importer_named, checksums_are_a_reason_and_unread_ones_a_gap) {
  auto machine = full_machine();
  machine.blocks[0].integrity = true;
  machine.blocks[0].stable_writes.reset();
  EXPECT_THAT(codes(importer_named(machine, "nvme0n1", policy::prefer)),
              ElementsAre(DMABRIDGE_REASON_STABLE_WRITES));
  machine.blocks[0].integrity = false;
  EXPECT_EQ(importer_named(machine, "nvme0n1", policy::prefer).missing.size(), 1U);
}

TEST(importer_named, array_has_its_legs_and_mirrored_writes_are_said) {
  const auto facts = named("/dev/md0");
  EXPECT_THAT(facts.legs, ElementsAre("nvme0n1", "nvme1n1"));
  EXPECT_THAT(facts.functions, ElementsAre(at("04:00.0"), at("05:00.0")));
  EXPECT_EQ(codes(facts), (std::multiset<std::uint32_t>{DMABRIDGE_REASON_STACKED_DEVICE,
                                                        DMABRIDGE_REASON_RAID_WRITE}));
}

TEST(importer_named, what_only_hinders_writes_is_none_of_reading) {
  const auto machine = full_machine();
  for (const auto* const name : {"/dev/md0", "loop0"}) {
    const auto read = importer_named(machine, name, policy::prefer, direction::read);
    EXPECT_THAT(codes(read), Not(Contains(DMABRIDGE_REASON_RAID_WRITE))) << name;
    EXPECT_EQ(read.way, direction::read);
    const auto write = importer_named(machine, name, policy::prefer, direction::write);
    EXPECT_THAT(codes(write), Contains(DMABRIDGE_REASON_RAID_WRITE)) << name;
    const auto both = importer_named(machine, name, policy::prefer);
    EXPECT_EQ(codes(both), codes(write)) << name;
    EXPECT_EQ(both.way, direction::both);
    auto but_for_that = codes(write);
    but_for_that.erase(DMABRIDGE_REASON_RAID_WRITE);
    EXPECT_EQ(codes(read), but_for_that) << name;
  }
}

TEST(importer_named, leg_without_the_feature_takes_it_from_the_whole) {
  const auto facts = named("md1");
  EXPECT_THAT(facts.legs, ElementsAre("nvme0n1", "vda"));
  EXPECT_EQ(codes(facts), (std::multiset<std::uint32_t>{
                              DMABRIDGE_REASON_STACKED_DEVICE, DMABRIDGE_REASON_QUEUE_NO_P2P,
                              DMABRIDGE_REASON_LEG, DMABRIDGE_REASON_QUEUE_NO_P2P}));
  const auto leg = std::ranges::find(facts.own, std::uint32_t{DMABRIDGE_REASON_LEG}, &reason::code);
  EXPECT_EQ(leg->name, "vda");
  EXPECT_EQ(leg->device, at("06:00.0"));
}

TEST(importer_named, stacks_are_followed_to_the_drives) {
  const auto facts = named("loop0");
  EXPECT_THAT(facts.legs, ElementsAre("nvme0n1", "nvme1n1"));
  EXPECT_THAT(codes(facts), Contains(DMABRIDGE_REASON_RAID_WRITE)) << "of the array below";
  EXPECT_THAT(codes(facts), Contains(DMABRIDGE_REASON_QUEUE_NO_P2P)) << "loop has none";
}

TEST(importer_named, stack_that_goes_round_in_a_circle_ends) {
  auto machine = full_machine();
  machine.blocks.push_back(stacked("dm-8", block_kind::dm, {"dm-9"}));
  machine.blocks.push_back(stacked("dm-9", block_kind::dm, {"dm-8", "gone"}));
  const auto facts = importer_named(machine, "dm-8", policy::prefer);
  EXPECT_THAT(facts.functions, IsEmpty());
  EXPECT_THAT(facts.missing, Not(IsEmpty()));
}

TEST(importer_named, each_leg_is_judged_by_its_own_path) {
  const auto machine = full_machine();
  const buffer_facts buffer{.device = at("03:00.0"), .bar = 2, .size = 1 << 20};
  const auto facts = importer_named(machine, "md0", policy::prefer);
  const auto joint = negotiate(machine, buffer, std::span(&facts, 1));
  const auto& reasons = joint.importers.front().word.reasons;
  EXPECT_EQ(joint.importers.front().word.route, route::system);
  EXPECT_EQ(std::ranges::count(reasons, std::uint32_t{DMABRIDGE_REASON_LEG}, &reason::code), 1);
  const auto leg = std::ranges::find(reasons, std::uint32_t{DMABRIDGE_REASON_LEG}, &reason::code);
  EXPECT_EQ(leg->name, "nvme1n1");
  EXPECT_EQ(std::next(leg)->code, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED);
}

TEST(importer_named, rdma_devices_by_what_their_drivers_do) {
  for (const auto* const name : {"mlx5_0", "ens5", "/dev/infiniband/mlx5_0"}) {
    const auto facts = named(name);
    EXPECT_EQ(facts.kind, importer_kind::rdma) << name;
    EXPECT_THAT(facts.functions, ElementsAre(at("05:00.0")));
    EXPECT_TRUE(facts.peer2peer && facts.revocable && !facts.is_static);
    EXPECT_FALSE(facts.can_bounce);
  }
  const auto software = named("rxe0");
  EXPECT_THAT(codes(software), ElementsAre(DMABRIDGE_REASON_BY_CPU));
  EXPECT_EQ(software.own.front().name, "rdma_rxe");
  const auto pinning = named("efa_0");
  EXPECT_TRUE(pinning.pins);
  EXPECT_FALSE(pinning.revocable);
  const auto novel = named("odd0");
  ASSERT_EQ(novel.missing.size(), 1U);
  EXPECT_THAT(novel.missing.front().what, HasSubstr("driver novelty"));
}

TEST(importer_named, gpus_by_either_node) {
  for (const auto* const name : {"card0", "renderD128", "/dev/dri/renderD128"}) {
    const auto facts = named(name);
    EXPECT_EQ(facts.kind, importer_kind::gpu) << name;
    EXPECT_THAT(facts.functions, ElementsAre(at("03:00.0")));
    EXPECT_TRUE(facts.peer2peer);
  }
  EXPECT_TRUE(named("card1").is_static);
}

TEST(importer_named, file_of_a_file_system_that_is_not_listed_may_be_copied) {
  const auto facts = named("/proc/version");
  EXPECT_EQ(facts.kind, importer_kind::file);
  EXPECT_TRUE(facts.may_copy);
  EXPECT_TRUE(facts.no_direct_io);
  EXPECT_TRUE(facts.can_bounce);
  EXPECT_EQ(codes(facts), (std::multiset<std::uint32_t>{DMABRIDGE_REASON_FILESYSTEM_UNLISTED,
                                                        DMABRIDGE_REASON_FILE_NO_DIRECT_IO}));
  EXPECT_EQ(facts.own.front().name, "proc");
  EXPECT_EQ(facts.own.front().value, 0x9fa0U);
}

TEST(importer_named, what_there_is_not_is_an_error_that_lists_what_there_is) {
  for (const auto* const name :
       {"nvme9n9", "0f:00.0", "/no/such/file", "/dev", "", "/home/mlx5_0"}) {
    const auto failure = error_of([&] { named(name); });
    EXPECT_EQ(failure.kind(), error_kind::usage) << name;
    EXPECT_THAT(failure.what(), HasSubstr(std::string("find importer ") + name));
    for (const auto* const there :
         {"nvme0n1", "md0", "mlx5_0", "card0", "renderD128", "0000:04:00.0"})
      EXPECT_THAT(failure.what(), HasSubstr(there));
    EXPECT_THAT(failure.what(), HasSubstr("to fix it"));
  }
  EXPECT_THAT(error_of([] { importer_named({}, "x", policy::prefer); }).what(),
              HasSubstr("nothing"));
}

// --- of a buffer ---------------------------------------------------------------------------

auto vram() -> region_info {
  return {.name = "vram0",
          .node = "/dev/dmabridge-vram0",
          .kind = region_kind::bar,
          .device = at("03:00.0"),
          .bar = 2,
          .has_pages = true,
          .move_limit = 4096};
}

TEST(facts_of, buffer_that_a_region_would_make_is_empty_and_on_its_device) {
  const auto facts = facts_of(vram(), 1 << 20, policy::prefer);
  EXPECT_EQ(facts.name, "region vram0");
  EXPECT_EQ(facts.kind, region_kind::bar);
  EXPECT_EQ(facts.device, at("03:00.0"));
  EXPECT_EQ(facts.bar, 2U);
  EXPECT_TRUE(facts.has_pages);
  EXPECT_TRUE(facts.empty);
  EXPECT_EQ(facts.placement, placement::device);
  EXPECT_EQ(facts.move_limit, 4096U);
  EXPECT_EQ(facts_of(vram(), 1 << 20, policy::forbid).placement, placement::system);
}

TEST(facts_of, what_has_an_engine_or_is_ram_has_no_limit) {
  auto region = vram();
  region.has_engine = true;
  EXPECT_EQ(facts_of(region, 1, policy::prefer).move_limit, std::nullopt);
  region.has_engine = false;
  region.kind = region_kind::stolen;
  EXPECT_EQ(facts_of(region, 1, policy::prefer).move_limit, std::nullopt);
  region.kind = region_kind::system;
  EXPECT_EQ(facts_of(region, 1, policy::prefer).placement, placement::system);
}

TEST(facts_of, stopped_and_gone_regions_make_nothing) {
  auto region = vram();
  region.suspended = true;
  const auto importer = named("nvme0n1");
  for (const auto wanted : {policy::prefer, policy::require, policy::forbid}) {
    const auto joint =
        negotiate(full_machine(), facts_of(region, 1, wanted), std::span(&importer, 1));
    EXPECT_EQ(joint.placement, placement::none);
    EXPECT_EQ(joint.importers.front().word.reasons.front().code, DMABRIDGE_REASON_SUSPENDED);
  }
  region.unregistered = true;
  EXPECT_TRUE(facts_of(region, 1, policy::prefer).revoked);
}

TEST(facts_of, users_of_a_buffer_keep_it_where_it_is) {
  buffer_info buffer;
  buffer.placement = placement::system;
  buffer.size = 1 << 20;
  buffer.last_move = reason{.code = DMABRIDGE_REASON_DEMOTED, .name = "fpga"};
  buffer.users = {{.name = "fpga", .device = at("05:00.0"), .needs_system = true},
                  {.name = "fio", .pinned = true}};
  auto facts = facts_of(buffer, vram());
  EXPECT_FALSE(facts.empty);
  EXPECT_EQ(facts.pins, 1U);
  ASSERT_TRUE(facts.system_needer);
  EXPECT_EQ(facts.system_needer->code, DMABRIDGE_REASON_DEMOTED);
  EXPECT_EQ(facts.system_needer->name, "fpga");
  EXPECT_EQ(facts.system_needer->device, at("05:00.0"));
  EXPECT_FALSE(facts.device_needer);
  EXPECT_EQ(facts.why_in_system->code, DMABRIDGE_REASON_DEMOTED);

  buffer.placement = placement::device;
  buffer.users = {{.name = "hold", .needs_device = true}};
  facts = facts_of(buffer, vram());
  EXPECT_EQ(facts.device_needer->code, DMABRIDGE_REASON_HELD);
  EXPECT_EQ(facts.device_needer->value, std::uint64_t{DMABRIDGE_PLACEMENT_DEVICE});
}

TEST(facts_of, buffer_moved_off_a_stopped_device_says_so_until_that_is_over) {
  buffer_info buffer;
  buffer.placement = placement::system;
  buffer.last_move = reason{.code = DMABRIDGE_REASON_SUSPENDED};
  auto region = vram();
  EXPECT_EQ(facts_of(buffer, region).why_in_system->code, DMABRIDGE_REASON_EVICTED);
  region.suspended = true;
  buffer.last_move->code = DMABRIDGE_REASON_DEMOTED;
  EXPECT_EQ(facts_of(buffer, region).why_in_system->code, DMABRIDGE_REASON_SUSPENDED);
}

}  // namespace
}  // namespace dmabridge

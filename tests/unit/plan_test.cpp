// SPDX-License-Identifier: MIT
#include "dmabridge/plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <set>

#include "dmabridge/path.hpp"
#include "error_of.hpp"
#include "made_machine.hpp"

extern "C" {
#define _Bool bool
#include "../../exporter/verdict.h"
#undef _Bool
}

namespace dmabridge {
namespace {

using test::at;
using test::made_machine;
using test::usual_machine;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

using code_set = std::multiset<std::uint32_t>;

auto codes(std::span<const reason> reasons) -> code_set {
  code_set result;
  for (const auto& why : reasons) result.insert(why.code);
  return result;
}

auto find(std::span<const reason> reasons, std::uint32_t code) -> const reason& {
  const auto found = std::ranges::find(reasons, code, &reason::code);
  if (found == reasons.end()) throw std::out_of_range("no such reason");
  return *found;
}

// Memory of the device at 03:00.0.
auto memory() -> buffer_facts {
  return {.name = "region vram",
          .device = at("03:00.0"),
          .bar = 2,
          .size = 1 << 20,
          .move_limit = 256 << 20};
}

auto drive(const char* name, const char* function) -> importer_facts {
  return {.name = name,
          .kind = importer_kind::block,
          .functions = {at(function)},
          .needs_pages = true,
          .can_bounce = true};
}

auto near_drive() -> importer_facts {
  return drive("nvme0n1", "04:00.0");
}
auto far_drive() -> importer_facts {
  return drive("nvme1n1", "05:00.0");
}

auto nic(const char* function) -> importer_facts {
  return {.name = "mlx5_0", .kind = importer_kind::rdma, .functions = {at(function)}};
}

auto plan_for(const made_machine& machine, const buffer_facts& buffer,
              std::initializer_list<importer_facts> importers) -> plan {
  return negotiate(machine.made, buffer, std::span(importers.begin(), importers.size()));
}

auto alone(const made_machine& machine, const buffer_facts& buffer, const importer_facts& importer)
    -> planned_verdict {
  return plan_for(machine, buffer, {importer}).importers.front();
}

// --- one importer ----------------------------------------------------------------------------

TEST(plan, below_one_switch_is_p2p_without_a_word) {
  const auto joint = plan_for(usual_machine(), memory(), {near_drive()});
  const auto& only = joint.importers.front();
  EXPECT_EQ(joint.state, verdict_state::predicted);
  EXPECT_EQ(joint.placement, placement::device);
  EXPECT_EQ(joint.moved, 0U);
  EXPECT_EQ(only.importer, "nvme0n1");
  EXPECT_EQ(only.word.state, verdict_state::predicted);
  EXPECT_EQ(only.word.route, route::p2p_bus);
  EXPECT_EQ(only.word.policy, policy::prefer);
  EXPECT_EQ(only.word.distance, 4);
  EXPECT_THAT(only.word.reasons, IsEmpty());
  EXPECT_THAT(only.caveats, IsEmpty());
  EXPECT_THAT(only.missing, IsEmpty());
  EXPECT_FALSE(only.unknown);
  EXPECT_EQ(outcome_of(joint), plan_outcome::p2p);
}

TEST(plan, unreachable_importer_is_redirected_under_prefer_and_refused_under_require) {
  auto buffer = memory();
  const auto joint = plan_for(usual_machine(), buffer, {far_drive()});
  EXPECT_EQ(joint.placement, placement::system);
  EXPECT_EQ(joint.moved, buffer.size);
  EXPECT_THAT(joint.demoting, IsEmpty()) << "nobody could have reached it there";
  EXPECT_EQ(joint.importers.front().word.route, route::system);
  EXPECT_EQ(codes(joint.importers.front().word.reasons),
            code_set{DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED});
  EXPECT_EQ(outcome_of(joint), plan_outcome::redirected);

  buffer.policy = policy::require;
  const auto strict = plan_for(usual_machine(), buffer, {far_drive()});
  EXPECT_EQ(strict.placement, placement::none);
  EXPECT_EQ(strict.importers.front().word.route, route::none);
  EXPECT_EQ(outcome_of(strict), plan_outcome::refused);
}

TEST(plan, redirect_of_acs_names_every_bridge_and_the_host_bridge) {
  auto machine = usual_machine();
  machine["02:00.0"].acs->control = test::acs_redirects;
  machine["02:01.0"].acs->control = test::acs_redirects;
  const auto only = alone(machine, memory(), near_drive());
  EXPECT_EQ(codes(only.word.reasons),
            (code_set{DMABRIDGE_REASON_ACS_REDIRECT, DMABRIDGE_REASON_ACS_REDIRECT,
                      DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED}));
  EXPECT_THAT(remedies(only.word.reasons, only.word.policy).front(),
              HasSubstr("pci=disable_acs_redir=0000:02:00.0;0000:02:01.0"));
}

TEST(plan, conflict_of_policies_serves_nobody_and_names_both) {
  auto buffer = memory();
  buffer.policy = policy::require;
  auto importer = near_drive();
  importer.policy = policy::forbid;
  const auto only = alone(usual_machine(), buffer, importer);
  EXPECT_EQ(only.word.route, route::none);
  EXPECT_EQ(only.word.policy, std::nullopt);
  const auto& why = find(only.word.reasons, DMABRIDGE_REASON_POLICY_CONFLICT);
  EXPECT_THAT(why.evidence(), HasSubstr("the buffer says require, the importer forbid"));
}

TEST(plan, drivers_that_cannot_follow_ask_or_be_stopped_get_no_p2p) {
  auto importer = nic("04:00.0");
  importer.revocable = false;
  EXPECT_EQ(codes(alone(usual_machine(), memory(), importer).word.reasons),
            code_set{DMABRIDGE_REASON_NOT_REVOCABLE});
  auto tolerant = memory();
  tolerant.takes_unrevocable = true;
  EXPECT_EQ(alone(usual_machine(), tolerant, importer).word.route, route::p2p_bus);
  importer.peer2peer = false;
  EXPECT_EQ(codes(alone(usual_machine(), memory(), importer).word.reasons),
            code_set{DMABRIDGE_REASON_NOT_PEER2PEER});
  importer.is_static = true;
  EXPECT_EQ(codes(alone(usual_machine(), memory(), importer).word.reasons),
            code_set{DMABRIDGE_REASON_STATIC_IMPORTER});
}

TEST(plan, without_pages_block_io_bounces_and_nobody_moves) {
  auto buffer = memory();
  buffer.has_pages = false;
  const auto joint = plan_for(usual_machine(), buffer, {near_drive(), nic("04:00.0")});
  EXPECT_EQ(joint.placement, placement::device);
  EXPECT_EQ(joint.importers[0].word.route, route::bounce);
  EXPECT_EQ(joint.importers[0].copies, 1U);
  EXPECT_EQ(joint.importers[1].word.route, route::p2p_bus);
  EXPECT_EQ(joint.importers[1].copies, 0U);
  EXPECT_THAT(joint.demoting, IsEmpty());
  EXPECT_EQ(outcome_of(joint), plan_outcome::redirected);
}

TEST(plan, ram_behind_a_bar_serves_everybody) {
  auto buffer = memory();
  buffer.kind = region_kind::stolen;
  buffer.policy = policy::require;
  auto software = nic("04:00.0");
  software.functions.clear();
  software.own = {{.code = DMABRIDGE_REASON_BY_CPU, .name = "rdma_rxe"}};
  auto fixed = nic("05:00.0");
  fixed.is_static = true;
  fixed.peer2peer = false;
  const auto joint = plan_for(usual_machine(), buffer, {far_drive(), software, fixed});
  for (const auto& one : joint.importers) {
    EXPECT_EQ(one.word.route, route::stolen) << one.importer;
    EXPECT_THAT(one.word.reasons, IsEmpty());
  }
  EXPECT_EQ(outcome_of(joint), plan_outcome::p2p);

  auto vetoed = far_drive();
  vetoed.vetoed = true;
  vetoed.own = {{.code = DMABRIDGE_REASON_EXPORTER_VETO, .value = 7}};
  EXPECT_EQ(alone(usual_machine(), buffer, vetoed).word.route, route::none);
}

TEST(plan, insisting_on_dma_from_ram_gets_no_copies) {
  auto buffer = memory();
  buffer.kind = region_kind::stolen;
  auto file = far_drive();
  file.may_copy = true;
  file.own = {{.code = DMABRIDGE_REASON_FILESYSTEM_UNLISTED, .value = 1, .name = "btrfs"}};
  EXPECT_EQ(alone(usual_machine(), buffer, file).word.route, route::stolen);
  file.policy = policy::require;
  EXPECT_EQ(alone(usual_machine(), buffer, file).word.route, route::none);
}

TEST(plan, file_without_direct_io_is_copied_wherever_the_buffer_is) {
  auto file = near_drive();
  file.no_direct_io = true;
  file.may_copy = true;
  file.own = {{.code = DMABRIDGE_REASON_FILE_NO_DIRECT_IO}};
  for (const auto kind : {region_kind::bar, region_kind::stolen}) {
    auto buffer = memory();
    buffer.kind = kind;
    const auto only = alone(usual_machine(), buffer, file);
    EXPECT_EQ(only.word.route, route::bounce);
    EXPECT_EQ(only.copies, 1U);
    EXPECT_THAT(codes(only.word.reasons), Contains(DMABRIDGE_REASON_FILE_NO_DIRECT_IO));
  }
}

TEST(plan, system_region_is_never_p2p) {
  auto buffer = memory();
  buffer.kind = region_kind::system;
  buffer.placement = placement::system;
  buffer.device.reset();
  const auto only = alone(usual_machine(), buffer, near_drive());
  EXPECT_EQ(only.word.route, route::system);
  EXPECT_EQ(codes(only.word.reasons), code_set{DMABRIDGE_REASON_SYSTEM_REGION});
}

// --- memory of other exporters -------------------------------------------------------------------

// As far as the rules tell; on the device at 03:00.0 if it can be on one.
auto memory_of(const exporter_rules& rules) -> buffer_facts {
  auto buffer = facts_of(rules, {}, 1 << 20, policy::prefer);
  buffer.copies = answer::yes;  // its API's
  if (buffer.kind == region_kind::bar) {
    buffer.device = at("03:00.0");
    buffer.bar = 2;
  }
  return buffer;
}

auto software(const char* name = "rxe0") -> importer_facts {
  return {.name = name,
          .kind = importer_kind::rdma,
          .pins_mapping = true,
          .own = {{.code = DMABRIDGE_REASON_BY_CPU, .name = "rdma_rxe"}}};
}

TEST(foreign_plan, system_memory_serves_all_but_who_requires_p2p) {
  const auto buffer = memory_of(rules_of("udmabuf"));
  const auto only = alone(usual_machine(), buffer, near_drive());
  EXPECT_EQ(only.word.route, route::system);
  ASSERT_EQ(codes(only.word.reasons), code_set{DMABRIDGE_REASON_FOREIGN_BUFFER});
  EXPECT_EQ(only.word.reasons.front().name, "udmabuf");
  EXPECT_EQ(alone(usual_machine(), buffer, nic("05:00.0")).word.route, route::system);
  for (auto strict : {near_drive(), nic("04:00.0")}) {
    strict.policy = policy::require;
    EXPECT_EQ(alone(usual_machine(), buffer, strict).word.route, route::none);
  }
}

TEST(foreign_plan, drives_bounce_and_rdma_devices_reach_a_gpus_memory_where_there_is_a_path) {
  for (const auto* driver : {"amdgpu", "xe", "nvidia", "habanalabs", "vfio-pci"}) {
    SCOPED_TRACE(driver);
    const auto joint = plan_for(usual_machine(), memory_of(rules_of_driver(driver)),
                                {near_drive(), nic("04:00.0")});
    const auto& block = joint.importers[0];
    EXPECT_EQ(block.word.route, route::bounce);
    EXPECT_FALSE(block.unknown);
    EXPECT_EQ(codes(block.word.reasons),
              (code_set{DMABRIDGE_REASON_FOREIGN_BUFFER, DMABRIDGE_REASON_NO_PAGES}));
    EXPECT_EQ(joint.importers[1].word.route, route::p2p_bus);
    EXPECT_THAT(joint.importers[1].word.reasons, IsEmpty());
    EXPECT_EQ(joint.placement, placement::device);
    EXPECT_THAT(joint.demoting, IsEmpty()) << "a binding does not attach";
  }
}

TEST(foreign_plan, without_a_path_each_exporter_does_what_it_does) {
  struct row {
    const char* driver;
    route by;
    bool unknown;
    std::uint32_t also;  // beside the path's reason; 0: nothing
  };
  for (const auto& [driver, by, unknown, also] :
       {row{"amdgpu", route::system, false, 0},
        row{"xe", route::none, true, DMABRIDGE_REASON_PATH_UNKNOWN},
        row{"nvidia", route::none, true, DMABRIDGE_REASON_PATH_UNKNOWN},
        row{"habanalabs", route::none, false, DMABRIDGE_REASON_NOT_MOVABLE},
        row{"vfio-pci", route::none, false, DMABRIDGE_REASON_NOT_MOVABLE}}) {
    SCOPED_TRACE(driver);
    const auto only = alone(usual_machine(), memory_of(rules_of_driver(driver)), nic("05:00.0"));
    EXPECT_EQ(only.word.route, by);
    EXPECT_EQ(only.unknown, unknown);
    EXPECT_THAT(codes(only.word.reasons), Contains(DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED));
    if (also != 0) EXPECT_THAT(codes(only.word.reasons), Contains(also));
    EXPECT_EQ(only.missing.empty(), !unknown);
  }
}

TEST(foreign_plan, what_is_exported_by_way_of_system_memory_is_that_for_all) {
  for (const auto* driver : {"i915", "nouveau"}) {
    SCOPED_TRACE(driver);
    const auto joint = plan_for(usual_machine(), memory_of(rules_of_driver(driver)),
                                {nic("04:00.0"), near_drive()});
    EXPECT_EQ(joint.importers[0].word.route, route::system);
    EXPECT_FALSE(joint.importers[0].unknown);
    EXPECT_EQ(codes(joint.importers[0].word.reasons), code_set{DMABRIDGE_REASON_FOREIGN_BUFFER});
    EXPECT_EQ(joint.importers[1].word.route, route::bounce) << "at worst";
    EXPECT_TRUE(joint.importers[1].unknown);
  }
}

TEST(foreign_plan, one_that_cannot_moves_it_for_all_where_its_exporter_does_that) {
  const auto two = {nic("04:00.0"), nic("05:00.0")};
  const auto moved = plan_for(usual_machine(), memory_of(rules_of_driver("amdgpu")), two);
  EXPECT_EQ(moved.placement, placement::system);
  EXPECT_THAT(moved.demoting, ElementsAre(1));
  EXPECT_EQ(codes(moved.importers[0].word.reasons), code_set{DMABRIDGE_REASON_DEMOTED});

  const auto kept = plan_for(usual_machine(), memory_of(rules_of_driver("habanalabs")), two);
  EXPECT_EQ(kept.importers[0].word.route, route::p2p_bus);
  EXPECT_EQ(kept.importers[1].word.route, route::none);

  const auto open = plan_for(usual_machine(), memory_of(rules_of_driver("xe")), two);
  for (const auto& one : open.importers) EXPECT_TRUE(one.unknown);
  EXPECT_EQ(open.importers[0].word.route, route::system) << "at worst it moves";
  EXPECT_EQ(open.importers[1].word.route, route::none) << "at worst it does not";
}

TEST(foreign_plan, who_cannot_be_stopped_is_the_exporters_business) {
  auto pinning = nic("04:00.0");
  pinning.revocable = false;
  pinning.pins = true;
  EXPECT_EQ(alone(usual_machine(), memory_of(rules_of_driver("amdgpu")), pinning).word.route,
            route::p2p_bus);
  const auto refused = alone(usual_machine(), memory_of(rules_of_driver("vfio-pci")), pinning);
  EXPECT_EQ(refused.word.route, route::none);
  EXPECT_THAT(codes(refused.word.reasons), Contains(DMABRIDGE_REASON_NOT_REVOCABLE));
}

TEST(foreign_plan, the_deny_list_is_not_asked_by_others) {
  auto machine = usual_machine();
  machine.made.denied = {{.one = at("03:00.0")}};
  EXPECT_EQ(alone(machine, memory_of(rules_of_driver("amdgpu")), nic("04:00.0")).word.route,
            route::p2p_bus);
}

TEST(foreign_plan, addresses_that_an_iommu_may_not_know_are_not_taken_for_good) {
  auto machine = usual_machine();
  machine.made.machine.cpu_vendor = "AuthenticAMD";
  machine.made.machine.cpu_family = 0x19;
  const auto gpu = memory_of(rules_of_driver("nvidia"));
  EXPECT_EQ(alone(machine, gpu, nic("05:00.0")).word.route, route::p2p_host_bridge);
  machine["05:00.0"].iommu_group = 5;
  machine.made.iommu_groups[5] = iommu_domain::strict;
  const auto translated = alone(machine, gpu, nic("05:00.0"));
  EXPECT_TRUE(translated.unknown);
  EXPECT_EQ(translated.word.route, route::none);
  ASSERT_FALSE(translated.missing.empty());
  EXPECT_THAT(translated.missing.front().remedy, HasSubstr("iommu=pt"));
}

TEST(foreign_plan, no_policy_holds_it_on_its_device_or_off_it) {
  const auto gpu = memory_of(rules_of_driver("amdgpu"));
  for (const auto wanted : {policy::require, policy::forbid}) {
    auto importer = nic("04:00.0");
    importer.policy = wanted;
    const auto only = alone(usual_machine(), gpu, importer);
    EXPECT_EQ(only.word.route, route::none);
    EXPECT_FALSE(only.unknown);
    EXPECT_THAT(codes(only.word.reasons), Contains(DMABRIDGE_REASON_FOREIGN_BUFFER));
  }
}

TEST(foreign_plan, rdma_by_the_cpu_wants_a_mapping_that_can_be_pinned) {
  auto buffer = memory_of(rules_of("udmabuf"));
  const auto refused = alone(usual_machine(), buffer, software());
  EXPECT_EQ(refused.word.route, route::none);
  EXPECT_THAT(codes(refused.word.reasons), Contains(DMABRIDGE_REASON_NOT_PINNABLE));
  EXPECT_THAT(find(refused.word.reasons, DMABRIDGE_REASON_NOT_PINNABLE).evidence(),
              HasSubstr("EFAULT"));
  buffer.pinnable = answer::yes;  // its owner's
  EXPECT_EQ(alone(usual_machine(), buffer, software()).word.route, route::system);
  buffer.pinnable = answer::unknown;
  EXPECT_TRUE(alone(usual_machine(), buffer, software()).unknown);
}

TEST(foreign_plan, nothing_is_promised_of_an_exporter_that_is_unknown) {
  auto buffer = facts_of(rules_of("nobody"), "nobody", 1 << 20, policy::prefer);
  for (const auto placed : {false, true}) {
    if (placed) buffer.device = at("03:00.0");
    for (const auto& importer : {near_drive(), nic("04:00.0"), software()}) {
      SCOPED_TRACE(importer.name);
      const auto only = alone(usual_machine(), buffer, importer);
      EXPECT_TRUE(only.unknown);
      EXPECT_EQ(only.word.route, route::none);
      ASSERT_FALSE(only.missing.empty());
      for (const auto& fact : only.missing) {
        EXPECT_THAT(fact.what, HasSubstr("whether exporter nobody "));
        EXPECT_FALSE(fact.why.empty());
        EXPECT_FALSE(fact.remedy.empty());
      }
    }
  }
}

TEST(foreign_plan, where_a_buffer_is_its_dma_buf_does_not_tell) {
  const auto buffer = facts_of(rules_of("vfio_pci_core"), {}, 1 << 20, policy::prefer);
  const auto only = alone(usual_machine(), buffer, nic("04:00.0"));
  EXPECT_TRUE(only.unknown);
  EXPECT_EQ(only.word.route, route::none);
  const auto block = alone(usual_machine(), buffer, near_drive());
  EXPECT_FALSE(block.unknown) << "wherever it is, no binding takes it and nobody maps it";
  EXPECT_EQ(block.word.route, route::none);
}

// --- the machine ---------------------------------------------------------------------------------

// What is changed for the worse in a machine, and the reason that it makes.
struct flaw {
  const char* name;
  std::uint32_t code;
  std::function<void(made_machine&)> make;
  const char* evidence;
};

TEST(plan, machine_that_excludes_p2p_is_the_reason_for_everybody) {
  const flaw flaws[] = {
      {"encrypted", DMABRIDGE_REASON_MEMORY_ENCRYPTION,
       [](auto& m) { m.made.machine.memory_encryption = true; }, "encrypts"},
      {"kernel", DMABRIDGE_REASON_KERNEL_NO_P2PDMA,
       [](auto& m) { m.made.machine.config_p2pdma = false; }, "7.2.12"},
      {"s390", DMABRIDGE_REASON_NOT_MAPPABLE,
       [](auto& m) { m.made.machine.architecture = "s390x"; }, "s390x"},
      {"off", DMABRIDGE_REASON_BAR_DISABLED, [](auto& m) { m["03:00.0"].memory_enabled = false; },
       "BAR 2 of 0000:03:00.0"},
      {"unassigned", DMABRIDGE_REASON_BAR_DISABLED, [](auto& m) { m["03:00.0"].bars[0].start = 0; },
       "BAR 2"},
      {"no such", DMABRIDGE_REASON_BAR_DISABLED, [](auto& m) { m["03:00.0"].bars[0].number = 0; },
       "BAR 2"},
      {"denied", DMABRIDGE_REASON_DENIED,
       [](auto& m) { m.made.denied = {{.one = at("04:00.0"), .other = at("03:00.0")}}; },
       "0000:04:00.0 is in /sys/module/dmabridge/parameters/deny"},
      {"denied with all", DMABRIDGE_REASON_DENIED,
       [](auto& m) { m.made.denied = {{.one = at("03:00.0")}}; }, "parameters/deny"},
      {"mask", DMABRIDGE_REASON_DMA_MASK, [](auto& m) { m["04:00.0"].dma_mask_bits = 32; },
       "0000:04:00.0 addresses up to 0xffffffff"}};
  for (const auto& [name, code, make, evidence] : flaws) {
    auto machine = usual_machine();
    make(machine);
    const auto only = alone(machine, memory(), near_drive());
    EXPECT_EQ(only.word.route, route::system) << name;
    EXPECT_FALSE(only.unknown) << name;
    ASSERT_THAT(codes(only.word.reasons), Contains(code)) << name;
    EXPECT_THAT(find(only.word.reasons, code).evidence(), HasSubstr(evidence));
    EXPECT_FALSE(find(only.word.reasons, code).remedy(only.word.policy).empty()) << name;
    // RAM behind the BAR is not concerned.
    auto stolen = memory();
    stolen.kind = region_kind::stolen;
    EXPECT_EQ(alone(machine, stolen, near_drive()).word.route, route::stolen) << name;
  }
}

TEST(plan, denial_of_others_is_none) {
  auto machine = usual_machine();
  machine.made.denied = {{.one = at("05:00.0")}, {.one = at("03:00.0"), .other = at("05:00.0")}};
  EXPECT_EQ(alone(machine, memory(), near_drive()).word.route, route::p2p_bus);
}

TEST(plan, iommu_gives_addresses_that_fit_through_the_host_bridge_only) {
  auto machine = usual_machine();
  machine.made.machine.cpu_vendor = "AuthenticAMD";
  machine.made.machine.cpu_family = 0x19;
  machine["05:00.0"].dma_mask_bits = 32;
  machine["05:00.0"].iommu_group = 5;
  machine["04:00.0"].dma_mask_bits = 32;
  machine["04:00.0"].iommu_group = 5;
  for (const auto& [type, far_route, unknown] :
       {std::tuple{iommu_domain::strict, route::p2p_host_bridge, false},
        std::tuple{iommu_domain::lazy, route::p2p_host_bridge, false},
        std::tuple{iommu_domain::identity, route::system, false},
        std::tuple{iommu_domain::unknown, route::system, true}}) {
    machine.made.iommu_groups[5] = type;
    const auto across = alone(machine, memory(), far_drive());
    EXPECT_EQ(across.word.route, far_route);
    EXPECT_EQ(across.unknown, unknown);
    const auto below = alone(machine, memory(), near_drive());
    EXPECT_EQ(below.word.route, route::system) << "a switch hands on addresses as they are";
    EXPECT_EQ(codes(below.word.reasons), code_set{DMABRIDGE_REASON_DMA_MASK});
  }
}

TEST(plan, caveats_change_nothing) {
  auto machine = usual_machine();
  machine.made.machine.hypervisor = "kvm";
  machine.made.machine.lockdown = "integrity";
  machine["03:00.0"].class_code = 0x030000;
  machine["03:00.0"].bars[0].prefetchable = true;
  const auto joint = plan_for(machine, memory(), {near_drive()});
  EXPECT_EQ(outcome_of(joint), plan_outcome::p2p);
  const auto& caveats = joint.importers.front().caveats;
  EXPECT_EQ(codes(caveats), (code_set{DMABRIDGE_REASON_VIRTUAL_MACHINE, DMABRIDGE_REASON_SMALL_BAR,
                                      DMABRIDGE_REASON_MODULE_LOCKED_OUT}));
  for (const auto& caveat : caveats) {
    EXPECT_FALSE(caveat.blocks_p2p);
    EXPECT_FALSE(caveat.evidence().empty());
    EXPECT_FALSE(caveat.remedy().empty());
  }
  machine.made.machine.lockdown.reset();
  machine.made.machine.secure_boot = true;
  EXPECT_THAT(codes(alone(machine, memory(), near_drive()).caveats),
              Contains(DMABRIDGE_REASON_MODULE_LOCKED_OUT));
}

TEST(plan, what_is_not_known_is_unknown_and_said) {
  const std::pair<const char*, std::function<void(made_machine&)>> gaps[] = {
      {"memory encryption", [](auto& m) { m.made.machine.memory_encryption.reset(); }},
      {"kernel configuration", [](auto& m) { m.made.machine.config_p2pdma.reset(); }},
      {"0000:03:00.0", [](auto& m) { m["03:00.0"].memory_enabled.reset(); }},
      {"BARs of 0000:03:00.0", [](auto& m) { m["03:00.0"].bars.clear(); }},
      {"DMA mask of 0000:04:00.0", [](auto& m) { m["04:00.0"].dma_mask_bits.reset(); }},
      {"ACS of 0000:02:01.0", [](auto& m) { m["02:01.0"].acs.reset(); }}};
  for (const auto& [what, make] : gaps) {
    auto machine = usual_machine();
    make(machine);
    auto buffer = memory();
    const auto joint = plan_for(machine, buffer, {near_drive()});
    const auto& only = joint.importers.front();
    EXPECT_TRUE(only.unknown) << what;
    EXPECT_EQ(only.word.route, route::system) << what;
    ASSERT_FALSE(only.missing.empty()) << what;
    EXPECT_THAT(only.missing.front().what, HasSubstr(what));
    EXPECT_EQ(codes(only.word.reasons), code_set{DMABRIDGE_REASON_PATH_UNKNOWN}) << what;
    EXPECT_THAT(only.word.reasons.front().evidence(), HasSubstr(what));
    EXPECT_EQ(outcome_of(joint), plan_outcome::unknown) << what;
    buffer.policy = policy::require;
    EXPECT_EQ(alone(machine, buffer, near_drive()).word.route, route::none) << what;
    buffer.policy = policy::forbid;
    EXPECT_FALSE(alone(machine, buffer, near_drive()).unknown) << "it decides nothing: " << what;
  }
}

TEST(plan, what_the_reader_said_of_a_gap_is_handed_on) {
  auto machine = usual_machine();
  machine.made.machine.config_p2pdma.reset();
  machine.made.unread = {{"kernel configuration", "/boot is empty", "install it"}};
  const auto only = alone(machine, memory(), near_drive());
  EXPECT_THAT(only.missing, ElementsAre(machine.made.unread.front()));
}

TEST(plan, known_reason_outweighs_what_is_not_known) {
  auto machine = usual_machine();
  machine.made.machine.memory_encryption.reset();
  auto importer = near_drive();
  importer.own = {{.code = DMABRIDGE_REASON_QUEUE_NO_P2P, .name = "vda"}};
  const auto only = alone(machine, memory(), importer);
  EXPECT_FALSE(only.unknown);
  EXPECT_EQ(only.word.route, route::system);
}

TEST(plan, route_that_is_open_is_no_unknown_verdict) {
  auto machine = usual_machine();
  machine.made.machine.cpu_vendor = "AuthenticAMD";
  machine.made.machine.cpu_family = 0x17;
  machine["02:01.0"].acs.reset();
  const auto only = alone(machine, memory(), near_drive());
  EXPECT_EQ(only.word.route, route::p2p_host_bridge);
  EXPECT_FALSE(only.unknown);
  EXPECT_THAT(only.missing.front().what, HasSubstr("ACS of"));
  machine["04:00.0"].dma_mask_bits = 32;  // now it decides
  machine["04:00.0"].iommu_group = 1;
  machine.made.iommu_groups[1] = iommu_domain::strict;
  EXPECT_TRUE(alone(machine, memory(), near_drive()).unknown);
}

// --- the buffer
// -------------------------------------------------------------------------------------

TEST(plan, revoked_and_suspended_buffers_serve_nobody) {
  auto buffer = memory();
  buffer.revoked = true;
  auto only = alone(usual_machine(), buffer, near_drive());
  EXPECT_EQ(only.word.route, route::none);
  EXPECT_EQ(codes(only.word.reasons), code_set{DMABRIDGE_REASON_REVOKED});
  EXPECT_THAT(only.word.reasons.front().evidence(), HasSubstr("0000:03:00.0"));

  buffer = memory();
  buffer.suspended = true;  // and not made yet, else it were in system memory
  only = alone(usual_machine(), buffer, near_drive());
  EXPECT_EQ(only.word.route, route::none);
  EXPECT_EQ(codes(only.word.reasons), code_set{DMABRIDGE_REASON_SUSPENDED});

  buffer.placement = placement::system;
  only = alone(usual_machine(), buffer, near_drive());
  EXPECT_EQ(only.word.route, route::system);
  EXPECT_EQ(codes(only.word.reasons), code_set{DMABRIDGE_REASON_SUSPENDED});
  buffer.policy = policy::require;
  EXPECT_EQ(alone(usual_machine(), buffer, near_drive()).word.route, route::none);
}

TEST(plan, buffer_that_cannot_move_refuses_those_who_need_it_to) {
  const std::pair<std::uint32_t, std::function<void(buffer_facts&)>> cases[] = {
      {DMABRIDGE_REASON_NOT_MOVABLE, [](auto& b) { b.movable = false; }},
      {DMABRIDGE_REASON_MOVE_LIMIT, [](auto& b) { b.move_limit = b.size - 1; }},
      {DMABRIDGE_REASON_PINNED_BY_IMPORTER, [](auto& b) { b.pins = 2; }},
      {DMABRIDGE_REASON_HELD, [](auto& b) {
         b.device_needer = reason{.code = DMABRIDGE_REASON_HELD, .value = 1, .name = "fio"};
       }}};
  for (const auto& [code, make] : cases) {
    auto buffer = memory();
    make(buffer);
    const auto joint = plan_for(usual_machine(), buffer, {near_drive(), far_drive()});
    EXPECT_EQ(joint.importers[0].word.route, route::p2p_bus) << code;
    const auto& refused = joint.importers[1];
    EXPECT_EQ(refused.word.route, route::none) << code;
    EXPECT_EQ(codes(refused.word.reasons), (code_set{DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED, code}));
    EXPECT_TRUE(find(refused.word.reasons, code).blocks_move);
    EXPECT_EQ(joint.placement, placement::device);
  }
}

TEST(plan, empty_buffer_moves_without_a_copy) {
  auto buffer = memory();
  buffer.empty = true;
  buffer.move_limit = 1;
  const auto joint = plan_for(usual_machine(), buffer, {far_drive()});
  EXPECT_EQ(joint.importers.front().word.route, route::system);
  EXPECT_EQ(joint.moved, 0U);
}

TEST(plan, buffer_in_system_memory_goes_back_for_require_only) {
  auto buffer = memory();
  buffer.placement = placement::system;
  buffer.why_in_system = reason{.code = DMABRIDGE_REASON_EVICTED};
  auto joint = plan_for(usual_machine(), buffer, {near_drive()});
  EXPECT_EQ(joint.importers.front().word.route, route::system);
  EXPECT_EQ(codes(joint.importers.front().word.reasons), code_set{DMABRIDGE_REASON_EVICTED});
  EXPECT_THAT(joint.demoting, IsEmpty());

  auto strict = near_drive();
  strict.policy = policy::require;
  joint = plan_for(usual_machine(), buffer, {strict, nic("04:00.0")});
  EXPECT_EQ(joint.placement, placement::device);
  EXPECT_EQ(joint.moved, buffer.size);
  EXPECT_EQ(joint.importers[0].word.route, route::p2p_bus);
  EXPECT_EQ(joint.importers[1].word.route, route::p2p_bus) << "it follows";

  buffer.system_needer = reason{.code = DMABRIDGE_REASON_DEMOTED, .name = "fpga"};
  joint = plan_for(usual_machine(), buffer, {strict});
  EXPECT_EQ(joint.importers.front().word.route, route::none);
  EXPECT_EQ(codes(joint.importers.front().word.reasons), code_set{DMABRIDGE_REASON_DEMOTED});
}

// --- several
// ------------------------------------------------------------------------------------------

TEST(plan, one_that_cannot_moves_the_buffer_for_all_and_is_named) {
  const auto joint = plan_for(usual_machine(), memory(), {near_drive(), nic("05:00.0")});
  EXPECT_EQ(joint.placement, placement::system);
  EXPECT_THAT(joint.demoting, ElementsAre(1));
  EXPECT_EQ(joint.importers[0].word.route, route::system);
  const auto& why = find(joint.importers[0].word.reasons, DMABRIDGE_REASON_DEMOTED);
  EXPECT_EQ(why.name, "mlx5_0");
  EXPECT_EQ(why.device, at("05:00.0"));
  EXPECT_TRUE(why.blocks_p2p);
  EXPECT_EQ(joint.importers[1].word.route, route::system);
  EXPECT_EQ(codes(joint.importers[1].word.reasons),
            code_set{DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED});
}

TEST(plan, options_say_what_each_policy_of_the_buffer_gives) {
  const auto joint = plan_for(usual_machine(), memory(), {near_drive(), nic("05:00.0")});
  ASSERT_EQ(joint.options.size(), 3U);
  const auto& require = joint.options[0];
  EXPECT_EQ(require.policy, policy::require);
  EXPECT_EQ(require.placement, placement::device);
  EXPECT_THAT(require.routes, ElementsAre(route::p2p_bus, route::none));
  EXPECT_EQ(require.moved, 0U);
  const auto& prefer = joint.options[1];
  EXPECT_EQ(prefer.policy, policy::prefer);
  EXPECT_EQ(prefer.placement, placement::system);
  EXPECT_THAT(prefer.routes, ElementsAre(route::system, route::system));
  EXPECT_THAT(prefer.copies, ElementsAre(0U, 0U));
  EXPECT_EQ(prefer.moved, memory().size);
  const auto& forbid = joint.options[2];
  EXPECT_EQ(forbid.policy, policy::forbid);
  EXPECT_EQ(forbid.placement, placement::system);
  EXPECT_THAT(forbid.routes, ElementsAre(route::system, route::system));
}

TEST(plan, importer_that_insists_keeps_the_buffer_and_is_named_to_those_refused) {
  auto strict = near_drive();
  strict.policy = policy::require;
  const auto joint = plan_for(usual_machine(), memory(), {nic("05:00.0"), strict});
  EXPECT_EQ(joint.placement, placement::device);
  EXPECT_EQ(joint.importers[1].word.route, route::p2p_bus);
  EXPECT_EQ(joint.importers[0].word.route, route::none);
  const auto& why = find(joint.importers[0].word.reasons, DMABRIDGE_REASON_HELD);
  EXPECT_EQ(why.name, "nvme0n1");
  EXPECT_TRUE(why.blocks_move);
  EXPECT_EQ(outcome_of(joint), plan_outcome::refused);
}

TEST(plan, importer_that_forbids_demotes_as_well) {
  auto shy = nic("04:00.0");
  shy.policy = policy::forbid;
  const auto joint = plan_for(usual_machine(), memory(), {near_drive(), shy});
  EXPECT_THAT(joint.demoting, ElementsAre(1));
  EXPECT_EQ(joint.importers[0].word.route, route::system);
  EXPECT_EQ(codes(joint.importers[1].word.reasons), code_set{DMABRIDGE_REASON_POLICY_FORBID});
}

TEST(plan, unknown_importer_makes_the_lot_of_others_unknown) {
  auto machine = usual_machine();
  machine["04:00.0"].dma_mask_bits.reset();
  machine.bridge("02:02.0", pci_port::downstream, "01:00.0").device("07:00.0", "02:02.0");
  const auto joint = plan_for(machine, memory(), {near_drive(), drive("nvme7n1", "07:00.0")});
  EXPECT_TRUE(joint.importers[0].unknown);
  EXPECT_TRUE(joint.importers[1].unknown) << "whether it is demoted hangs on the other";
  EXPECT_EQ(joint.importers[1].word.route, route::system);
  EXPECT_THAT(joint.demoting, ElementsAre(0));
  // Unless somebody insists.
  auto strict = drive("nvme7n1", "07:00.0");
  strict.policy = policy::require;
  const auto kept = plan_for(machine, memory(), {near_drive(), strict});
  EXPECT_FALSE(kept.importers[1].unknown);
  EXPECT_EQ(kept.importers[1].word.route, route::p2p_bus);
  EXPECT_EQ(kept.importers[0].word.route, route::none);
}

TEST(plan, nobody_asks_for_nothing) {
  const auto joint = plan_for(usual_machine(), memory(), {});
  EXPECT_EQ(joint.placement, placement::none);
  EXPECT_THAT(joint.importers, IsEmpty());
  EXPECT_EQ(joint.options.size(), 3U);
}

// --- the kernel's judgement of one importer
// -----------------------------------------------------------

// What the kernel would gather of these, with the path as find_path() tells it.
auto kernel_facts(const topology& machine, const buffer_facts& buffer,
                  const importer_facts& importer) -> dmabridge_facts {
  dmabridge_facts facts = {};
  const auto block = [&](std::uint32_t code) { facts.blockers[facts.nr_blockers++].code = code; };
  const auto needer = [](const std::optional<reason>& who) {
    dmabridge_reason raw = {};
    raw.code = who ? who->code : 0;
    return raw;
  };
  facts.region_kind = static_cast<std::uint32_t>(buffer.kind);
  facts.buffer_policy = static_cast<std::uint32_t>(buffer.policy);
  facts.placement = static_cast<std::uint32_t>(buffer.placement);
  facts.why_in_system = needer(buffer.why_in_system);
  facts.system_needer = needer(buffer.system_needer);
  facts.device_needer = needer(buffer.device_needer);
  facts.size = buffer.size;
  facts.copy_limit = buffer.empty ? ~0ULL : buffer.move_limit.value_or(~0ULL);
  facts.takes_unrevocable = buffer.takes_unrevocable;
  facts.importer_policy = static_cast<std::uint32_t>(importer.policy);
  facts.is_static = importer.is_static;
  facts.peer2peer = importer.peer2peer;
  facts.revocable = importer.revocable;
  facts.needs_pages = importer.needs_pages && !buffer.has_pages;
  facts.vetoed = importer.vetoed;
  facts.distance = -1;
  // As exporter/user.c: what counts against RAM.
  const auto own_counts = buffer.kind != region_kind::stolen ||
                          (importer.may_copy &&
                           dmabridge_combine_policies(facts.buffer_policy, facts.importer_policy) ==
                               DMABRIDGE_POLICY_REQUIRE);
  for (const auto& why : importer.own) {
    if (own_counts || why.code == DMABRIDGE_REASON_EXPORTER_VETO) block(why.code);
  }
  if (buffer.kind == region_kind::stolen) facts.path_route = DMABRIDGE_ROUTE_STOLEN;
  if (buffer.kind != region_kind::bar) return facts;
  if (importer.functions.empty()) {
    block(DMABRIDGE_REASON_NOT_PCI);
    return facts;
  }
  const auto path = find_path(machine, *buffer.device, importer.functions.front());
  for (const auto& why : path.reasons) block(why.code);
  if (path.answer != path_answer::no) facts.distance = path.distance.value();
  facts.path_route =
      path.answer == path_answer::bus ? DMABRIDGE_ROUTE_P2P_BUS : DMABRIDGE_ROUTE_P2P_HOST_BRIDGE;
  return facts;
}

class random_facts {
 public:
  explicit random_facts(std::mt19937& source) : random_(source) {}

  auto flip(unsigned one_in = 2) -> bool { return random_() % one_in == 0; }
  template <typename Value>
  auto one_of(std::initializer_list<Value> values) -> Value {
    return values.begin()[random_() % values.size()];
  }
  auto any_policy() -> policy {
    return one_of({policy::require, policy::prefer, policy::prefer, policy::forbid});
  }

  auto buffer(const pci_address& device) -> buffer_facts {
    buffer_facts facts{.name = "region r", .device = device, .bar = 2, .size = 4096};
    facts.kind = one_of({region_kind::bar, region_kind::bar, region_kind::bar, region_kind::stolen,
                         region_kind::system});
    facts.policy = any_policy();
    facts.has_pages = !flip(3);
    facts.takes_unrevocable = flip();
    facts.placement = one_of({placement::device, placement::device, placement::system});
    if (facts.kind == region_kind::system) facts.placement = placement::system;
    if (flip(20)) facts.placement = placement::none;
    facts.empty = flip(3);
    if (flip()) facts.move_limit = one_of<std::uint64_t>({1, 4096});
    if (facts.placement == placement::system) {
      facts.why_in_system = reason{.code = DMABRIDGE_REASON_MOVED};
      if (flip(3)) facts.system_needer = reason{.code = DMABRIDGE_REASON_DEMOTED, .name = "other"};
    } else if (flip(4)) {
      facts.device_needer = reason{.code = DMABRIDGE_REASON_HELD, .value = 1, .name = "other"};
    }
    return facts;
  }

  auto any_answer() -> answer { return one_of({answer::unknown, answer::no, answer::yes}); }

  // Of an exporter that may do anything.
  auto foreign_buffer(const pci_address& device) -> buffer_facts {
    exporter_rules rules{.exporter = "other"};
    for (auto* each : {&rules.p2p, &rules.asks_path, &rules.unstoppable, &rules.redirects,
                       &rules.bindable, &rules.mappable, &rules.pinnable}) {
      *each = any_answer();
    }
    rules.memory = flip(3) ? memory_kind::system : memory_kind::either;
    auto facts = facts_of(rules, {}, 4096, any_policy());
    if (facts.kind == region_kind::bar && !flip(4)) facts.device = device;
    facts.bar = 2;
    return facts;
  }

  auto importer(const std::string& name, std::span<const pci_address> functions) -> importer_facts {
    importer_facts facts{.name = name};
    if (!flip(10)) facts.functions = {functions[random_() % functions.size()]};
    facts.policy = any_policy();
    if (flip()) {
      facts.kind = importer_kind::block;
      facts.needs_pages = true;
      facts.can_bounce = true;
      facts.may_copy = flip(4);
      if (flip(4)) facts.own.push_back({.code = DMABRIDGE_REASON_QUEUE_NO_P2P, .name = name});
    } else {
      facts.is_static = flip(6);
      facts.peer2peer = !facts.is_static && !flip(4);
      facts.revocable = !facts.is_static && !flip(4);
      facts.pins = flip(4);
    }
    if (flip(8)) {
      facts.vetoed = true;
      facts.own.push_back({.code = DMABRIDGE_REASON_EXPORTER_VETO, .value = 5});
    }
    return facts;
  }

 private:
  std::mt19937& random_;
};

TEST(plan, is_the_kernels_judgement_for_one_importer) {
  std::mt19937 source(20261121);
  random_facts random(source);
  const std::array functions{at("03:00.0"), at("04:00.0"), at("05:00.0"), at("06:00.1")};
  std::map<route, int> seen;
  for (int round = 0; round < 20'000; ++round) {
    auto machine = usual_machine();
    if (random.flip(3)) {
      machine.made.machine.cpu_vendor = "AuthenticAMD";
      machine.made.machine.cpu_family = 0x17;
    }
    if (random.flip(3)) machine["02:01.0"].acs->control = test::acs_redirects;
    const auto buffer = random.buffer(at("03:00.0"));
    const auto importer = random.importer("it", functions);

    const auto facts = kernel_facts(machine.made, buffer, importer);
    dmabridge_verdict raw = {};
    dmabridge_decision decision = {};
    dmabridge_judge(&facts, &raw, &decision);
    const auto expected = verdict::from_kernel(raw);
    const auto joint = negotiate(machine.made, buffer, std::span(&importer, 1));
    const auto& only = joint.importers.front();
    ASSERT_EQ(only.word.route, expected.route) << round;
    ASSERT_EQ(only.word.policy, expected.policy) << round;
    ASSERT_EQ(only.word.distance, expected.distance) << round;
    ASSERT_EQ(codes(only.word.reasons), codes(expected.reasons)) << round;
    ASSERT_EQ(joint.placement, static_cast<placement>(decision.placement)) << round;
    ASSERT_FALSE(only.unknown);
    for (const auto& why : expected.reasons) {
      const auto& ours = find(only.word.reasons, why.code);
      ASSERT_EQ(ours.blocks_p2p, why.blocks_p2p) << round << ' ' << why.id();
      ASSERT_EQ(ours.blocks_move, why.blocks_move) << round << ' ' << why.id();
    }
    ++seen[only.word.route];
  }
  for (const auto way : {route::none, route::p2p_bus, route::p2p_host_bridge, route::stolen,
                         route::system, route::bounce}) {
    EXPECT_GT(seen[way], 100) << to_string(way);
  }
}

// --- properties
// -----------------------------------------------------------------------------------------

// From worst to best.
auto rank(route way) -> int {
  constexpr std::array order{route::none,   route::bounce,          route::system,
                             route::stolen, route::p2p_host_bridge, route::p2p_bus};
  return static_cast<int>(std::ranges::find(order, way) - order.begin());
}

struct scene {
  topology machine;
  buffer_facts buffer;
  std::vector<importer_facts> importers;
};

auto random_scene(std::mt19937& source) -> scene {
  random_facts random(source);
  test::random_machine made(source);
  scene one{.machine = made.made, .buffer = random.buffer(made.devices.front()), .importers = {}};
  if (random.flip(10)) one.machine.machine.memory_encryption = true;
  if (random.flip(10)) one.machine.denied = {{.one = made.devices.back()}};
  if (random.flip(20)) one.buffer.movable = false;
  if (random.flip(20)) one.buffer.pins = 1;
  if (random.flip(20)) one.buffer.suspended = true;
  if (random.flip(3)) one.buffer = random.foreign_buffer(made.devices.front());
  const auto count = 1 + source() % 5;
  for (std::size_t i = 0; i < count; ++i) {
    const auto name = "importer" + std::to_string(i);
    one.importers.push_back(random.flip(10) ? software(name.c_str())
                                            : random.importer(name, made.devices));
  }
  return one;
}

void forget_exporter(buffer_facts& buffer, std::mt19937& source) {
  const auto some = [&] { return source() % 4 == 0; };
  auto& rules = buffer.rules;
  for (auto* each : {&rules.p2p, &rules.asks_path, &rules.unstoppable, &rules.redirects,
                     &rules.bindable, &buffer.copies, &buffer.pinnable}) {
    if (some()) *each = answer::unknown;
  }
  if (!some()) return;
  rules.memory = memory_kind::unknown;
  buffer.kind = region_kind::bar;
  buffer.placement = placement::device;
  buffer.device.reset();
}

// Takes facts out of it, each of which then has any value that it could have had.
void forget(scene& one, std::mt19937& source) {
  const auto some = [&] { return source() % 4 == 0; };
  auto& facts = one.machine.machine;
  if (some()) facts.config_p2pdma.reset();
  if (some()) facts.memory_encryption.reset();
  if (some()) facts.cpu_family.reset();
  if (some()) facts.cpu_vendor.clear();
  if (some()) facts.kernel.clear();
  for (auto& function : one.machine.functions) {
    const auto bridge = function.class_code == 0x060400;
    const auto last = function.address.function != 0;
    if (some() && (bridge || last)) function.acs.reset();
    if (some()) function.port = pci_port::unknown;
    if (some()) function.dma_mask_bits.reset();
    if (some()) function.memory_enabled.reset();
    if (some() && some()) function.bars.clear();
  }
  for (auto& [group, type] : one.machine.iommu_groups) {
    if (some()) type = iommu_domain::unknown;
  }
  if (!one.buffer.foreign.empty()) forget_exporter(one.buffer, source);
  for (auto& importer : one.importers) {
    const auto by_cpu = importer.kind == importer_kind::rdma;  // which everybody sees
    if (!some() || importer.vetoed || by_cpu) continue;
    importer.own.clear();
    importer.assumed = importer.kind == importer_kind::pci;
    importer.missing.push_back({"its driver", "nobody knows", ""});
  }
}

class plan_property : public testing::Test {
 protected:
  static constexpr int rounds = 4'000;
  std::mt19937 source_{20261122};
};

TEST_F(plan_property, adding_an_importer_never_turns_a_refusal_into_p2p) {
  int refused = 0;
  for (int round = 0; round < rounds; ++round) {
    auto one = random_scene(source_);
    if (round % 2 == 0) forget(one, source_);
    const auto all = negotiate(one.machine, one.buffer, one.importers);
    one.importers.pop_back();
    const auto fewer = negotiate(one.machine, one.buffer, one.importers);
    for (std::size_t i = 0; i < one.importers.size(); ++i) {
      if (fewer.importers[i].word.route != route::none) continue;
      ++refused;
      ASSERT_FALSE(satisfies_require(all.importers[i].word.route)) << round;
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(plan_property, require_never_yields_anything_else_and_everything_else_has_reasons) {
  for (int round = 0; round < rounds; ++round) {
    auto one = random_scene(source_);
    if (round % 2 == 0) forget(one, source_);
    const auto joint = negotiate(one.machine, one.buffer, one.importers);
    ASSERT_EQ(joint.importers.size(), one.importers.size());
    for (const auto& importer : joint.importers) {
      const auto way = importer.word.route;
      if (importer.word.policy == policy::require) {
        ASSERT_TRUE(way == route::none || satisfies_require(way)) << round;
      }
      if (importer.word.policy == policy::forbid) ASSERT_FALSE(satisfies_require(way)) << round;
      ASSERT_EQ(satisfies_require(way), importer.word.reasons.empty()) << round;
      ASSERT_EQ(importer.claim.consequence == consequence::nothing,
                way == route::none && !importer.unknown)
          << round;
      ASSERT_TRUE(!importer.unknown || !joint.importers.empty());
      for (const auto& why : importer.word.reasons) {
        ASSERT_FALSE(why.text().empty()) << why.id();
        ASSERT_FALSE(why.evidence().empty()) << why.id();
        ASSERT_FALSE(why.remedy().empty()) << why.id();
        ASSERT_TRUE(why.blocks_p2p || why.blocks_move || !importer.missing.empty()) << why.id();
      }
    }
    for (const auto& option : joint.options) {
      if (option.policy != one.buffer.policy) continue;
      ASSERT_EQ(option.placement, joint.placement);
      for (std::size_t i = 0; i < joint.importers.size(); ++i) {
        ASSERT_EQ(option.routes[i], joint.importers[i].word.route);
        ASSERT_EQ(option.copies[i], joint.importers[i].copies);
      }
    }
  }
}

TEST_F(plan_property, order_does_not_matter) {
  for (int round = 0; round < rounds; ++round) {
    auto one = random_scene(source_);
    if (round % 2 == 0) forget(one, source_);
    const auto before = negotiate(one.machine, one.buffer, one.importers);
    std::vector<std::size_t> order(one.importers.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::shuffle(order, source_);
    std::vector<importer_facts> shuffled;
    for (const auto i : order) shuffled.push_back(one.importers[i]);
    const auto after = negotiate(one.machine, one.buffer, shuffled);
    ASSERT_EQ(before.placement, after.placement);
    ASSERT_EQ(before.moved, after.moved);
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto& was = before.importers[order[i]];
      const auto& is = after.importers[i];
      ASSERT_EQ(was.word.route, is.word.route) << round;
      ASSERT_EQ(was.word.reasons, is.word.reasons) << round;
      ASSERT_EQ(was.unknown, is.unknown) << round;
      ASSERT_EQ(was.claim.consequence, is.claim.consequence) << round;
      ASSERT_EQ(was.claim.text(), is.claim.text()) << round;
      ASSERT_EQ(std::ranges::count(before.demoting, order[i]),
                std::ranges::count(after.demoting, i));
    }
  }
}

TEST_F(plan_property, what_is_unknown_is_never_better_than_what_it_turns_out_to_be) {
  int worse = 0, unknown = 0, waits = 0;
  for (int round = 0; round < 2 * rounds; ++round) {
    const auto truth = random_scene(source_);
    auto seen = truth;
    forget(seen, source_);
    const auto known = negotiate(truth.machine, truth.buffer, truth.importers);
    const auto guess = negotiate(seen.machine, seen.buffer, seen.importers);
    for (std::size_t i = 0; i < truth.importers.size(); ++i) {
      const auto is = rank(known.importers[i].word.route);
      const auto said = rank(guess.importers[i].word.route);
      ASSERT_LE(said, is) << round << ": " << truth.importers[i].name;
      const auto p2p = rank(route::stolen);
      // What is sure is right, but for the way that P2P goes.
      if (!guess.importers[i].unknown && !known.importers[i].unknown && (said < p2p || is < p2p))
        ASSERT_EQ(said, is) << round << ": " << truth.importers[i].name;
      // Nor does anybody keep less from happening than it does then.
      const auto& does = known.importers[i].claim;
      const auto& may = guess.importers[i].claim;
      ASSERT_LE(does.blocks_moves(), may.blocks_moves()) << round << ": " << does.text();
      ASSERT_LE(does.blocks_revoke(), may.blocks_revoke()) << round << ": " << does.text();
      waits += does.blocks_revoke() ? 1 : 0;
      worse += said < is ? 1 : 0;
      unknown += guess.importers[i].unknown ? 1 : 0;
    }
  }
  EXPECT_GT(worse, 500);
  EXPECT_GT(unknown, 500);
  EXPECT_GT(waits, 100);
}

}  // namespace
}  // namespace dmabridge

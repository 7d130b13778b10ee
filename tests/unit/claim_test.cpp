// SPDX-License-Identifier: MIT
// Who waits for whom while an importer has a buffer, as plans tell it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <span>
#include <string>
#include <vector>

#include "dmabridge/plan.hpp"
#include "made_machine.hpp"

namespace dmabridge {
namespace {

using test::at;
using test::usual_machine;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// Memory of the device at 03:00.0, which 04:00.0 reaches and 05:00.0 does not.
auto vram(region_kind kind = region_kind::bar) -> buffer_facts {
  buffer_facts facts{.name = "region vram",
                     .kind = kind,
                     .device = at("03:00.0"),
                     .bar = 2,
                     .takes_unrevocable = true,
                     .size = 1 << 20};
  if (kind == region_kind::system) facts.placement = placement::system;
  return facts;
}

auto importer(importer_kind kind, const char* driver) -> importer_facts {
  return {.name = "it", .kind = kind, .functions = {at("04:00.0")}, .driver = driver};
}

// The ways to attach that there are.
auto following() -> importer_facts {
  return importer(importer_kind::rdma, "mlx5_core");
}
auto pinning() -> importer_facts {
  auto facts = importer(importer_kind::rdma, "ice");
  facts.pins = true;
  return facts;
}
auto unstoppable() -> importer_facts {
  auto facts = importer(importer_kind::rdma, "bnxt_en");
  facts.pins = true;
  facts.revocable = false;
  return facts;
}
auto once_and_for_all() -> importer_facts {
  auto facts = importer(importer_kind::gpu, "i915");
  facts.is_static = true;
  facts.peer2peer = false;
  facts.revocable = false;
  return facts;
}
auto novel() -> importer_facts {
  auto facts = importer(importer_kind::rdma, "novelty");
  facts.assumed = true;
  facts.missing = {{"how driver novelty attaches to a dma-buf", "", ""}};
  return facts;
}
auto by_cpu() -> importer_facts {
  return {.name = "rxe0",
          .kind = importer_kind::rdma,
          .driver = "rdma_rxe",
          .pins_mapping = true,
          .own = {{.code = DMABRIDGE_REASON_BY_CPU, .name = "rdma_rxe"}}};
}
auto drive() -> importer_facts {
  auto facts = importer(importer_kind::block, "");
  facts.needs_pages = true;
  facts.can_bounce = true;
  return facts;
}

auto far(importer_facts facts) -> importer_facts {
  facts.functions = {at("05:00.0")};
  return facts;
}
auto under(policy wanted, importer_facts facts) -> importer_facts {
  facts.policy = wanted;
  return facts;
}

auto planned(const buffer_facts& buffer, const importer_facts& one) -> planned_verdict {
  return negotiate(usual_machine().made, buffer, std::span(&one, 1)).importers.front();
}
auto of(const buffer_facts& buffer, const importer_facts& one) -> claim {
  return planned(buffer, one).claim;
}

struct row {
  const char* name;
  buffer_facts buffer;
  importer_facts importer;
  consequence expected;
};

TEST(claim, of_every_way_to_attach_to_a_regions_memory) {
  using enum consequence;
  const auto bar = vram();
  const auto ram = vram(region_kind::stolen);
  const auto system = vram(region_kind::system);
  for (const auto& [name, buffer, importer, expected] : std::vector<row>{
           {"follows", bar, following(), follows},
           {"follows, and cannot reach it", bar, far(following()), needs_system},
           {"follows, and must not reach it", ram, under(policy::forbid, following()),
            needs_system},
           {"follows, and insists", bar, under(policy::require, following()), needs_device},
           {"follows in RAM", ram, following(), follows},
           {"nothing moves there", system, following(), nobody_waits},
           {"pins, can be stopped", bar, pinning(), stays},
           {"pins, far away", bar, far(pinning()), stays},
           {"pins, in RAM", ram, pinning(), stays},
           {"pins what never moves", system, pinning(), nobody_waits},
           {"cannot be stopped", bar, unstoppable(), revoke_waits},
           {"cannot be stopped, far away", bar, far(unstoppable()), memory_stays},
           {"cannot be stopped, in RAM", ram, unstoppable(), quarantine},
           {"cannot be stopped, in system memory", system, unstoppable(), nobody_waits},
           {"static", bar, once_and_for_all(), memory_stays},
           {"static, in RAM", ram, once_and_for_all(), quarantine},
           {"not known", bar, novel(), revoke_may_wait},
           {"not known, in RAM", ram, novel(), may_stay},
           {"not known, kept off", bar, under(policy::forbid, novel()), may_stay},
           {"not known, in system memory", system, novel(), nobody_waits},
           {"by the CPU", bar, by_cpu(), memory_stays},
           {"by the CPU, in RAM", ram, by_cpu(), quarantine},
           {"a drive", bar, drive(), command_in_flight},
           {"a drive, in RAM", ram, drive(), command_in_flight},
           {"a drive, far away", bar, far(drive()), needs_system},
           {"a drive that insists", bar, under(policy::require, drive()), needs_device},
           {"a drive, in system memory", system, drive(), nobody_waits},
           {"refused", bar, under(policy::require, far(pinning())), nothing}}) {
    SCOPED_TRACE(name);
    const auto claim = of(buffer, importer);
    EXPECT_EQ(claim.consequence, expected) << claim.text();
    EXPECT_FALSE(claim.text().empty());
  }
}

TEST(claim, of_a_region_that_takes_none_that_cannot_be_stopped) {
  auto strict = vram();
  strict.takes_unrevocable = false;
  EXPECT_EQ(of(strict, unstoppable()).consequence, consequence::memory_stays);
  // Also where the path is not known: on the device it never is.
  auto machine = usual_machine();
  machine["02:00.0"].acs.reset();
  machine["04:00.0"].dma_mask_bits.reset();
  const std::array one{unstoppable()};
  EXPECT_EQ(negotiate(machine.made, strict, one).importers.front().claim.consequence,
            consequence::memory_stays);
  EXPECT_EQ(negotiate(machine.made, vram(), one).importers.front().claim.consequence,
            consequence::revoke_waits)
      << "at worst";
}

TEST(claim, moves_and_revokes_that_wait) {
  struct expectation {
    importer_facts importer;
    bool moves, revoke;
  };
  for (const auto& [importer, moves, revoke] :
       std::vector<expectation>{{following(), false, false},
                                {far(following()), false, false},
                                {pinning(), true, false},
                                {unstoppable(), true, true},
                                {far(unstoppable()), true, false},
                                {once_and_for_all(), true, false},
                                {novel(), true, true},
                                {by_cpu(), true, false},
                                {drive(), false, false},
                                {under(policy::require, by_cpu()), false, false}}) {
    const auto claim = of(vram(), importer);
    EXPECT_EQ(claim.blocks_moves(), moves) << claim.text();
    EXPECT_EQ(claim.blocks_revoke(), revoke) << claim.text();
  }
}

TEST(claim, sentences_say_until_when_and_who_is_the_cause) {
  EXPECT_EQ(of(vram(), following()).text(), "the buffer may move, and the device follows");
  EXPECT_EQ(of(vram(), far(following())).text(),
            "the buffer does not go back to its device before it is deregistered");
  EXPECT_EQ(of(vram(), pinning()).text(),
            "the buffer stays where it is until it is deregistered; if its device goes away, "
            "peers' accesses fail");
  EXPECT_EQ(of(vram(), unstoppable()).text(),
            "the buffer stays where it is until it is deregistered, and the driver of its device "
            "cannot be unbound before: driver bnxt_en does not let itself be stopped");
  EXPECT_EQ(of(vram(), once_and_for_all()).text(),
            "the buffer stays in system memory until it lets go of it; its device may go away "
            "meanwhile, and the memory stays");
  EXPECT_EQ(of(vram(), far(drive())).text(),
            "the buffer does not go back to its device before its binding ends");
  EXPECT_EQ(of(vram(), under(policy::require, far(drive()))).text(), "nothing is bound");
  EXPECT_THAT(
      of(vram(), novel()).text(),
      AllOf(HasSubstr("may have to wait"), HasSubstr("driver novelty is none that is known here")));
  auto driverless = novel();
  driverless.driver.clear();
  EXPECT_THAT(of(vram(), driverless).text(), HasSubstr("driver (none is bound)"));
  EXPECT_THAT(of(vram(region_kind::stolen), by_cpu()).text(), HasSubstr("quarantine"));
}

TEST(claim, what_a_function_does_is_not_known_and_counts_as_the_worst) {
  auto machine = usual_machine();
  const auto one = importer_named(machine.made, "04:00.0", policy::prefer);
  const auto joint = negotiate(machine.made, vram(), std::span(&one, 1));
  const auto& only = joint.importers.front();
  EXPECT_FALSE(only.unknown) << "its route is told as before";
  EXPECT_EQ(only.claim.consequence, consequence::revoke_may_wait);
  EXPECT_THAT(only.claim.text(), HasSubstr("of a PCI address it is not known"));
}

TEST(claim, drivers_that_are_known_make_one_by_name) {
  auto machine = usual_machine();
  machine.made.rdma = {{.name = "nic0", .function = at("04:00.0"), .driver = "bnxt_en"},
                       {.name = "nic1", .function = at("04:00.0"), .driver = "mlx5_core"},
                       {.name = "nic2", .function = at("04:00.0"), .driver = "novelty"},
                       {.name = "rxe0", .driver = "rdma_rxe", .software = true}};
  machine.made.drm = {{.card = "card0", .function = at("04:00.0"), .driver = "amdgpu"},
                      {.card = "card1", .function = at("04:00.0"), .driver = "nvidia"}};
  const auto of_name = [&](const char* name) {
    const auto one = importer_named(machine.made, name, policy::prefer);
    return negotiate(machine.made, vram(), std::span(&one, 1)).importers.front().claim;
  };
  EXPECT_EQ(of_name("nic0").consequence, consequence::revoke_waits);
  EXPECT_EQ(of_name("nic0").driver, "bnxt_en");
  EXPECT_EQ(of_name("nic1").consequence, consequence::follows);
  EXPECT_EQ(of_name("nic2").consequence, consequence::revoke_may_wait);
  EXPECT_EQ(of_name("rxe0").consequence, consequence::memory_stays);
  EXPECT_EQ(of_name("card0").consequence, consequence::follows);
  EXPECT_EQ(of_name("card1").consequence, consequence::memory_stays);
}

// --- memory of other exporters -------------------------------------------------------------------

auto memory_of(const exporter_rules& rules) -> buffer_facts {
  auto buffer = facts_of(rules, {}, 1 << 20, policy::prefer);
  if (buffer.kind == region_kind::bar) buffer.device = at("03:00.0");
  buffer.bar = 2;
  buffer.copies = answer::yes;
  buffer.pinnable = answer::yes;
  return buffer;
}

TEST(foreign_claim, nobody_waits_for_whom_memory_is_kept_that_never_moves) {
  for (const auto* exporter : {"udmabuf", "system"}) {
    for (const auto& one : {following(), pinning(), unstoppable(), novel(), by_cpu(), drive()}) {
      EXPECT_EQ(of(memory_of(rules_of(exporter)), one).consequence, consequence::nobody_waits)
          << exporter;
    }
  }
}

TEST(foreign_claim, of_a_gpus_memory) {
  const auto gpu = memory_of(rules_of_driver("amdgpu"));
  EXPECT_EQ(of(gpu, following()).consequence, consequence::follows);
  EXPECT_EQ(of(gpu, far(following())).consequence, consequence::needs_system);
  EXPECT_EQ(of(gpu, pinning()).consequence, consequence::stays);
  EXPECT_EQ(of(gpu, far(unstoppable())).consequence, consequence::stays_in_system);
  EXPECT_EQ(of(gpu, drive()).consequence, consequence::nobody_waits) << "it is copied";
  const auto stuck = of(gpu, unstoppable());
  EXPECT_EQ(stuck.consequence, consequence::cannot_be_stopped);
  EXPECT_TRUE(stuck.blocks_moves() && stuck.blocks_revoke());
  EXPECT_THAT(stuck.text(), HasSubstr("driver bnxt_en"));
  EXPECT_EQ(of(gpu, novel()).consequence, consequence::revoke_may_wait);
  // It refuses these.
  EXPECT_EQ(of(memory_of(rules_of_driver("vfio-pci")), unstoppable()).consequence,
            consequence::nothing);
}

TEST(foreign_claim, where_nothing_is_known_it_is_the_worst) {
  const auto buffer = facts_of(rules_of("nobody"), "nobody", 1 << 20, policy::prefer);
  EXPECT_TRUE(planned(buffer, unstoppable()).unknown);
  EXPECT_EQ(of(buffer, unstoppable()).consequence, consequence::cannot_be_stopped);
  EXPECT_EQ(of(buffer, novel()).consequence, consequence::revoke_may_wait);
  EXPECT_EQ(of(buffer, pinning()).consequence, consequence::stays);
  EXPECT_EQ(of(buffer, by_cpu()).consequence, consequence::stays_in_system)
      << "the kernel pins no device's memory for it";
}

// --- those who use it already --------------------------------------------------------------------

auto user(user_kind kind, bool pinned, bool revocable) -> buffer_user {
  return {.kind = kind,
          .name = "0000:05:00.0",
          .driver = "bnxt_en",
          .device = at("05:00.0"),
          .p2p = true,
          .peer2peer = true,
          .revocable = revocable,
          .pinned = pinned};
}

auto keepers(buffer_facts buffer, std::vector<buffer_user> users) -> std::vector<keeper> {
  buffer.users = std::move(users);
  return negotiate(usual_machine().made, buffer, {}).kept_by;
}

TEST(keepers, are_those_that_pin_or_hold_it) {
  const auto follows = user(user_kind::dynamic_attachment, false, true);
  auto drive = user(user_kind::binding, false, true);
  drive.needs_system = true;
  EXPECT_THAT(keepers(vram(), {follows, drive}), IsEmpty());

  const auto kept = keepers(vram(), {follows,
                                     user(user_kind::dynamic_attachment, true, false),
                                     user(user_kind::dynamic_attachment, true, true),
                                     {.kind = user_kind::hold, .name = "rdma-server"}});
  ASSERT_THAT(kept, SizeIs(3));
  EXPECT_EQ(kept[0].kind, user_kind::dynamic_attachment);
  EXPECT_EQ(kept[0].name, "0000:05:00.0");
  EXPECT_EQ(kept[0].driver, "bnxt_en");
  EXPECT_EQ(kept[0].device, at("05:00.0"));
  EXPECT_EQ(kept[0].claim.consequence, consequence::revoke_waits);
  EXPECT_EQ(kept[1].claim.consequence, consequence::stays);
  EXPECT_EQ(kept[2].name, "rdma-server");
  EXPECT_EQ(kept[2].claim.consequence, consequence::held);
  EXPECT_TRUE(kept[2].claim.blocks_moves());
  EXPECT_FALSE(kept[2].claim.blocks_revoke());
  EXPECT_THAT(kept[2].claim.text(), HasSubstr("until that process lets go of it"));
}

TEST(keepers, what_they_keep_hangs_on_where_the_buffer_is) {
  const std::vector once{user(user_kind::static_attachment, true, false)};
  auto buffer = vram();
  buffer.placement = placement::system;
  EXPECT_EQ(keepers(buffer, once).at(0).claim.consequence, consequence::memory_stays);
  EXPECT_EQ(keepers(vram(region_kind::stolen), once).at(0).claim.consequence,
            consequence::quarantine);
  EXPECT_THAT(keepers(vram(region_kind::system), once), IsEmpty()) << "there it stays anyway";
  buffer.revoked = true;
  EXPECT_THAT(keepers(buffer, {once.front(), {.kind = user_kind::hold, .name = "fio"}}), IsEmpty());
}

TEST(keepers, are_known_of_a_buffer_that_there_is) {
  buffer_info buffer;
  buffer.placement = placement::device;
  buffer.users = {user(user_kind::dynamic_attachment, true, false)};
  region_info region;
  region.name = "vram0";
  region.device = at("03:00.0");
  const auto joint = negotiate(usual_machine().made, facts_of(buffer, region), {});
  ASSERT_THAT(joint.kept_by, SizeIs(1));
  EXPECT_TRUE(joint.kept_by.front().claim.blocks_revoke());
}

}  // namespace
}  // namespace dmabridge

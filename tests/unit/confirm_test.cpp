// SPDX-License-Identifier: MIT
#include "dmabridge/confirm.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <string>

#include "comparison.hpp"
#include "dmabridge/exporter_rules.hpp"
#include "error_of.hpp"
#include "fake_exporter.hpp"
#include "made_machine.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using test::at;
using test::buffer_fd;
using test::control_fd;
using test::error_of;
using test::usual_machine;
using testing::_;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Return;
using testing::SizeIs;
using testing::StrEq;

constexpr int near_fd = 201, far_fd = 202, array_fd = 203;

auto drive(const char* name, const char* function) -> importer_facts {
  return {.name = name,
          .kind = importer_kind::block,
          .functions = {at(function)},
          .needs_pages = true,
          .can_bounce = true};
}

auto codes(const verdict& word) -> std::vector<std::uint32_t> {
  std::vector<std::uint32_t> result;
  for (const auto& why : word.reasons) result.push_back(why.code);
  return result;
}

void add(dmabridge_verdict& word, std::uint32_t code) {
  auto& why = word.reasons[word.nr_reasons++];
  why = {};
  why.code = code;
  why.flags = DMABRIDGE_REASON_BLOCKS_P2P;
}

// A module that answers as the machine is: the near drive reaches the memory, the far one does not.
class confirm_test : public testing::Test {
 protected:
  using answerer = std::function<int(dmabridge_negotiate&)>;

  confirm_test() {
    module_.add_region("vram", 1 << 30);
    ON_CALL(module_.calls, open(StrEq("/dev/nvme0n1"), _, _)).WillByDefault(Return(near_fd));
    ON_CALL(module_.calls, open(StrEq("/dev/nvme1n1"), _, _)).WillByDefault(Return(far_fd));
    ON_CALL(module_.calls, open(StrEq("/dev/md0"), _, _)).WillByDefault(Return(array_fd));
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_NEGOTIATE, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& question = *static_cast<dmabridge_negotiate*>(argument);
          questions_.push_back(question);
          question.verdict = {};
          question.verdict.distance = -1;
          const auto own = by_target_.find(question.target_fd);
          return own == by_target_.end() ? by_machine(question) : own->second(question);
        });
  }

  static auto grant(dmabridge_negotiate& question) -> int {
    question.verdict.route = DMABRIDGE_ROUTE_P2P_BUS;
    question.verdict.distance = 4;
    question.placement = DMABRIDGE_PLACEMENT_DEVICE;
    return 0;
  }
  // Redirected, or refused, for these reasons.
  static auto deny(dmabridge_negotiate& question, std::initializer_list<std::uint32_t> why) -> int {
    for (const auto code : why) add(question.verdict, code);
    if (question.policy == DMABRIDGE_POLICY_REQUIRE) return -EOPNOTSUPP;
    question.verdict.route = DMABRIDGE_ROUTE_SYSTEM;
    question.placement = DMABRIDGE_PLACEMENT_SYSTEM;
    return 0;
  }
  static auto by_machine(dmabridge_negotiate& question) -> int {
    const auto is_near = question.target_fd == near_fd || question.device == 0x400;
    return is_near ? grant(question) : deny(question, {DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED});
  }

  auto ask(std::initializer_list<importer_facts> importers, policy of_buffer = policy::prefer,
           const buffer* memory = nullptr) -> confirmation {
    const control opened;
    const auto regions = opened.regions();
    return confirm(opened, regions.front(), memory, machine_.made,
                   facts_of(regions.front(), 1 << 20, of_buffer),
                   std::span(importers.begin(), importers.size()));
  }

  test::fake_module module_;
  test::made_machine machine_ = usual_machine();
  std::map<int, answerer> by_target_;  // instead of the machine's
  std::vector<dmabridge_negotiate> questions_;
};

TEST_F(confirm_test, agreement_is_a_plan_that_is_confirmed) {
  const auto found = ask({drive("nvme0n1", "04:00.0")});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_EQ(found.joint.state, verdict_state::confirmed);
  EXPECT_EQ(found.joint.placement, placement::device);
  EXPECT_EQ(found.joint.importers.at(0).word.state, verdict_state::confirmed);
  EXPECT_EQ(found.joint.importers[0].word.route, route::p2p_bus);
  EXPECT_EQ(found.joint.importers[0].word.distance, 4);
}

TEST_F(confirm_test, the_set_is_planned_by_the_answers) {
  const auto found = ask({drive("nvme0n1", "04:00.0"), drive("nvme1n1", "05:00.0")});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_EQ(found.joint.placement, placement::system);
  EXPECT_THAT(found.joint.demoting, ElementsAre(1U));
  EXPECT_THAT(codes(found.joint.importers.at(0).word), ElementsAre(DMABRIDGE_REASON_DEMOTED));
}

TEST_F(confirm_test, the_kernel_has_the_last_word_and_the_difference_is_told) {
  by_target_[near_fd] = [](auto& question) { return deny(question, {DMABRIDGE_REASON_NO_PATH}); };
  const auto found = ask({drive("nvme0n1", "04:00.0")});
  ASSERT_THAT(found.differences, SizeIs(1));
  EXPECT_EQ(found.differences[0].importer, "nvme0n1");
  EXPECT_EQ(found.differences[0].predicted.route, route::p2p_bus);
  EXPECT_EQ(found.differences[0].confirmed.route, route::system);
  EXPECT_EQ(found.joint.importers.at(0).word.route, route::system);
  EXPECT_THAT(codes(found.joint.importers[0].word), ElementsAre(DMABRIDGE_REASON_NO_PATH));
}

TEST_F(confirm_test, another_reason_for_the_same_route_is_a_difference) {
  by_target_[far_fd] = [](auto& question) {
    return deny(question, {DMABRIDGE_REASON_ACS_REDIRECT});
  };
  EXPECT_THAT(ask({drive("nvme1n1", "05:00.0")}).differences, SizeIs(1));
}

TEST_F(confirm_test, what_was_not_known_is_no_difference_and_is_known_now) {
  machine_["02:00.0"].acs.reset();
  const auto importer = drive("nvme0n1", "04:00.0");
  const auto facts = facts_of(control().regions().front(), 1 << 20, policy::prefer);
  ASSERT_TRUE(negotiate(machine_.made, facts, {&importer, 1}).importers.front().unknown);
  const auto found = ask({importer});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_FALSE(found.joint.importers.at(0).unknown);
  EXPECT_THAT(found.joint.importers[0].missing, IsEmpty());
  EXPECT_EQ(found.joint.importers[0].word.route, route::p2p_bus);
}

TEST_F(confirm_test, what_cannot_be_opened_stays_predicted_and_says_so) {
  ON_CALL(module_.calls, open(StrEq("/dev/nvme0n1"), _, _)).WillByDefault(Return(-EACCES));
  const auto found = ask({drive("nvme0n1", "04:00.0"), drive("nvme1n1", "05:00.0")});
  EXPECT_EQ(found.joint.state, verdict_state::predicted);
  const auto& first = found.joint.importers.at(0);
  EXPECT_EQ(first.word.state, verdict_state::predicted);
  ASSERT_THAT(first.missing, SizeIs(1));
  EXPECT_THAT(first.missing[0].what, HasSubstr("nvme0n1"));
  EXPECT_THAT(first.missing[0].why, HasSubstr("cannot be opened"));
  EXPECT_THAT(first.missing[0].remedy, HasSubstr("group disk"));
  EXPECT_EQ(found.joint.importers.at(1).word.state, verdict_state::confirmed);
}

TEST_F(confirm_test, without_the_block_importer_a_drive_stays_predicted) {
  by_target_[near_fd] = [](auto& question) {
    add(question.verdict, DMABRIDGE_REASON_NO_IMPORTER);
    return -EOPNOTSUPP;
  };
  const auto found = ask({drive("nvme0n1", "04:00.0")});
  EXPECT_EQ(found.joint.importers.at(0).word.state, verdict_state::predicted);
  EXPECT_EQ(found.joint.importers[0].word.route, route::p2p_bus);
  ASSERT_THAT(found.joint.importers[0].missing, SizeIs(1));
  EXPECT_NE(found.joint.importers[0].missing[0].remedy, "");
}

TEST_F(confirm_test, a_function_is_asked_about_as_its_driver_attaches) {
  const importer_facts nic{
      .name = "mlx5_0", .kind = importer_kind::rdma, .functions = {at("04:00.0")}};
  const importer_facts old{.name = "card0",
                           .kind = importer_kind::gpu,
                           .functions = {at("04:00.0")},
                           .is_static = true,
                           .peer2peer = false,
                           .revocable = false};
  by_target_[-1] = [](auto& question) {
    return question.flags == DMABRIDGE_NEGOTIATE_STATIC
               ? deny(question, {DMABRIDGE_REASON_STATIC_IMPORTER})
               : grant(question);
  };
  const auto found = ask({nic, old});
  EXPECT_THAT(found.differences, IsEmpty());
  ASSERT_THAT(questions_, SizeIs(4));
  for (const auto& question : questions_) {
    EXPECT_EQ(question.kind, std::uint32_t{DMABRIDGE_NEGOTIATE_PCI});
    EXPECT_EQ(question.device, 0x400U);
    EXPECT_EQ(question.target_fd, -1);
  }
  EXPECT_EQ(questions_[0].flags,
            std::uint32_t{DMABRIDGE_NEGOTIATE_PEER2PEER | DMABRIDGE_NEGOTIATE_REVOCABLE});
  EXPECT_EQ(questions_[2].flags, std::uint32_t{DMABRIDGE_NEGOTIATE_STATIC});
}

TEST_F(confirm_test, a_driver_that_nobody_knows_stays_so) {
  importer_facts stranger{
      .name = "04:00.0", .kind = importer_kind::pci, .functions = {at("04:00.0")}};
  stranger.missing = {{"how driver foo attaches to a dma-buf", "", ""}};
  const auto found = ask({stranger});
  EXPECT_TRUE(found.joint.importers.at(0).unknown);
  EXPECT_THAT(found.joint.importers[0].missing, SizeIs(1));
}

TEST_F(confirm_test, who_waits_for_whom_goes_by_what_the_kernel_says) {
  module_.regions.front().flags |= DMABRIDGE_REGION_TAKES_UNREVOCABLE;
  importer_facts nic{.name = "nic0",
                     .kind = importer_kind::rdma,
                     .functions = {at("04:00.0")},
                     .driver = "bnxt_en",
                     .revocable = false,
                     .pins = true};
  const auto there = ask({nic}).joint.importers.at(0);
  EXPECT_EQ(there.word.state, verdict_state::confirmed);
  EXPECT_EQ(there.claim.consequence, consequence::revoke_waits);
  by_target_[-1] = [](auto& question) { return deny(question, {DMABRIDGE_REASON_DENIED}); };
  const auto denied = ask({nic}).joint.importers.at(0);
  EXPECT_EQ(denied.word.route, route::system);
  EXPECT_EQ(denied.claim.consequence, consequence::memory_stays);
}

TEST_F(confirm_test, software_cannot_be_asked_about) {
  const importer_facts software{.name = "rxe0",
                                .kind = importer_kind::rdma,
                                .pins_mapping = true,
                                .own = {{.code = DMABRIDGE_REASON_BY_CPU, .blocks_p2p = true}}};
  const auto found = ask({software});
  EXPECT_THAT(questions_, IsEmpty());
  EXPECT_EQ(found.joint.state, verdict_state::predicted);
  EXPECT_THAT(found.joint.importers.at(0).missing, SizeIs(1));
}

TEST_F(confirm_test, an_array_is_asked_about_leg_by_leg) {
  importer_facts array = drive("/dev/md0", "04:00.0");
  array.functions.push_back(at("05:00.0"));
  array.legs = {"nvme0n1", "nvme1n1"};
  array.own = {{.code = DMABRIDGE_REASON_STACKED_DEVICE, .blocks_p2p = true, .name = "md0"},
               {.code = DMABRIDGE_REASON_RAID_WRITE, .blocks_p2p = true, .name = "md0"}};
  by_target_[array_fd] = [](auto& question) {
    return deny(question, {DMABRIDGE_REASON_STACKED_DEVICE});
  };
  const auto found = ask({array});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_THAT(codes(found.joint.importers.at(0).word),
              ElementsAre(DMABRIDGE_REASON_STACKED_DEVICE, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED,
                          DMABRIDGE_REASON_RAID_WRITE));
}

// As those of a multipath disk are.
TEST_F(confirm_test, a_leg_without_a_node_is_asked_about_by_its_function) {
  importer_facts disk = drive("/dev/md0", "04:00.0");
  disk.functions.push_back(at("05:00.0"));
  disk.legs = {"nvme0c0n1", "nvme0c1n1"};
  disk.own = {{.code = DMABRIDGE_REASON_STACKED_DEVICE, .blocks_p2p = true, .name = "nvme0n1"}};
  by_target_[array_fd] = [](auto& question) {
    return deny(question, {DMABRIDGE_REASON_STACKED_DEVICE});
  };
  const auto found = ask({disk});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_THAT(found.joint.importers.at(0).missing, IsEmpty());
  EXPECT_THAT(codes(found.joint.importers[0].word),
              Contains(DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED));
}

// The module names both host bridges of a path, as it cannot see which of them is on the list.
TEST_F(confirm_test, a_host_bridge_that_is_on_the_list_is_not_blamed) {
  const auto blame = [](dmabridge_negotiate& question, const char* bridge) {
    add(question.verdict, DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED);
    auto& why = question.verdict.reasons[question.verdict.nr_reasons - 1];
    why.flags |= DMABRIDGE_REASON_HAS_DEVICE;
    why.device = at(bridge).pack();
  };
  by_target_[far_fd] = [&](auto& question) {
    blame(question, "40:00.0");
    blame(question, "00:00.0");
    return deny(question, {});
  };
  machine_.host_bridge("40:00.0", 0x8086, 0x09a2)
      .bridge("40:01.0", pci_port::root)
      .device("41:00.0", "40:01.0");
  auto there = drive("nvme1n1", "41:00.0");
  auto found = ask({there});
  EXPECT_THAT(found.differences, IsEmpty());
  const auto& reasons = found.joint.importers.at(0).word.reasons;
  ASSERT_THAT(reasons, SizeIs(1));
  EXPECT_EQ(reasons[0].device, at("00:00.0"));

  // Nothing is known of what a release lists that none is near to: both may be to blame.
  machine_.made.machine.kernel = "4.0";
  machine_["00:00.0"].device = 0x09a2;
  EXPECT_THAT(ask({there}).joint.importers.at(0).word.reasons, SizeIs(2));
}

TEST_F(confirm_test, a_buffer_is_asked_about_by_its_fd_and_a_new_one_by_its_region) {
  const auto memory = buffer::from_fd(fd(buffer_fd));
  ask({drive("nvme0n1", "04:00.0")}, policy::prefer, &memory);
  ASSERT_THAT(questions_, SizeIs(2));
  EXPECT_EQ(questions_[0].fd, buffer_fd);
  EXPECT_EQ(questions_[0].region_id, 0U);
  EXPECT_EQ(questions_[0].size, 0U);
  EXPECT_EQ(questions_[0].buffer_policy, 0U);
  questions_.clear();
  ask({drive("nvme0n1", "04:00.0")}, policy::forbid);
  EXPECT_EQ(questions_.at(0).fd, -1);
  EXPECT_EQ(questions_[0].region_id, 1U);
  EXPECT_EQ(questions_[0].size, 1U << 20);
  EXPECT_EQ(questions_[0].buffer_policy, std::uint32_t{DMABRIDGE_POLICY_FORBID});
}

TEST_F(confirm_test, an_older_module_is_an_error_that_says_so) {
  by_target_[near_fd] = [](auto&) { return -ENOTTY; };
  const auto failure = error_of([&] { ask({drive("nvme0n1", "04:00.0")}); });
  EXPECT_EQ(failure.code(), ENOTTY);
  EXPECT_THAT(failure.what(), HasSubstr("older than this library"));
}

TEST_F(confirm_test, more_than_a_region_has_is_an_error_with_the_kernels_reason) {
  by_target_[near_fd] = [](auto& question) {
    add(question.verdict, DMABRIDGE_REASON_NO_DEVICE_MEMORY);
    return -ENOSPC;
  };
  const auto failure = error_of([&] { ask({drive("nvme0n1", "04:00.0")}); });
  EXPECT_EQ(failure.kind(), error_kind::refused);
  EXPECT_THAT(failure.reasons(), SizeIs(1));
}

// --- memory of other exporters -------------------------------------------------------------------

class confirm_foreign : public confirm_test {
 protected:
  // An exporter of that name in fdinfo.
  auto ask_of(const char* exporter, std::initializer_list<importer_facts> importers)
      -> confirmation {
    const test::fake_exporter named(module_, exporter);
    const control opened;
    const auto memory = buffer::from_fd(fd(buffer_fd));
    facts_ = facts_of(memory, policy::prefer);
    return confirm(opened, memory, machine_.made, facts_,
                   std::span(importers.begin(), importers.size()));
  }

  static auto answer_foreign(dmabridge_negotiate& question, std::uint64_t value) -> int {
    add(question.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER);
    question.verdict.reasons[0].value = value;
    question.verdict.policy = question.policy;
    if (value != 0) return -EMEDIUMTYPE;
    if (question.policy == DMABRIDGE_POLICY_REQUIRE) return -EOPNOTSUPP;
    question.verdict.route = DMABRIDGE_ROUTE_SYSTEM;
    question.placement = DMABRIDGE_PLACEMENT_SYSTEM;
    return 0;
  }

  buffer_facts facts_{};
};

TEST_F(confirm_foreign, system_memory_that_a_binding_takes) {
  by_target_[near_fd] = [](auto& question) { return answer_foreign(question, 0); };
  const auto found = ask_of("udmabuf", {drive("nvme0n1", "04:00.0")});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_EQ(found.joint.state, verdict_state::confirmed);
  EXPECT_EQ(found.joint.placement, placement::system);
  EXPECT_EQ(found.joint.importers.at(0).word.route, route::system);
  EXPECT_THAT(codes(found.joint.importers[0].word), ElementsAre(DMABRIDGE_REASON_FOREIGN_BUFFER));
  ASSERT_THAT(questions_, SizeIs(1));
  EXPECT_EQ(questions_[0].fd, buffer_fd);
  EXPECT_EQ(questions_[0].kind, std::uint32_t{DMABRIDGE_NEGOTIATE_FILE});
  EXPECT_EQ(questions_[0].region_id + questions_[0].size + questions_[0].buffer_policy, 0U);
}

TEST_F(confirm_foreign, what_was_unknown_is_known_then_also_for_those_that_cannot_be_asked) {
  by_target_[near_fd] = [](auto& question) { return answer_foreign(question, 0); };
  const importer_facts nic{
      .name = "mlx5_0", .kind = importer_kind::rdma, .functions = {at("04:00.0")}};
  const auto found = ask_of("drm", {drive("nvme0n1", "04:00.0"), nic});
  EXPECT_THAT(found.differences, IsEmpty()) << "nothing was claimed";
  const auto& asked = found.joint.importers.at(0);
  EXPECT_EQ(asked.word.state, verdict_state::confirmed);
  EXPECT_EQ(asked.word.route, route::system);
  EXPECT_FALSE(asked.unknown);
  EXPECT_EQ(found.memory.kind, region_kind::system);
  EXPECT_TRUE(found.memory.has_pages);
  const auto& unasked = found.joint.importers.at(1);
  EXPECT_EQ(found.joint.state, verdict_state::predicted);
  EXPECT_EQ(unasked.word.state, verdict_state::predicted);
  EXPECT_EQ(unasked.word.route, route::system) << "the kernel saw that it is system memory";
  EXPECT_FALSE(unasked.claim.blocks_revoke()) << "by a device's driver, of which there is none";
  ASSERT_FALSE(unasked.missing.empty());
  EXPECT_THAT(unasked.missing.back().what, HasSubstr("the kernel's word on mlx5_0"));
  EXPECT_THAT(unasked.missing.back().why, HasSubstr("another exporter's"));
  EXPECT_THAT(questions_, SizeIs(1));
}

TEST_F(confirm_foreign, memory_that_no_binding_takes_bounces_if_the_cpu_can_map_it) {
  by_target_[near_fd] = [](auto& question) { return answer_foreign(question, EREMOTEIO); };
  const auto found = ask_of("udmabuf", {drive("nvme0n1", "04:00.0")});
  ASSERT_THAT(found.differences, SizeIs(1));
  EXPECT_EQ(found.differences[0].predicted.route, route::system);
  EXPECT_EQ(found.joint.importers.at(0).word.route, route::bounce);
  EXPECT_EQ(found.joint.importers[0].copies, 1U);

  const auto vfio = ask_of("vfio_pci_core", {drive("nvme0n1", "04:00.0")});
  EXPECT_THAT(vfio.differences, IsEmpty());
  EXPECT_EQ(vfio.joint.importers.at(0).word.route, route::none);
  EXPECT_EQ(vfio.joint.importers[0].word.state, verdict_state::confirmed);
}

TEST_F(confirm_foreign, require_is_refused_by_both) {
  by_target_[near_fd] = [](auto& question) { return answer_foreign(question, 0); };
  auto strict = drive("nvme0n1", "04:00.0");
  strict.policy = policy::require;
  const auto found = ask_of("udmabuf", {strict});
  EXPECT_THAT(found.differences, IsEmpty());
  EXPECT_EQ(found.joint.importers.at(0).word.route, route::none);
  EXPECT_EQ(found.joint.importers[0].word.state, verdict_state::confirmed);
}

TEST_F(confirm_foreign, an_older_module_refuses_all_that_is_not_its_own) {
  by_target_[near_fd] = [](auto& question) {
    add(question.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER);
    question.verdict.policy = question.policy;
    return -EMEDIUMTYPE;
  };
  const auto found = ask_of("udmabuf", {drive("nvme0n1", "04:00.0")});
  EXPECT_EQ(found.joint.importers.at(0).word.route, route::bounce);
  EXPECT_THAT(found.differences, SizeIs(1));
}

TEST_F(confirm_foreign, what_only_the_kernel_saw_is_among_the_reasons) {
  by_target_[near_fd] = [](auto& question) {
    answer_foreign(question, 0);
    add(question.verdict, DMABRIDGE_REASON_QUEUE_NO_P2P);
    return 0;
  };
  const auto found = ask_of("udmabuf", {drive("nvme0n1", "04:00.0")});
  EXPECT_THAT(codes(found.joint.importers.at(0).word), Contains(DMABRIDGE_REASON_QUEUE_NO_P2P));
}

TEST_F(confirm_foreign, without_the_block_importer_it_stays_predicted) {
  by_target_[near_fd] = [](auto& question) {
    add(question.verdict, DMABRIDGE_REASON_NO_IMPORTER);
    return -EOPNOTSUPP;
  };
  const auto found = ask_of("udmabuf", {drive("nvme0n1", "04:00.0")});
  EXPECT_EQ(found.joint.importers.at(0).word.state, verdict_state::predicted);
  EXPECT_EQ(found.joint.importers[0].word.route, route::system);
  EXPECT_THAT(found.joint.importers[0].missing, SizeIs(1));
}

// --- comparing what was read ---------------------------------------------------------------------

auto bytes(const char* text) -> std::vector<std::byte> {
  std::vector<std::byte> result;
  for (; *text != 0; ++text) result.push_back(static_cast<std::byte>(*text));
  return result;
}

TEST(comparison, equal_bytes_prove_the_route) {
  proof result;
  compare({bytes("abcd"), bytes("abcd"), bytes("abcd")}, 4096, result);
  EXPECT_EQ(result.compared, 4U);
  EXPECT_EQ(result.different, 0U);
  EXPECT_FALSE(result.first_difference);
}

TEST(comparison, every_byte_that_did_not_arrive_counts_and_the_first_is_named) {
  proof result;
  compare({bytes("abcd"), bytes("aXcY"), bytes("abcd")}, 4096, result);
  compare({bytes("ef"), bytes("ZZ"), bytes("ef")}, 8192, result);
  EXPECT_EQ(result.compared, 6U);
  EXPECT_EQ(result.different, 4U);
  EXPECT_EQ(result.first_difference, 4097U);
}

TEST(comparison, bytes_that_somebody_else_changed_are_left_out) {
  proof result;
  compare({bytes("abcd"), bytes("aBcX"), bytes("aBcd")}, 0, result);
  EXPECT_EQ(result.compared, 3U);
  EXPECT_EQ(result.different, 1U);
  EXPECT_EQ(result.first_difference, 3U);
}

TEST(comparison, what_not_all_have_is_left_out) {
  proof result;
  compare({bytes("abcd"), bytes("abcd"), bytes("ab")}, 0, result);
  EXPECT_EQ(result.compared, 2U);
}

TEST(comparison, the_filling_differs_by_place_and_by_buffer) {
  std::vector<std::byte> one(4099), other(4099);
  fill_for_proof(one, 1);
  fill_for_proof(other, 2);
  std::map<std::vector<std::byte>, int> words;
  for (std::size_t at = 0; at + 8 <= one.size(); at += 8) {
    ++words[{one.begin() + static_cast<std::ptrdiff_t>(at),
             one.begin() + static_cast<std::ptrdiff_t>(at + 8)}];
    ++words[{other.begin() + static_cast<std::ptrdiff_t>(at),
             other.begin() + static_cast<std::ptrdiff_t>(at + 8)}];
  }
  EXPECT_THAT(words, SizeIs(2 * (one.size() / 8)));
  EXPECT_FALSE(std::equal(one.end() - 3, one.end(), other.end() - 3)) << "the rest behind words";
}

}  // namespace
}  // namespace dmabridge

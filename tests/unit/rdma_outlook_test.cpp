// SPDX-License-Identifier: MIT
#include "rdma_outlook.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <string>

#include "error_of.hpp"
#include "fake_exporter.hpp"
#include "rdma_fixture.hpp"

namespace dmabridge {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t page = 4096;

auto at(unsigned bus, unsigned device = 0) -> pci_address {
  return pci_address::unpack(std::uint64_t{bus} << 8 | device << 3);
}

// The exporter of the buffer and a NIC below one switch, from where each reaches the other.
auto one_switch(const std::string& driver) -> topology {
  topology machine;
  machine.machine.architecture = "x86_64";
  machine.machine.config_p2pdma = true;
  machine.machine.memory_encryption = false;
  const auto add = [&](pci_address address, std::optional<pci_address> parent, pci_port port) {
    machine.functions.push_back(
        {.address = address,
         .parent = parent,
         .port = port,
         .acs = pci_acs{},
         .dma_mask_bits = 64,
         .memory_enabled = true,
         .bars = {{.number = 2, .start = std::uint64_t{1} << 40, .size = 64 * test::GiB}}});
  };
  add(at(0, 1), {}, pci_port::root);
  add(at(1), at(0, 1), pci_port::upstream);
  add(at(2, 0), at(1), pci_port::downstream);
  add(at(2, 1), at(1), pci_port::downstream);
  add(at(3), at(2, 0), pci_port::endpoint);
  add(at(5), at(2, 1), pci_port::endpoint);
  machine.functions.back().driver = driver;
  machine.rdma.push_back({.name = "nic0", .function = at(5), .driver = driver});
  return machine;
}

class rdma_outlook : public test::rdma_fixture {
 protected:
  // The module is of a time before the question, unless a test says otherwise.
  rdma_outlook() {
    module_.regions.front().move_limit = test::GiB;
    answer_negotiate([](dmabridge_negotiate&) { return -ENOTTY; });
  }

  void answer_negotiate(std::function<int(dmabridge_negotiate&)> answer) {
    ON_CALL(module_.calls, ioctl(test::control_fd, DMABRIDGE_IOCTL_NEGOTIATE, testing::_))
        .WillByDefault([answer](int, unsigned long, void* argument) {
          return answer(*static_cast<dmabridge_negotiate*>(argument));
        });
  }

  auto nic(const std::string& driver) const -> rdma_device {
    return {.name = "nic0", .function = at(5), .driver = driver};
  }
  auto ahead(const rdma_device& device, const registration_request& wanted, bool pinnable = false)
      -> registration_outlook {
    auto machine = one_switch(device.driver);
    machine.rdma.front().software = device.by_cpu;
    return look_ahead(machine, device, &control_, take(), wanted, pinnable);
  }

  const rdma_device rxe_{
      .name = "nic0", .driver = "rdma_rxe", .by_cpu = true, .dmabuf_error = EOPNOTSUPP};
};

TEST_F(rdma_outlook, software_device_gets_system_memory_and_every_reason) {
  const auto seen = ahead(rxe_, {.length = page});
  EXPECT_EQ(seen.method, registration_method::pinned_mapping);
  EXPECT_EQ(seen.word.state, verdict_state::predicted);
  EXPECT_EQ(seen.word.route, route::system);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_BY_CPU), nullptr);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_NO_DMABUF_MR), nullptr);
  EXPECT_TRUE(seen.blocks_moves);
  EXPECT_FALSE(seen.blocks_revoke || seen.unknown);
  EXPECT_THAT(holds_, testing::IsEmpty());
}

TEST_F(rdma_outlook, what_cannot_be_moved_to_system_memory_is_refused) {
  module_.regions.front().move_limit = 0;
  const auto seen = ahead(rxe_, {.length = page});
  EXPECT_EQ(seen.word.route, route::none);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_MOVE_LIMIT), nullptr);
}

TEST_F(rdma_outlook, what_would_be_refused_is_no_registration) {
  const auto seen = ahead(rxe_, {.length = page, .policy = policy::require});
  EXPECT_EQ(seen.word.route, route::none);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_BY_CPU), nullptr);
  EXPECT_FALSE(seen.blocks_moves || seen.blocks_revoke);
  EXPECT_EQ(seen.consequence, "nothing is registered");
}

TEST_F(rdma_outlook, pins_in_stolen_memory_are_quarantine_when_its_device_goes) {
  module_.regions.front().kind = DMABRIDGE_REGION_STOLEN;
  const auto seen = ahead(rxe_, {.length = page, .policy = policy::require});
  EXPECT_EQ(seen.word.route, route::stolen);
  EXPECT_TRUE(seen.blocks_moves);
  EXPECT_FALSE(seen.blocks_revoke);
  EXPECT_THAT(seen.consequence, HasSubstr("quarantine"));
}

TEST_F(rdma_outlook, hardware_without_dmabuf_mrs_does_not_need_the_cpu) {
  auto old = nic("mlx4_core");
  old.dmabuf_error = EOPNOTSUPP;
  const auto seen = ahead(old, {.length = page});
  EXPECT_EQ(seen.method, registration_method::pinned_mapping);
  EXPECT_EQ(seen.word.route, route::system);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_NO_DMABUF_MR), nullptr);
  EXPECT_EQ(has(seen.word.reasons, DMABRIDGE_REASON_BY_CPU), nullptr);
  EXPECT_FALSE(seen.unknown);
}

TEST_F(rdma_outlook, mlx5_follows_moves) {
  const auto seen = ahead(nic("mlx5_core"), {.length = page});
  EXPECT_EQ(seen.method, registration_method::dmabuf_mr);
  EXPECT_EQ(seen.word.route, route::p2p_bus);
  EXPECT_FALSE(seen.blocks_moves || seen.blocks_revoke || seen.unknown);
  EXPECT_THAT(seen.consequence, HasSubstr("follows"));
}

TEST_F(rdma_outlook, kernel_has_the_last_word_on_a_device_whose_driver_attaches) {
  std::vector<std::uint64_t> asked;
  answer_negotiate([&](dmabridge_negotiate& question) {
    asked.push_back(question.device);
    question.verdict.nr_reasons = 1;
    question.verdict.reasons[0].code = DMABRIDGE_REASON_DENIED;
    question.verdict.reasons[0].flags = DMABRIDGE_REASON_BLOCKS_P2P;
    if (question.policy == DMABRIDGE_POLICY_REQUIRE) return -EOPNOTSUPP;
    question.verdict.route = DMABRIDGE_ROUTE_SYSTEM;
    return 0;
  });
  EXPECT_EQ(ahead(nic("mlx5_core"), {.length = page}).word.state, verdict_state::confirmed);
  const auto seen = ahead(nic("mlx5_core"), {.length = page});
  EXPECT_EQ(seen.word.route, route::system);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_DENIED), nullptr);
  EXPECT_THAT(asked, testing::Each(test::nic_function));
}

TEST_F(rdma_outlook, module_that_does_not_know_the_question_leaves_the_prediction) {
  const auto seen = ahead(nic("mlx5_core"), {.length = page});
  EXPECT_EQ(seen.word.state, verdict_state::predicted);
  EXPECT_EQ(seen.word.route, route::p2p_bus);
}

TEST_F(rdma_outlook, question_that_fails_is_no_prediction) {
  answer_negotiate([](dmabridge_negotiate&) { return -ENOMEM; });
  EXPECT_EQ(test::error_of([&] { ahead(nic("mlx5_core"), {.length = page}); }).code(), ENOMEM);
}

TEST_F(rdma_outlook, device_whose_driver_does_not_attach_is_not_asked_about) {
  answer_negotiate([](dmabridge_negotiate&) -> int {
    ADD_FAILURE() << "asked";
    return -EIO;
  });
  EXPECT_EQ(ahead(rxe_, {.length = page}).word.state, verdict_state::predicted);
}

TEST_F(rdma_outlook, irdma_pins_and_can_be_stopped) {
  for (const auto* driver : {"i40e", "ice", "idpf"}) {
    const auto seen = ahead(nic(driver), {.length = page});
    EXPECT_EQ(seen.word.route, route::p2p_bus) << driver;
    EXPECT_TRUE(seen.blocks_moves) << driver;
    EXPECT_FALSE(seen.blocks_revoke || seen.unknown) << driver;
    EXPECT_THAT(seen.consequence, HasSubstr("peers' accesses fail")) << driver;
  }
}

TEST_F(rdma_outlook, efa_and_its_like_get_system_memory_which_blocks_no_revoke) {
  for (const auto* driver : {"efa", "bnxt_en", "mana", "ionic"}) {
    const auto seen = ahead(nic(driver), {.length = page});
    EXPECT_EQ(seen.word.route, route::system) << driver;
    EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_NOT_REVOCABLE), nullptr) << driver;
    EXPECT_TRUE(seen.blocks_moves) << driver;
    EXPECT_FALSE(seen.blocks_revoke) << driver;
    EXPECT_THAT(seen.consequence, HasSubstr("the registered memory stays")) << driver;
  }
}

// Said before, not found out when a driver cannot be unbound.
TEST_F(rdma_outlook, where_a_region_takes_them_they_block_its_drivers_end) {
  module_.regions.front().flags |= DMABRIDGE_REGION_TAKES_UNREVOCABLE;
  for (const auto* driver : {"efa", "bnxt_en", "mana", "ionic"}) {
    const auto seen = ahead(nic(driver), {.length = page});
    EXPECT_EQ(seen.word.route, route::p2p_bus) << driver;
    EXPECT_TRUE(seen.blocks_moves && seen.blocks_revoke) << driver;
    EXPECT_THAT(seen.consequence, HasSubstr(driver));
  }
}

// Of RAM nobody has to wait for: what it has of that is in quarantine.
TEST_F(rdma_outlook, they_block_no_end_where_the_memory_is_ram) {
  module_.regions.front().kind = DMABRIDGE_REGION_STOLEN;
  for (const auto* driver : {"efa", "bnxt_en", "mana", "ionic"}) {
    const auto seen = ahead(nic(driver), {.length = page});
    EXPECT_EQ(seen.word.route, route::stolen) << driver;
    EXPECT_TRUE(seen.blocks_moves) << driver;
    EXPECT_FALSE(seen.blocks_revoke) << driver;
    EXPECT_THAT(seen.consequence, HasSubstr("quarantine")) << driver;
  }
  EXPECT_THAT(ahead(nic("ice"), {.length = page}).consequence, HasSubstr("peers' accesses fail"));
}

TEST_F(rdma_outlook, driver_that_is_not_known_is_taken_for_the_worst) {
  const auto seen = ahead(nic("new_nic"), {.length = page});
  EXPECT_TRUE(seen.unknown);
  EXPECT_TRUE(seen.blocks_moves && seen.blocks_revoke);
  EXPECT_THAT(seen.consequence, HasSubstr("new_nic is none that is known here"));
}

TEST_F(rdma_outlook, buffer_of_another_exporter_is_unknown) {
  query_error_ = EMEDIUMTYPE;
  for (const auto& device : {nic("efa"), rxe_}) {
    const auto seen = ahead(device, {.length = page});
    EXPECT_TRUE(seen.unknown);
    EXPECT_NE(seen.word.route, route::none);
    EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_FOREIGN_BUFFER), nullptr);
    const auto required = ahead(device, {.length = page, .policy = policy::require});
    EXPECT_FALSE(required.unknown);
    EXPECT_EQ(required.word.route, route::none);
  }
}

TEST_F(rdma_outlook, what_another_exporter_lets_happen_is_said_with_an_if) {
  query_error_ = EMEDIUMTYPE;
  const auto seen = ahead(nic("efa"), {.length = page});
  EXPECT_TRUE(seen.blocks_moves && seen.blocks_revoke);
  EXPECT_THAT(seen.consequence, testing::StartsWith("if its exporter lets it be registered: "));
}

// As those of a udmabuf, whose memory everybody knows.
TEST_F(rdma_outlook, pages_that_the_owner_lets_pin_leave_nothing_to_be_tried) {
  query_error_ = EMEDIUMTYPE;
  const auto seen = ahead(rxe_, {.length = page}, true);
  EXPECT_FALSE(seen.unknown || seen.blocks_revoke);
  EXPECT_TRUE(seen.blocks_moves);
  EXPECT_EQ(seen.method, registration_method::pinned_mapping);
  EXPECT_EQ(seen.word.route, route::system);
  EXPECT_EQ(seen.word.state, verdict_state::predicted);
  EXPECT_THAT(seen.consequence, testing::StartsWith("the buffer stays in system memory"));
  // A driver that attaches is tried first, and its exporter may say no.
  EXPECT_TRUE(ahead(nic("efa"), {.length = page}, true).unknown);
  EXPECT_EQ(ahead(rxe_, {.length = page, .policy = policy::require}, true).word.route, route::none);
}

// What the rules of its exporter say is no guess.
TEST_F(rdma_outlook, system_memory_of_an_exporter_that_is_known_is_that) {
  query_error_ = EMEDIUMTYPE;
  const test::fake_exporter udmabuf(module_, "udmabuf");
  for (const auto* driver : {"mlx5_core", "efa", "new_nic"}) {
    const auto seen = ahead(nic(driver), {.length = page});
    EXPECT_EQ(seen.method, registration_method::dmabuf_mr) << driver;
    EXPECT_EQ(seen.word.route, route::system) << driver;
    EXPECT_FALSE(seen.unknown || seen.blocks_moves || seen.blocks_revoke) << driver;
    const auto* const why = has(seen.word.reasons, DMABRIDGE_REASON_FOREIGN_BUFFER);
    ASSERT_NE(why, nullptr) << driver;
    EXPECT_EQ(why->name, "udmabuf");
  }
  EXPECT_EQ(ahead(nic("mlx5_core"), {.length = page, .policy = policy::require}).word.route,
            route::none);
}

TEST_F(rdma_outlook, mapping_that_an_exporter_is_known_not_to_let_pin_is_refused) {
  query_error_ = EMEDIUMTYPE;
  const test::fake_exporter udmabuf(module_, "udmabuf");
  const auto seen = ahead(rxe_, {.length = page});
  EXPECT_FALSE(seen.unknown);
  EXPECT_EQ(seen.word.route, route::none);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_NOT_PINNABLE), nullptr);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_FOREIGN_BUFFER), nullptr);
  EXPECT_EQ(seen.consequence, "nothing is registered");
  // Unless its owner has another.
  EXPECT_EQ(ahead(rxe_, {.length = page}, true).word.route, route::system);
}

// An attachment brings no policy, so that the other way is the one to be tried.
TEST_F(rdma_outlook, forbidden_peer_to_peer_is_kept_by_a_mapping_of_anothers_memory) {
  query_error_ = EMEDIUMTYPE;
  const registration_request wanted{.length = page, .policy = policy::forbid};
  const auto seen = ahead(nic("mlx5_core"), wanted);
  EXPECT_EQ(seen.method, registration_method::pinned_mapping);
  EXPECT_TRUE(seen.unknown);
  const auto vouched = ahead(nic("mlx5_core"), wanted, true);
  EXPECT_FALSE(vouched.unknown);
  EXPECT_EQ(vouched.word.route, route::system);
  const test::fake_exporter udmabuf(module_, "udmabuf");
  EXPECT_EQ(ahead(nic("mlx5_core"), wanted).word.route, route::none);
}

TEST_F(rdma_outlook, what_is_not_known_of_an_exporter_is_said) {
  query_error_ = EMEDIUMTYPE;
  const test::fake_exporter nobody(module_, "nobody");
  const auto seen = ahead(nic("mlx5_core"), {.length = page});
  EXPECT_TRUE(seen.unknown);
  EXPECT_EQ(seen.word.route, route::unproved);
  const auto* const gap = has(seen.word.reasons, DMABRIDGE_REASON_PATH_UNKNOWN);
  ASSERT_NE(gap, nullptr);
  EXPECT_THAT(gap->evidence(), HasSubstr("exporter nobody"));
}

TEST_F(rdma_outlook, revoked_buffer_is_none) {
  revoked_ = true;
  const auto seen = ahead(rxe_, {.length = page});
  EXPECT_EQ(seen.word.route, route::none);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_REVOKED), nullptr);
  EXPECT_FALSE(seen.unknown || seen.blocks_moves || seen.blocks_revoke);
  EXPECT_EQ(seen.consequence, "nothing is registered");
}

TEST_F(rdma_outlook, buffer_whose_region_is_gone_is_none_either) {
  const auto memory = take();
  const auto machine = one_switch("mlx5_core");
  module_.regions.clear();
  ON_CALL(module_.calls, ioctl(test::control_fd, DMABRIDGE_IOCTL_QUERY, testing::_))
      .WillByDefault([](int, unsigned long, void* argument) {
        auto& raw = *static_cast<dmabridge_query*>(argument);
        raw.region_id = 77;
        raw.policy = DMABRIDGE_POLICY_PREFER;
        return 0;
      });
  const auto seen =
      look_ahead(machine, nic("mlx5_core"), &control_, memory, {.length = page}, false);
  EXPECT_EQ(seen.word.route, route::none);
  EXPECT_NE(has(seen.word.reasons, DMABRIDGE_REASON_REVOKED), nullptr);
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/rdma_importer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "error_of.hpp"
#include "quiet_owner.hpp"
#include "rdma_fixture.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using test::GiB;
using test::hold_fd;
using test::MiB;
using test::rdma_fixture;
using test::watch_fd;
using testing::_;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Return;

constexpr std::uint64_t page = 4096;
constexpr int all_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC |
                           IBV_ACCESS_RELAXED_ORDERING;

static_assert(std::is_nothrow_move_constructible_v<memory_region> &&
              std::is_nothrow_move_assignable_v<memory_region> &&
              !std::is_copy_constructible_v<memory_region>);
static_assert(std::is_nothrow_move_constructible_v<rdma_importer> &&
              !std::is_copy_constructible_v<rdma_importer>);

// --- a device with dma-buf MRs ----------------------------------------------------------------

class dmabuf_mr : public rdma_fixture {
 protected:
  auto enroll(const registration_request& wanted) -> memory_region {
    return importer_.register_memory(take(), wanted);
  }
  auto refusal_of(const registration_request& wanted) -> error {
    return error_of([&] { enroll(wanted); });
  }

  const rdma_importer importer_{&provider_.domain, &control_};
};

TEST_F(dmabuf_mr, verb_is_given_what_was_asked_for) {
  ibv_mr made{};
  made.lkey = 0x11;
  made.rkey = 0x22;
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr(&provider_.domain, 3 * page + 5, 100, 7 * page + 5,
                                             buffer_fd, all_access, _))
      .WillOnce(Return(&made));
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  EXPECT_CALL(provider_.calls, dereg_mr(&made)).Times(1);
  const auto region =
      enroll({.offset = 3 * page + 5, .length = 100, .iova = 7 * page + 5, .access = all_access});
  EXPECT_EQ(region.method(), registration_method::dmabuf_mr);
  EXPECT_EQ(region.native(), &made);
  EXPECT_EQ(region.lkey(), 0x11U);
  EXPECT_EQ(region.rkey(), 0x22U);
  EXPECT_EQ(region.address(), 7 * page + 5);
  EXPECT_EQ(region.length(), 100U);
  EXPECT_EQ(region.generation(), 7U);
}

TEST_F(dmabuf_mr, address_is_the_offset_unless_told) {
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1}, MiB - page, MiB - 1}) {
    EXPECT_CALL(provider_.calls, reg_dmabuf_mr(_, offset, 1, offset, buffer_fd, _, _));
    EXPECT_EQ(enroll({.offset = offset, .length = 1}).address(), offset);
  }
}

TEST_F(dmabuf_mr, more_than_4_gib_arrive_whole) {
  module_.buffer_size = static_cast<std::int64_t>(6 * GiB);
  EXPECT_CALL(provider_.calls,
              reg_dmabuf_mr(_, GiB + page, 5 * GiB - page, 9 * GiB + page, buffer_fd, _, _));
  const auto region =
      enroll({.offset = GiB + page, .length = 5 * GiB - page, .iova = 9 * GiB + page});
  EXPECT_EQ(region.length(), 5 * GiB - page);
  EXPECT_EQ(region.address(), 9 * GiB + page);
}

TEST_F(dmabuf_mr, request_that_makes_no_sense_reaches_nobody) {
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).Times(0);
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  for (const registration_request& wanted :
       {registration_request{.length = 0}, registration_request{.length = MiB + 1},
        registration_request{.offset = MiB, .length = 1},
        registration_request{.length = 1, .iova = 1},
        registration_request{.length = 1, .access = IBV_ACCESS_REMOTE_WRITE},
        registration_request{.length = 1, .access = IBV_ACCESS_ON_DEMAND}}) {
    EXPECT_EQ(refusal_of(wanted).kind(), error_kind::usage);
  }
  EXPECT_THAT(holds_, IsEmpty());
}

TEST_F(dmabuf_mr, verdict_is_that_of_its_own_attachment) {
  attach(0x000600, DMABRIDGE_ROUTE_SYSTEM);
  attach(test::nic_function, DMABRIDGE_ROUTE_P2P_BUS);
  attach(test::nic_function, DMABRIDGE_ROUTE_NONE, DMABRIDGE_USER_STATIC);
  const auto region = enroll({.length = page});
  EXPECT_EQ(region.verdict().route, route::p2p_bus);
  EXPECT_EQ(region.verdict().state, verdict_state::confirmed);
  EXPECT_EQ(region.verdict().policy, policy::prefer);
}

TEST_F(dmabuf_mr, without_an_attachment_to_be_seen_nothing_is_confirmed) {
  attach(0x000600, DMABRIDGE_ROUTE_P2P_BUS);
  const auto region = enroll({.length = page});
  EXPECT_EQ(region.verdict().route, route::unproved);
  EXPECT_EQ(region.verdict().state, verdict_state::predicted);
}

TEST_F(dmabuf_mr, device_that_is_no_pci_function_takes_nobody_elses_verdict) {
  place_ = "../../devices/virtual/infiniband/nic0";
  const rdma_importer importer(&provider_.domain, &control_);
  attach(std::nullopt, DMABRIDGE_ROUTE_SYSTEM);
  const auto region = importer.register_memory(take(), {.length = page});
  EXPECT_EQ(region.verdict().route, route::unproved);
  EXPECT_EQ(region.verdict().state, verdict_state::predicted);
  last_refused_.kind = DMABRIDGE_USER_DYNAMIC;
  last_refused_.verdict.nr_reasons = 1;
  last_refused_.verdict.reasons[0].code = DMABRIDGE_REASON_NOT_REVOCABLE;
  provider_.dmabuf_error = EOPNOTSUPP;
  EXPECT_EQ(has(importer.register_memory(take(), {.length = page}).verdict().reasons,
                DMABRIDGE_REASON_NOT_REVOCABLE),
            nullptr);
}

// An attachment brings no policy along: a hold makes it so before, for as long as the MR is there.
TEST_F(dmabuf_mr, what_is_demanded_is_held_from_before_to_after) {
  for (const auto& [wanted, where] : {std::pair(policy::require, DMABRIDGE_PLACEMENT_DEVICE),
                                      std::pair(policy::forbid, DMABRIDGE_PLACEMENT_SYSTEM)}) {
    holds_.clear();
    {
      const testing::InSequence order;
      EXPECT_CALL(provider_.calls, reg_dmabuf_mr).WillOnce([&](auto&&...) {
        EXPECT_THAT(holds_, ElementsAre(std::uint32_t{where}));
        return provider_.next();
      });
      EXPECT_CALL(provider_.calls, dereg_mr).WillOnce(Return(0));
      EXPECT_CALL(module_.calls, close(hold_fd)).Times(1);
    }
    enroll({.length = page, .policy = wanted});
  }
}

TEST_F(dmabuf_mr, under_prefer_the_exporter_decides_alone) {
  enroll({.length = page});
  EXPECT_THAT(holds_, IsEmpty());
}

TEST_F(dmabuf_mr, buffers_policy_counts_too) {
  policy_ = policy::forbid;
  const auto region = enroll({.length = page});
  EXPECT_THAT(holds_, ElementsAre(std::uint32_t{DMABRIDGE_PLACEMENT_SYSTEM}));
  EXPECT_EQ(region.verdict().policy, policy::forbid);
  const auto conflict = refusal_of({.length = page, .policy = policy::require});
  EXPECT_EQ(conflict.kind(), error_kind::refused);
  const auto* why = has(conflict.reasons(), DMABRIDGE_REASON_POLICY_CONFLICT);
  ASSERT_NE(why, nullptr);
  EXPECT_EQ(why->value, std::uint64_t{DMABRIDGE_POLICY_FORBID} << 32 | DMABRIDGE_POLICY_REQUIRE);
}

TEST_F(dmabuf_mr, revoked_buffer_is_refused_before_anything_is_tried) {
  revoked_ = true;
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).Times(0);
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  const auto failure = refusal_of({.length = page});
  EXPECT_EQ(failure.kind(), error_kind::refused);
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_REVOKED), nullptr);
}

// Every errno is told, with what the exporter has on record of this device; and the other way is
// tried.
TEST_F(dmabuf_mr, refused_by_the_driver_it_goes_by_a_pinned_mapping) {
  last_refused_.kind = DMABRIDGE_USER_DYNAMIC;
  last_refused_.flags = DMABRIDGE_USER_HAS_DEVICE;
  last_refused_.device = test::nic_function;
  last_refused_.verdict.nr_reasons = 1;
  last_refused_.verdict.reasons[0].code = DMABRIDGE_REASON_NOT_REVOCABLE;
  for (const auto code : {EOPNOTSUPP, EINVAL, ENOMEM, EREMOTEIO, ENODEV, EBUSY}) {
    provider_.dmabuf_error = code;
    EXPECT_CALL(provider_.calls, reg_mr).Times(1);
    const auto region = enroll({.length = page});
    EXPECT_EQ(region.method(), registration_method::pinned_mapping);
    EXPECT_EQ(region.verdict().route, route::system);
    const auto& reasons = region.verdict().reasons;
    const auto* why = has(reasons, DMABRIDGE_REASON_DMABUF_MR_REFUSED);
    ASSERT_NE(why, nullptr);
    EXPECT_EQ(why->value, static_cast<std::uint64_t>(code));
    EXPECT_EQ(why->name, "nic0");
    EXPECT_NE(has(reasons, DMABRIDGE_REASON_NOT_REVOCABLE), nullptr);
  }
}

TEST_F(dmabuf_mr, another_devices_refusal_is_not_this_ones) {
  last_refused_.kind = DMABRIDGE_USER_DYNAMIC;
  last_refused_.flags = DMABRIDGE_USER_HAS_DEVICE;
  last_refused_.device = 0x000600;
  last_refused_.verdict.nr_reasons = 1;
  last_refused_.verdict.reasons[0].code = DMABRIDGE_REASON_NOT_REVOCABLE;
  provider_.dmabuf_error = EOPNOTSUPP;
  EXPECT_EQ(has(enroll({.length = page}).verdict().reasons, DMABRIDGE_REASON_NOT_REVOCABLE),
            nullptr);
}

TEST_F(dmabuf_mr, what_requires_p2p_is_not_served_by_system_memory) {
  provider_.dmabuf_error = EOPNOTSUPP;
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  const auto failure = refusal_of({.length = page, .policy = policy::require});
  EXPECT_EQ(failure.kind(), error_kind::refused);
  EXPECT_EQ(failure.details().policy, policy::require);
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_DMABUF_MR_REFUSED), nullptr);
  EXPECT_THAT(holds_, ElementsAre(std::uint32_t{DMABRIDGE_PLACEMENT_DEVICE}));
}

TEST_F(dmabuf_mr, hold_that_is_refused_is_a_reason) {
  refused_hold_ = DMABRIDGE_PLACEMENT_DEVICE;
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).Times(0);
  const auto failure = refusal_of({.length = page, .policy = policy::require});
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_HELD), nullptr);
}

TEST_F(dmabuf_mr, buffer_of_another_exporter_is_left_to_that_one) {
  query_error_ = EMEDIUMTYPE;
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr(_, 0, page, 0, buffer_fd, _, _));
  const auto region = enroll({.length = page});
  EXPECT_EQ(region.method(), registration_method::dmabuf_mr);
  EXPECT_EQ(region.verdict().state, verdict_state::predicted);
  EXPECT_EQ(region.verdict().route, route::unproved);
  EXPECT_NE(has(region.verdict().reasons, DMABRIDGE_REASON_FOREIGN_BUFFER), nullptr);
  EXPECT_EQ(region.generation(), 0U);
  EXPECT_TRUE(region.current());
}

TEST_F(dmabuf_mr, nobody_vouches_for_another_exporter) {
  query_error_ = EMEDIUMTYPE;
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).Times(0);
  const auto failure = refusal_of({.length = page, .policy = policy::require});
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_FOREIGN_BUFFER), nullptr);
  // Pins by a mapping are no P2P.
  EXPECT_EQ(enroll({.length = page, .policy = policy::forbid}).method(),
            registration_method::pinned_mapping);
}

TEST_F(dmabuf_mr, without_the_module_every_buffer_is_another_exporters) {
  const rdma_importer alone(&provider_.domain);
  const auto region = alone.register_memory(take(), {.length = page});
  EXPECT_EQ(region.method(), registration_method::dmabuf_mr);
  EXPECT_EQ(region.verdict().state, verdict_state::predicted);
}

TEST_F(dmabuf_mr, query_that_fails_is_no_foreign_buffer) {
  query_error_ = EIO;
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).Times(0);
  EXPECT_EQ(refusal_of({.length = page}).code(), EIO);
}

// --- a device without -------------------------------------------------------------------------

class pinned : public rdma_fixture {
 protected:
  pinned() : rdma_fixture(test::rxe_vendor, EOPNOTSUPP) {}

  auto enroll(const registration_request& wanted) -> memory_region {
    return importer_.register_memory(take(), wanted);
  }
  auto refusal_of(const registration_request& wanted) -> error {
    return error_of([&] { enroll(wanted); });
  }
  static auto at(std::uint64_t offset) -> void* { return static_cast<std::byte*>(mapped) + offset; }
  void lie_in(region_kind kind) { module_.regions.front().kind = static_cast<std::uint32_t>(kind); }

  const rdma_importer importer_{&provider_.domain, &control_};
};

TEST_F(pinned, held_mapped_registered_and_back_in_the_reverse_order) {
  const testing::InSequence order;
  EXPECT_CALL(module_.calls, mmap(MiB, PROT_READ | PROT_WRITE, buffer_fd, _))
      .WillOnce([&](std::size_t, int, int, void** result) {
        EXPECT_THAT(holds_, ElementsAre(std::uint32_t{DMABRIDGE_PLACEMENT_SYSTEM}));
        *result = mapped;
        return 0;
      });
  EXPECT_CALL(provider_.calls, reg_mr(&provider_.domain, at(5 * page + 9), 77, 5 * page + 9,
                                      IBV_ACCESS_LOCAL_WRITE, _));
  EXPECT_CALL(provider_.calls, dereg_mr).WillOnce(Return(0));
  EXPECT_CALL(module_.calls, munmap(mapped, MiB)).WillOnce(Return(0));
  EXPECT_CALL(module_.calls, close(hold_fd)).WillOnce(Return(0));
  const auto region = enroll({.offset = 5 * page + 9, .length = 77});
  EXPECT_EQ(region.method(), registration_method::pinned_mapping);
  EXPECT_EQ(region.address(), 5 * page + 9);
}

TEST_F(pinned, interior_unaligned_and_last_bytes_are_where_they_are) {
  for (const auto& [offset, length] :
       {std::pair(page, page), std::pair(page + 1, std::uint64_t{1}), std::pair(MiB - page, page),
        std::pair(MiB - 1, std::uint64_t{1}), std::pair(std::uint64_t{0}, MiB)}) {
    EXPECT_CALL(provider_.calls, reg_mr(_, at(offset), length, 3 * GiB + offset, _, _));
    EXPECT_EQ(enroll({.offset = offset, .length = length, .iova = 3 * GiB + offset}).address(),
              3 * GiB + offset);
  }
}

TEST_F(pinned, more_than_4_gib_arrive_whole) {
  module_.buffer_size = static_cast<std::int64_t>(6 * GiB);
  EXPECT_CALL(provider_.calls, reg_mr(_, at(GiB + 1), 5 * GiB - 1, GiB + 1, _, _));
  EXPECT_EQ(enroll({.offset = GiB + 1, .length = 5 * GiB - 1}).length(), 5 * GiB - 1);
}

TEST_F(pinned, who_only_reads_gets_a_mapping_to_read) {
  EXPECT_CALL(module_.calls, mmap(MiB, PROT_READ, buffer_fd, _));
  EXPECT_CALL(provider_.calls, reg_mr(_, _, _, _, IBV_ACCESS_REMOTE_READ, _));
  enroll({.length = page, .access = IBV_ACCESS_REMOTE_READ});
}

TEST_F(pinned, verdict_says_why_it_is_system_memory) {
  const auto region = enroll({.length = page});
  EXPECT_EQ(region.verdict().route, route::system);
  EXPECT_EQ(region.verdict().state, verdict_state::confirmed) << "the hold is the kernel's word";
  const auto* lacks = has(region.verdict().reasons, DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR);
  ASSERT_NE(lacks, nullptr);
  EXPECT_EQ(lacks->value, static_cast<std::uint64_t>(EOPNOTSUPP));
  const auto* by_cpu = has(region.verdict().reasons, DMABRIDGE_REASON_BY_CPU);
  ASSERT_NE(by_cpu, nullptr);
  EXPECT_EQ(by_cpu->name, "rdma_rxe");
}

TEST_F(pinned, required_on_the_device_it_is_refused_and_nothing_happens) {
  EXPECT_CALL(module_.calls, mmap).Times(0);
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  const auto failure = refusal_of({.length = page, .policy = policy::require});
  EXPECT_EQ(failure.kind(), error_kind::refused);
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_BY_CPU), nullptr);
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR), nullptr);
  EXPECT_THAT(holds_, IsEmpty());
}

TEST_F(pinned, stolen_memory_is_taken_where_it_is) {
  lie_in(region_kind::stolen);
  for (const auto wanted : {policy::prefer, policy::require}) {
    holds_.clear();
    const auto region = enroll({.length = page, .policy = wanted});
    EXPECT_THAT(holds_, ElementsAre(std::uint32_t{DMABRIDGE_PLACEMENT_DEVICE}));
    EXPECT_EQ(region.verdict().route, route::stolen);
    EXPECT_THAT(region.verdict().reasons, IsEmpty());
  }
  holds_.clear();
  const auto region = enroll({.length = page, .policy = policy::forbid});
  EXPECT_THAT(holds_, ElementsAre(std::uint32_t{DMABRIDGE_PLACEMENT_SYSTEM}));
  EXPECT_EQ(region.verdict().route, route::system);
  EXPECT_NE(has(region.verdict().reasons, DMABRIDGE_REASON_POLICY_FORBID), nullptr);
}

TEST_F(pinned, stolen_memory_that_others_moved_away_is_taken_from_there) {
  lie_in(region_kind::stolen);
  refused_hold_ = DMABRIDGE_PLACEMENT_DEVICE;
  const auto region = enroll({.length = page});
  EXPECT_EQ(region.verdict().route, route::system);
  EXPECT_NE(has(region.verdict().reasons, DMABRIDGE_REASON_HELD), nullptr);
  EXPECT_EQ(refusal_of({.length = page, .policy = policy::require}).kind(), error_kind::refused);
}

TEST_F(pinned, region_of_system_memory_has_no_device_to_require) {
  lie_in(region_kind::system);
  EXPECT_EQ(enroll({.length = page}).verdict().route, route::system);
  const auto failure = refusal_of({.length = page, .policy = policy::require});
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_SYSTEM_REGION), nullptr);
}

TEST_F(pinned, buffer_that_cannot_move_says_so) {
  refused_hold_ = DMABRIDGE_PLACEMENT_SYSTEM;
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  const auto failure = refusal_of({.length = page});
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_HELD), nullptr);
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_BY_CPU), nullptr);
}

TEST_F(pinned, mapping_that_cannot_be_pinned_names_its_exporter) {
  query_error_ = EMEDIUMTYPE;
  ON_CALL(module_.calls, open(testing::StartsWith("/proc/self/fdinfo/"), _, _))
      .WillByDefault(Return(140));
  EXPECT_CALL(module_.calls, read(140, _, _))
      .WillOnce([](int, void* to, std::size_t) {
        constexpr std::string_view text = "pos:\t0\nexp_name:\tudmabuf\nsize:\t4096\n";
        std::memcpy(to, text.data(), text.size());
        return static_cast<std::int64_t>(text.size());
      })
      .WillRepeatedly(Return(0));
  EXPECT_CALL(provider_.calls, reg_mr).WillOnce([](auto&&... arguments) -> ibv_mr* {
    std::get<5>(std::tie(arguments...)) = EFAULT;
    return nullptr;
  });
  const auto failure = refusal_of({.length = page});
  const auto* why = has(failure.reasons(), DMABRIDGE_REASON_NOT_PINNABLE);
  ASSERT_NE(why, nullptr);
  EXPECT_EQ(why->value, static_cast<std::uint64_t>(EFAULT));
  const auto* foreign = has(failure.reasons(), DMABRIDGE_REASON_FOREIGN_BUFFER);
  ASSERT_NE(foreign, nullptr);
  EXPECT_EQ(foreign->name, "udmabuf");
}

TEST_F(pinned, buffer_without_a_mapping_is_refused) {
  EXPECT_CALL(module_.calls, mmap).WillOnce(Return(-ENODEV));
  EXPECT_CALL(provider_.calls, reg_mr).Times(0);
  const auto failure = refusal_of({.length = page});
  EXPECT_NE(has(failure.reasons(), DMABRIDGE_REASON_NOT_PINNABLE), nullptr);
}

// The soft limit of this process, as it was afterwards; and without the right to ignore it.
class pin_limit_of_64_kib {
 public:
  pin_limit_of_64_kib() {
    ::getrlimit(RLIMIT_MEMLOCK, &before_);
    rlimit low = before_;
    low.rlim_cur = 64 * 1024;
    ::setrlimit(RLIMIT_MEMLOCK, &low);
  }
  ~pin_limit_of_64_kib() { ::setrlimit(RLIMIT_MEMLOCK, &before_); }

 private:
  rlimit before_{};
};

// As another user, who has no capability, in a process of its own. `checks` gives the exit status.
auto status_as_nobody(const auto& checks) -> int {
  const auto child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::setresuid(65534, 65534, 65534) != 0) ::_exit(99);
    ::_exit(checks());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

TEST_F(pinned, memory_limit_is_told_with_its_value) {
  const pin_limit_of_64_kib limit;
  ON_CALL(provider_.calls, reg_mr).WillByDefault([](auto&&... arguments) -> ibv_mr* {
    std::get<5>(std::tie(arguments...)) = ENOMEM;
    return nullptr;
  });
  EXPECT_EQ(status_as_nobody([&] {
              const rdma_importer importer(&provider_.domain, &control_);
              try {
                importer.register_memory(take(), {.length = MiB});
              } catch (const error& failure) {
                const auto* why = has(failure.reasons(), DMABRIDGE_REASON_PIN_LIMIT);
                return why != nullptr && why->value == 64 * 1024 ? 0 : 1;
              }
              return 2;
            }),
            0);
}

TEST_F(pinned, no_memory_without_a_limit_is_not_the_limits_fault) {
  // Whoever runs this: as root there is no limit, else there may be none.
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_MEMLOCK, &limit), 0);
  if (limit.rlim_cur != RLIM_INFINITY && ::geteuid() != 0) GTEST_SKIP() << "memory is limited here";
  EXPECT_CALL(provider_.calls, reg_mr).WillOnce([](auto&&... arguments) -> ibv_mr* {
    std::get<5>(std::tie(arguments...)) = ENOMEM;
    return nullptr;
  });
  const auto failure = refusal_of({.length = page});
  EXPECT_EQ(has(failure.reasons(), DMABRIDGE_REASON_PIN_LIMIT), nullptr);
  const auto* why = has(failure.reasons(), DMABRIDGE_REASON_NOT_PINNABLE);
  ASSERT_NE(why, nullptr);
  EXPECT_EQ(why->value, static_cast<std::uint64_t>(ENOMEM));
}

TEST_F(pinned, failed_registration_leaves_nothing) {
  EXPECT_CALL(provider_.calls, reg_mr).WillOnce([](auto&&... arguments) -> ibv_mr* {
    std::get<5>(std::tie(arguments...)) = EFAULT;
    return nullptr;
  });
  EXPECT_CALL(provider_.calls, dereg_mr).Times(0);
  EXPECT_CALL(module_.calls, munmap(mapped, MiB)).Times(1);
  EXPECT_CALL(module_.calls, close(hold_fd)).Times(1);
  refusal_of({.length = page});
}

TEST_F(pinned, registration_that_cannot_be_watched_is_undone) {
  ON_CALL(module_.calls, ioctl(test::control_fd, DMABRIDGE_IOCTL_WATCH, _))
      .WillByDefault(Return(-ENODEV));
  EXPECT_CALL(provider_.calls, dereg_mr).Times(1);
  EXPECT_CALL(module_.calls, close(hold_fd)).Times(1);
  EXPECT_THAT(refusal_of({.length = page}).what(), HasSubstr("revoked already"));
}

// siw names memory by the mapping's own addresses.
TEST_F(pinned, siw_is_given_the_mappings_address) {
  provider_.vendor = test::siw_vendor;
  const rdma_importer siw(&provider_.domain, &control_);
  const auto address = reinterpret_cast<std::uintptr_t>(at(page));
  EXPECT_CALL(provider_.calls, reg_mr(_, at(page), page, address, _, _));
  EXPECT_EQ(siw.register_memory(take(), {.offset = page, .length = page}).address(), address);
  EXPECT_EQ(error_of([&] { siw.register_memory(take(), {.length = page, .iova = 0}); }).kind(),
            error_kind::usage);
}

// --- the MR's life ----------------------------------------------------------------------------

TEST_F(pinned, one_mr_is_deregistered_once_wherever_it_goes) {
  {
    auto first = enroll({.length = page});
    auto second = std::move(first);
    EXPECT_FALSE(first);
    EXPECT_TRUE(second);
    auto third = enroll({.length = page});
    third = std::move(second);
    EXPECT_EQ(provider_.deregistered, 1U) << "the one that was assigned to";
  }
  EXPECT_EQ(provider_.deregistered, 2U);
}

TEST_F(pinned, deregistered_it_is_gone_at_once) {
  EXPECT_CALL(module_.calls, close(hold_fd)).Times(1);
  auto region = enroll({.length = page});
  region.deregister();
  EXPECT_EQ(provider_.deregistered, 1U);
  EXPECT_FALSE(region);
  region.deregister();
  EXPECT_EQ(provider_.deregistered, 1U);
}

TEST_F(pinned, device_that_does_not_let_go_keeps_all_as_it_was) {
  auto region = enroll({.length = page});
  EXPECT_CALL(provider_.calls, dereg_mr).WillOnce(Return(EBUSY)).WillOnce(Return(0));
  EXPECT_CALL(module_.calls, munmap(mapped, MiB)).Times(1);
  const auto failure = error_of([&] { region.deregister(); });
  EXPECT_EQ(failure.code(), EBUSY);
  EXPECT_TRUE(region);
  EXPECT_TRUE(region.current());
}

TEST_F(pinned, it_is_current_until_the_buffer_has_an_event) {
  const auto region = enroll({.length = page});
  EXPECT_TRUE(region.current());
  for (const auto seen : {POLLIN, POLLHUP}) {
    EXPECT_CALL(module_.calls, poll(watch_fd, POLLIN, 0, _))
        .WillOnce([=](int, short, int, short& events) {
          events = static_cast<short>(seen);
          return 1;
        });
    EXPECT_FALSE(region.current());
  }
}

TEST_F(pinned, buffer_object_may_go_before_its_mr) {
  auto memory = take();
  auto region = importer_.register_memory(memory, {.length = page});
  EXPECT_CALL(provider_.calls, dereg_mr).Times(0);
  {
    const auto gone = std::move(memory);
  }
  EXPECT_TRUE(region.current());
  testing::Mock::VerifyAndClearExpectations(&provider_.calls);
}

TEST_F(pinned, forked_child_leaves_the_parents_mr_alone) {
  auto region = enroll({.length = page});
  const auto child = ::fork();
  if (child == 0) {
    const auto was_current = region.current();
    {
      const auto gone = std::move(region);
    }
    auto status = provider_.deregistered == 0 && !was_current ? 0 : 1;
    try {
      enroll({.length = page});
      status |= 2;
    } catch (const error& failure) {
      if (failure.kind() != error_kind::usage) status |= 4;
    }
    ::_exit(status);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(region.current());
}

// --- memory of other APIs ----------------------------------------------------------------------

// Of another exporter: the module does not know it.
class exported_memory_mr : public rdma_fixture {
 protected:
  explicit exported_memory_mr(std::uint32_t vendor = test::rxe_vendor, int no_dmabuf = EOPNOTSUPP)
      : rdma_fixture(vendor, no_dmabuf) {
    query_error_ = EMEDIUMTYPE;
  }
  auto share(std::span<std::byte> pinnable) -> exported_memory {
    return {take(), 2 * page, 4 * page, std::make_unique<test::quiet_owner>(pinnable)};
  }

  const rdma_importer importer_{&provider_.domain, &control_};
  std::vector<std::byte> pages_ = std::vector<std::byte>(4 * page);
};

TEST_F(exported_memory_mr, pages_that_the_owner_lets_pin_are_pinned) {
  const auto memory = share(pages_);
  EXPECT_CALL(module_.calls, mmap).Times(0);
  EXPECT_CALL(provider_.calls,
              reg_mr(&provider_.domain, pages_.data() + page + 5, 100, _, all_access, _));
  const auto region =
      importer_.register_memory(memory, {.offset = page + 5, .length = 100, .access = all_access});
  EXPECT_EQ(region.method(), registration_method::pinned_mapping);
  EXPECT_EQ(region.verdict().route, route::system);
  EXPECT_NE(has(region.verdict().reasons, DMABRIDGE_REASON_FOREIGN_BUFFER), nullptr);
}

TEST_F(exported_memory_mr, outlook_knows_what_the_owner_lets_pin_and_the_exported_range) {
  const registration_request wanted{.offset = 3 * page, .length = page};
  const auto seen = importer_.outlook(share(pages_), wanted);
  EXPECT_FALSE(seen.unknown);
  EXPECT_EQ(seen.method, registration_method::pinned_mapping);
  EXPECT_TRUE(importer_.outlook(share({}), wanted).unknown);
  EXPECT_EQ(error_of([&] {
              importer_.outlook(share(pages_), {.offset = 3 * page, .length = page + 1});
            }).kind(),
            error_kind::usage);
}

TEST_F(exported_memory_mr, without_such_pages_the_dmabufs_own_mapping_is_tried) {
  const auto memory = share({});
  EXPECT_CALL(provider_.calls,
              reg_mr(&provider_.domain, static_cast<std::byte*>(mapped) + 3 * page, page, _, _, _));
  importer_.register_memory(memory, {.offset = page, .length = page});
}

TEST_F(exported_memory_mr, range_is_that_of_what_was_exported) {
  const auto memory = share(pages_);
  EXPECT_EQ(error_of([&] {
              importer_.register_memory(memory, {.offset = 3 * page, .length = page + 1});
            }).kind(),
            error_kind::usage);
}

class exported_memory_dmabuf_mr : public exported_memory_mr {
 protected:
  exported_memory_dmabuf_mr() : exported_memory_mr(test::nic_vendor, 0) {}
};

TEST_F(exported_memory_dmabuf_mr, verb_is_given_the_place_in_the_dmabuf) {
  const auto memory = share(pages_);
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr(_, 3 * page, page, _, buffer_fd, _, _));
  importer_.register_memory(memory, {.offset = page, .length = page});
}

}  // namespace
}  // namespace dmabridge

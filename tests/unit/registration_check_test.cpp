// SPDX-License-Identifier: MIT
#include "registration_check.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

#include "error_of.hpp"

namespace dmabridge {
namespace {

using test::error_of;
using testing::HasSubstr;

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t size = 16 * page;
constexpr auto top = std::numeric_limits<std::uint64_t>::max();

const rdma_device nic{.name = "mlx5_0"};
const rdma_device siw{.name = "siw0", .driver = "siw", .by_cpu = true, .ignores_iova = true};

auto complaint(const registration_request& wanted, const rdma_device& device = nic,
               std::uint64_t of_size = size) -> std::string {
  const auto failure = error_of([&] { check(wanted, of_size, device); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_FALSE(failure.details().remedies.empty());
  EXPECT_THAT(failure.what(), HasSubstr("with RDMA device " + device.name));
  return failure.what();
}

TEST(registration_check, every_byte_of_the_buffer_can_be_registered) {
  EXPECT_NO_THROW(check({.length = size}, size, nic));
  EXPECT_NO_THROW(check({.offset = 0, .length = 1}, size, nic));
  EXPECT_NO_THROW(check({.offset = 3, .length = size - 3}, size, nic));
  EXPECT_NO_THROW(check({.offset = size - 1, .length = 1}, size, nic));
  EXPECT_NO_THROW(check({.offset = size - page, .length = page}, size, nic));
  constexpr std::uint64_t large = std::uint64_t{6} << 30;
  EXPECT_NO_THROW(check({.offset = 5, .length = large - 5}, large, nic));
}

TEST(registration_check, no_byte_beside_it) {
  EXPECT_THAT(complaint({.length = 0}), HasSubstr("it is empty"));
  EXPECT_THAT(complaint({.offset = size, .length = 0}), HasSubstr("it is empty"));
  EXPECT_THAT(complaint({.length = size + 1}), HasSubstr("the buffer has 65536 bytes"));
  EXPECT_THAT(complaint({.offset = 1, .length = size}), HasSubstr("65536 are asked for"));
  EXPECT_THAT(complaint({.offset = size, .length = 1}), HasSubstr("from byte 65536 on"));
  EXPECT_THAT(complaint({.offset = size - 1, .length = 2}), HasSubstr("stay inside"));
  // Sums that do not fit into 64 bits.
  EXPECT_THAT(complaint({.offset = 1, .length = top}), HasSubstr("stay inside"));
  EXPECT_THAT(complaint({.offset = top, .length = 1}), HasSubstr("stay inside"));
  EXPECT_THAT(complaint({.offset = top, .length = top}), HasSubstr("stay inside"));
  EXPECT_THAT(complaint({.length = 1}, nic, 0), HasSubstr("the buffer has 0 bytes"));
}

TEST(registration_check, an_iova_is_the_same_byte_of_a_page_as_the_offset) {
  for (const std::uint64_t iova : {std::uint64_t{12}, page + 12, top - page + 1 + 12}) {
    EXPECT_NO_THROW(check({.offset = 3 * page + 12, .length = 8, .iova = iova}, size, nic)) << iova;
  }
  EXPECT_NO_THROW(check({.length = size, .iova = 0}, size, nic));
  for (const std::uint64_t iova : {std::uint64_t{0}, std::uint64_t{11}, page + 13}) {
    EXPECT_THAT(complaint({.offset = 3 * page + 12, .length = 8, .iova = iova}),
                HasSubstr("offset 12300 is byte 12 of one"))
        << iova;
  }
  EXPECT_THAT(complaint({.length = 8, .iova = 1}), HasSubstr("byte 0 of a page of 4096 bytes"));
}

TEST(registration_check, an_iova_has_room_for_every_byte) {
  // Up to the very last address.
  EXPECT_NO_THROW(check({.length = page, .iova = top - page + 1}, size, nic));
  EXPECT_THAT(complaint({.length = page + 1, .iova = top - page + 1}),
              HasSubstr("does not fit into 64 bits"));
}

TEST(registration_check, a_device_that_ignores_iova_is_given_none) {
  EXPECT_NO_THROW(check({.length = 8}, size, siw));
  EXPECT_THAT(complaint({.length = 8, .iova = 0}, siw), HasSubstr("memory_region::address()"));
}

TEST(registration_check, access_flags_that_the_kernel_takes_for_buffers) {
  for (const auto access :
       {0, IBV_ACCESS_REMOTE_READ + 0, IBV_ACCESS_LOCAL_WRITE + 0,
        IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
            IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_RELAXED_ORDERING}) {
    EXPECT_NO_THROW(check({.length = 8, .access = access}, size, nic)) << access;
  }
  for (const auto access :
       {IBV_ACCESS_MW_BIND, IBV_ACCESS_ZERO_BASED, IBV_ACCESS_HUGETLB, IBV_ACCESS_FLUSH_GLOBAL}) {
    EXPECT_THAT(complaint({.length = 8, .access = IBV_ACCESS_LOCAL_WRITE | access}),
                HasSubstr("not for buffers"))
        << access;
  }
}

TEST(registration_check, what_peers_write_the_device_writes) {
  for (const auto access : {IBV_ACCESS_REMOTE_WRITE, IBV_ACCESS_REMOTE_ATOMIC}) {
    EXPECT_THAT(complaint({.length = 8, .access = access}), HasSubstr("IBV_ACCESS_LOCAL_WRITE"));
  }
}

// Success that fails at first access is none.
TEST(registration_check, on_demand_paging_is_not_offered) {
  EXPECT_THAT(complaint({.length = 8, .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_ON_DEMAND}),
              HasSubstr("fails when a peer first touches it"));
}

}  // namespace
}  // namespace dmabridge

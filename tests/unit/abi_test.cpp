// SPDX-License-Identifier: MIT
// The layout of the ABI. A change that breaks a program out there fails to compile here.
#include <dmabridge/uapi.h>
#include <gtest/gtest.h>

#include <cstddef>

namespace {

#define EXPECT_LAYOUT(type, size) static_assert(sizeof(type) == (size))
#define EXPECT_OFFSET(type, field, offset) static_assert(offsetof(type, field) == (offset))

EXPECT_LAYOUT(dmabridge_reason, 88);
EXPECT_OFFSET(dmabridge_reason, code, 0);
EXPECT_OFFSET(dmabridge_reason, flags, 4);
EXPECT_OFFSET(dmabridge_reason, device, 8);
EXPECT_OFFSET(dmabridge_reason, value, 16);
EXPECT_OFFSET(dmabridge_reason, name, 24);

EXPECT_LAYOUT(dmabridge_verdict, 16 + 8 * 88);
EXPECT_OFFSET(dmabridge_verdict, route, 0);
EXPECT_OFFSET(dmabridge_verdict, policy, 4);
EXPECT_OFFSET(dmabridge_verdict, distance, 8);
EXPECT_OFFSET(dmabridge_verdict, nr_reasons, 12);
EXPECT_OFFSET(dmabridge_verdict, reasons, 16);

EXPECT_LAYOUT(dmabridge_info, 16);
EXPECT_OFFSET(dmabridge_info, importers, 8);

EXPECT_LAYOUT(dmabridge_region_info, 32 + 4 * 8 + 2 * 64 + 8);
EXPECT_OFFSET(dmabridge_region_info, id, 0);
EXPECT_OFFSET(dmabridge_region_info, device, 16);
EXPECT_OFFSET(dmabridge_region_info, nr_buffers, 24);
EXPECT_OFFSET(dmabridge_region_info, size, 32);
EXPECT_OFFSET(dmabridge_region_info, move_limit, 56);
EXPECT_OFFSET(dmabridge_region_info, name, 64);
EXPECT_OFFSET(dmabridge_region_info, driver, 128);
EXPECT_OFFSET(dmabridge_region_info, quarantined, 192);

EXPECT_LAYOUT(dmabridge_watch, 24);
EXPECT_OFFSET(dmabridge_watch, watch_fd, 12);
EXPECT_OFFSET(dmabridge_watch, generation, 16);

EXPECT_LAYOUT(dmabridge_event, 16 + sizeof(dmabridge_reason));
EXPECT_OFFSET(dmabridge_event, placement, 8);
EXPECT_OFFSET(dmabridge_event, reason, 16);

EXPECT_LAYOUT(dmabridge_user, 24 + 2 * 64 + sizeof(dmabridge_verdict));
EXPECT_OFFSET(dmabridge_user, device, 8);
EXPECT_OFFSET(dmabridge_user, name, 24);
EXPECT_OFFSET(dmabridge_user, driver, 88);
EXPECT_OFFSET(dmabridge_user, verdict, 152);

EXPECT_LAYOUT(dmabridge_chunk, 16);

EXPECT_LAYOUT(dmabridge_query, 232 + sizeof(dmabridge_user));
EXPECT_OFFSET(dmabridge_query, users, 8);
EXPECT_OFFSET(dmabridge_query, max_users, 16);
EXPECT_OFFSET(dmabridge_query, user_size, 20);
EXPECT_OFFSET(dmabridge_query, chunks, 24);
EXPECT_OFFSET(dmabridge_query, max_chunks, 32);
EXPECT_OFFSET(dmabridge_query, nr_chunks, 36);
EXPECT_OFFSET(dmabridge_query, nr_users, 40);
EXPECT_OFFSET(dmabridge_query, region_id, 44);
EXPECT_OFFSET(dmabridge_query, placement, 48);
EXPECT_OFFSET(dmabridge_query, policy, 52);
EXPECT_OFFSET(dmabridge_query, size, 56);
EXPECT_OFFSET(dmabridge_query, generation, 64);
EXPECT_OFFSET(dmabridge_query, moves, 72);
EXPECT_OFFSET(dmabridge_query, region, 80);
EXPECT_OFFSET(dmabridge_query, last_move, 144);
EXPECT_OFFSET(dmabridge_query, last_refused, 232);

EXPECT_LAYOUT(dmabridge_hold, 16 + sizeof(dmabridge_verdict));
EXPECT_OFFSET(dmabridge_hold, hold_fd, 12);
EXPECT_LAYOUT(dmabridge_move, 16 + sizeof(dmabridge_verdict));
EXPECT_OFFSET(dmabridge_move, verdict, 16);
EXPECT_LAYOUT(dmabridge_bind, 24 + sizeof(dmabridge_verdict));
EXPECT_OFFSET(dmabridge_bind, binding_fd, 20);
EXPECT_OFFSET(dmabridge_bind, verdict, 24);

EXPECT_LAYOUT(dmabridge_negotiate, 48 + sizeof(dmabridge_verdict));
EXPECT_OFFSET(dmabridge_negotiate, region_id, 4);
EXPECT_OFFSET(dmabridge_negotiate, size, 8);
EXPECT_OFFSET(dmabridge_negotiate, buffer_policy, 16);
EXPECT_OFFSET(dmabridge_negotiate, policy, 20);
EXPECT_OFFSET(dmabridge_negotiate, kind, 24);
EXPECT_OFFSET(dmabridge_negotiate, flags, 28);
EXPECT_OFFSET(dmabridge_negotiate, target_fd, 32);
EXPECT_OFFSET(dmabridge_negotiate, placement, 36);
EXPECT_OFFSET(dmabridge_negotiate, device, 40);
EXPECT_OFFSET(dmabridge_negotiate, verdict, 48);
EXPECT_LAYOUT(dmabridge_alloc, 24);
EXPECT_OFFSET(dmabridge_alloc, fd, 16);

EXPECT_LAYOUT(dmabridge_binding_info, 48 + 16 * 16 + sizeof(dmabridge_verdict));
EXPECT_OFFSET(dmabridge_binding_info, buffer_size, 16);
EXPECT_OFFSET(dmabridge_binding_info, routes, 48);
EXPECT_OFFSET(dmabridge_binding_info, verdict, 304);

EXPECT_LAYOUT(dmabridge_uring_cmd, 16);
EXPECT_OFFSET(dmabridge_uring_cmd, flags, 8);

// An ioctl's number carries the size of its structure.
TEST(abi, ioctl_numbers_stay) {
  EXPECT_EQ(DMABRIDGE_IOCTL_INFO, 0xc010db00U);
  EXPECT_EQ(DMABRIDGE_IOCTL_REGION, 0xc0c8db01U);
  EXPECT_EQ(DMABRIDGE_IOCTL_QUERY, 0xc450db02U);
  EXPECT_EQ(DMABRIDGE_IOCTL_WATCH, 0xc018db06U);
  EXPECT_EQ(DMABRIDGE_IOCTL_ALLOC, 0xc018db40U);
  EXPECT_EQ(DMABRIDGE_URING_READ, 0x8010dbc0U);
  EXPECT_EQ(DMABRIDGE_URING_WRITE, 0x4010dbc1U);
}

}  // namespace

// SPDX-License-Identifier: MIT
#include "dmabridge/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace dmabridge {
namespace {

using testing::HasSubstr;

TEST(error, decodes_errno_also_those_the_kernel_keeps_to_itself) {
  EXPECT_EQ(errno_name(EOPNOTSUPP), "EOPNOTSUPP");
  EXPECT_EQ(errno_text(EACCES), "Permission denied");
  EXPECT_EQ(errno_name(524), "ENOTSUPP");
  EXPECT_THAT(errno_text(524), HasSubstr("not supported"));
  EXPECT_EQ(errno_name(512), "ERESTARTSYS");
  EXPECT_EQ(errno_name(4000), "errno 4000");
}

TEST(error, says_all_of_it) {
  const error failure({.kind = error_kind::refused,
                       .attempted = "bind /dev/nvme1n1 to the buffer",
                       .code = EOPNOTSUPP,
                       .detail = "",
                       .reasons = {{.code = DMABRIDGE_REASON_ACS_REDIRECT,
                                    .device = pci_address::unpack(0x100),
                                    .value = 4},
                                   {.code = DMABRIDGE_REASON_MOVE_LIMIT, .value = 256 << 20}},
                       .unreported = 2,
                       .remedies = {"go home"}});
  const std::string text = failure.what();
  EXPECT_THAT(text, testing::StartsWith("cannot bind /dev/nvme1n1 to the buffer: EOPNOTSUPP ("));
  for (const auto& why : failure.reasons()) {
    EXPECT_THAT(text, HasSubstr(why.text()));
    EXPECT_THAT(text, HasSubstr(why.id()));
    EXPECT_THAT(text, HasSubstr(why.evidence()));
    EXPECT_THAT(text, HasSubstr(why.remedy()));
  }
  EXPECT_THAT(text, HasSubstr("2 more reason(s)"));
  EXPECT_THAT(text, HasSubstr("to fix it: go home"));
  EXPECT_NE(text.back(), '\n');
}

TEST(error, detail_stands_before_errno) {
  const error failure({.attempted = "do it", .code = EIO, .detail = "the disk broke"});
  EXPECT_STREQ(failure.what(), "cannot do it: the disk broke — EIO (Input/output error)");
  EXPECT_STREQ(error({.attempted = "do it", .detail = "no"}).what(), "cannot do it: no");
}

}  // namespace
}  // namespace dmabridge

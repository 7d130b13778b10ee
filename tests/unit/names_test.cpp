// SPDX-License-Identifier: MIT
//
// What the kernel's tracepoints and debugfs call the ABI's values is what the library calls them.
#include "../../exporter/names.h"

#include <gtest/gtest.h>

#include <array>
#include <string_view>

#include "dmabridge/control.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {
namespace {

struct kernel_name {
  std::uint32_t value;
  std::string_view text;
};

#define NAME(value, text) {value, text},
constexpr auto region_kinds = std::to_array<kernel_name>({DMABRIDGE_REGION_KIND_NAMES(NAME, NAME)});
constexpr auto placements = std::to_array<kernel_name>({DMABRIDGE_PLACEMENT_NAMES(NAME, NAME)});
constexpr auto policies = std::to_array<kernel_name>({DMABRIDGE_POLICY_NAMES(NAME, NAME)});
constexpr auto routes = std::to_array<kernel_name>({DMABRIDGE_ROUTE_NAMES(NAME, NAME)});
constexpr auto user_kinds = std::to_array<kernel_name>({DMABRIDGE_USER_KIND_NAMES(NAME, NAME)});
constexpr auto reasons = std::to_array<kernel_name>({DMABRIDGE_REASON_NAMES(NAME, NAME)});
#undef NAME

template <typename Enum>
void expect_same(std::span<const kernel_name> names) {
  for (const auto& name : names) EXPECT_EQ(to_string(static_cast<Enum>(name.value)), name.text);
}

TEST(kernel_names, are_the_librarys) {
  expect_same<region_kind>(region_kinds);
  expect_same<placement>(placements);
  expect_same<policy>(policies);
  expect_same<route>(routes);
  expect_same<user_kind>(user_kinds);
}

TEST(kernel_names, every_reason_has_its_own) {
  EXPECT_EQ(reasons.size(), reason_table().size());
  for (const auto& name : reasons) EXPECT_EQ(reason{.code = name.value}.id(), name.text);
}

}  // namespace
}  // namespace dmabridge

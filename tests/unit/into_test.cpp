// SPDX-License-Identifier: MIT
#include "into.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "dmabridge/error.hpp"
#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::command {
namespace {

using test::error_of;
using testing::HasSubstr;

auto refusal_of(const std::string& spec) -> error {
  const testing::NiceMock<test::mock_system_calls> calls;
  return error_of([&] { allocate_into(spec, 4096); });
}

TEST(into, api_that_is_none_gets_the_list_of_those_there_are) {
  for (const std::string spec : {"", "opencl", "udmabuf2", ":0", "Vulkan"}) {
    const auto failure = refusal_of(spec);
    EXPECT_EQ(failure.kind(), error_kind::usage) << spec;
    for (const char* name : {"cuda[:GPU]", "dma-heap[:HEAP]", "drm:NODE", "hip[:GPU]",
                             "level-zero[:GPU]", "udmabuf", "vulkan[:NAME]"}) {
      EXPECT_THAT(failure.what(), HasSubstr(name)) << spec;
    }
  }
}

TEST(into, what_an_api_does_not_need_is_not_ignored) {
  EXPECT_EQ(refusal_of("udmabuf:0").kind(), error_kind::usage);
}

TEST(into, drm_has_to_be_told_which_device) {
  EXPECT_THAT(refusal_of("drm").what(), HasSubstr("drm:/dev/dri/card0"));
}

TEST(into, gpu_that_is_no_number_is_refused_before_any_library_is_looked_for) {
  for (const std::string api : {"cuda", "hip", "level-zero"}) {
    for (const std::string gpu : {"x", "-1", "0x", "1.5", "99999999999"}) {
      EXPECT_THAT(refusal_of(api + ":" + gpu).what(), HasSubstr("no number of a GPU")) << api;
    }
  }
}

}  // namespace
}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#include "dmabridge/region.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <utility>

#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using test::region_fd;
using testing::_;
using testing::HasSubstr;
using testing::Return;
using testing::StrEq;

auto two_regions() -> std::vector<region_info> {
  test::fake_module module;
  module.add_region("vram0", 256 << 20);
  module.add_region("vram1", 64 << 20);
  return control().regions();
}

TEST(region, found_by_name_node_or_device) {
  const auto regions = two_regions();
  for (const auto* spec : {"vram1", "/dev/dmabridge-vram1", "0000:04:00.0", "04:00.0"}) {
    EXPECT_EQ(find_region(regions, spec).name, "vram1") << spec;
  }
}

TEST(region, empty_spec_is_the_only_one) {
  auto regions = two_regions();
  const auto failure = error_of([&] { find_region(regions, ""); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("vram0 (256 MiB of device 0000:03:00.0)"));
  EXPECT_THAT(failure.what(), HasSubstr("vram1"));
  regions.pop_back();
  EXPECT_EQ(find_region(regions, "").name, "vram0");
}

TEST(region, one_in_quarantine_gives_way_to_what_can_be_used) {
  auto regions = two_regions();
  regions[0].unregistered = true;
  regions[1].device = regions[0].device;
  const auto device = to_string(regions[0].device.value());
  EXPECT_EQ(find_region(regions, "").name, "vram1");
  EXPECT_EQ(find_region(regions, device).name, "vram1");
  std::swap(regions[0], regions[1]);
  EXPECT_EQ(find_region(regions, device).name, "vram1");
  EXPECT_EQ(find_region(regions, "vram0").name, "vram0") << "to be looked at";
}

TEST(region, one_that_is_gone_is_in_quarantine_only_if_memory_is) {
  auto regions = two_regions();
  regions[0].unregistered = regions[1].unregistered = true;
  regions[1].quarantined = 4096;
  const auto text = std::string(error_of([&] { find_region(regions, "other"); }).what());
  EXPECT_THAT(text, HasSubstr("vram0 (256 MiB of a device that is gone)"));
  EXPECT_THAT(text, HasSubstr("of memory in quarantine)"));
}

TEST(region, one_without_a_pci_device_is_not_taken_for_another) {
  auto regions = two_regions();
  regions[0].device.reset();
  regions[0].driver = "npu";
  EXPECT_THAT(error_of([&] { find_region(regions, "0000:00:00.0"); }).what(),
              HasSubstr("vram0 (256 MiB of driver npu)"));
}

TEST(region, suspended_one_says_so) {
  test::fake_module module;
  module.add_region("vram0", 256 << 20).flags |= DMABRIDGE_REGION_SUSPENDED;
  const auto regions = control().regions();
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge-vram0"), _, _)).WillOnce(Return(region_fd));
  EXPECT_CALL(module.calls, ioctl(region_fd, DMABRIDGE_IOCTL_ALLOC, _)).WillOnce(Return(-EBUSY));
  const auto failure = error_of([&] { allocate(regions[0], 4096, policy::prefer); });
  EXPECT_THAT(failure.what(), HasSubstr("suspended"));
  EXPECT_THAT(failure.what(), HasSubstr("to fix it: wait"));
}

TEST(region, one_of_system_memory_refuses_to_require) {
  test::fake_module module;
  module.add_region("gpu-system", 256 << 20).kind = DMABRIDGE_REGION_SYSTEM;
  const auto regions = control().regions();
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge-gpu-system"), _, _))
      .WillOnce(Return(region_fd));
  EXPECT_CALL(module.calls, ioctl(region_fd, DMABRIDGE_IOCTL_ALLOC, _))
      .WillOnce(Return(-EOPNOTSUPP));
  const auto failure = error_of([&] { allocate(regions[0], 4096, policy::require); });
  EXPECT_THAT(failure.what(), HasSubstr("the region is system memory"));
  EXPECT_THAT(failure.what(), HasSubstr("to fix it: use a region of device memory"));
}

TEST(region, unknown_or_none_at_all) {
  EXPECT_THAT(error_of([] { find_region(two_regions(), "vram9"); }).what(), HasSubstr("vram0"));
  const auto failure = error_of([] { find_region({}, ""); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_THAT(failure.what(), HasSubstr("dmabridge_pci"));
}

TEST(region, allocates) {
  test::fake_module module;
  module.add_region("vram0", 256 << 20);
  const auto regions = control().regions();
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge-vram0"), _, _)).WillOnce(Return(region_fd));
  EXPECT_CALL(module.calls, ioctl(region_fd, DMABRIDGE_IOCTL_ALLOC, _))
      .WillOnce([](int, unsigned long, void* argument) {
        auto& wanted = *static_cast<dmabridge_alloc*>(argument);
        EXPECT_EQ(wanted.size, 12345U);
        EXPECT_EQ(wanted.policy, std::uint32_t{DMABRIDGE_POLICY_REQUIRE});
        wanted.fd = buffer_fd;
        return 0;
      });
  EXPECT_CALL(module.calls, close(region_fd)).Times(1);
  EXPECT_CALL(module.calls, close(buffer_fd)).Times(1);
  EXPECT_EQ(allocate(regions[0], 12345, policy::require).descriptor(), buffer_fd);
}

TEST(region, who_may_allocate) {
  test::fake_module module;
  module.add_region("vram0", 256 << 20);
  const auto regions = control().regions();
  EXPECT_FALSE(may_allocate(regions[0]));
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge-vram0"), _, _)).WillOnce(Return(-EACCES));
  const auto failure = error_of([&] { allocate(regions[0], 1, policy::prefer); });
  EXPECT_THAT(failure.what(), HasSubstr("usermod -aG render"));
}

TEST(region, full_region_says_how_full) {
  test::fake_module module;
  module.add_region("vram0", 256 << 20).available = 1 << 20;
  const auto regions = control().regions();
  EXPECT_CALL(module.calls, open(StrEq("/dev/dmabridge-vram0"), _, _)).WillOnce(Return(region_fd));
  EXPECT_CALL(module.calls, ioctl(region_fd, DMABRIDGE_IOCTL_ALLOC, _)).WillOnce(Return(-ENOSPC));
  const auto failure = error_of([&] { allocate(regions[0], 2 << 20, policy::prefer); });
  EXPECT_THAT(failure.what(), HasSubstr("allocate 2 MiB"));
  EXPECT_THAT(failure.what(), HasSubstr("1 MiB of 256 MiB"));
}

}  // namespace
}  // namespace dmabridge

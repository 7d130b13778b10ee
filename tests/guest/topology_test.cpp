// SPDX-License-Identifier: MIT
//
// The kernel's verdict on every pair of a drive and a memory, against the one that the topology's
// own file demands.
#include <fcntl.h>

#include <filesystem>

#include "support/block_fixture.hpp"
#include "support/expected.hpp"
#include "support/named_device.hpp"

namespace dmabridge::test {
namespace {

class TopologyTest : public BlockTest {
 protected:
  // With the pattern's tag: 0xa0 and what follows, as the images were made.
  static Drive raw_of(const std::string& serial) { return drive(serial); }
  static std::uint8_t tag_of(const Drive& drive) {
    return std::to_integer<std::uint8_t>(host_read(drive.image(), 7, 1).front());
  }
};

TEST_F(TopologyTest, KernelsVerdictsAreTheExpectedOnes) {
  for (const ExpectedPair& pair : expected_pairs()) {
    SCOPED_TRACE(pair.name());
    const Bound bound = make_in(region_of(pair.memory), raw_of(pair.requester).path(), 64 * KiB,
                                DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
    EXPECT_EQ(bound.binding.verdict.route, pair.route) << describe(bound.binding.verdict);
    if (pair.route == DMABRIDGE_ROUTE_NONE) {
      EXPECT_EQ(bound.binding.error, -EOPNOTSUPP);
      EXPECT_GT(bound.binding.verdict.nr_reasons, 0u) << "refused without a reason";
    } else {
      EXPECT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    }
  }
}

// A verdict is worth what the bytes say.
TEST_F(TopologyTest, BytesTakeTheRouteOfTheVerdict) {
  for (const ExpectedPair& pair : expected_pairs()) {
    SCOPED_TRACE(pair.name());
    const dmabridge_region_info region = region_of(pair.memory);
    const Drive raw = raw_of(pair.requester);
    const std::uint8_t tag = tag_of(raw);
    const std::uint64_t size = 4 * MiB;
    const Bound bound =
        make_in(region, raw.path(), size, DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    const bool reached = pair.route != DMABRIDGE_ROUTE_NONE;
    const std::uint32_t route = pair.redirected_route();
    EXPECT_EQ(bound.binding.verdict.route, route) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.nr_reasons != 0, !reached)
        << "redirected without a reason, or a reason without need: "
        << describe(bound.binding.verdict);
    TraceWatch watch;
    ASSERT_EQ(load(bound, size, 1 * MiB), static_cast<std::int64_t>(size));
    if (pair.loses_bytes) {
      EXPECT_NE(difference(bound, size, tag, 1 * MiB), "")
          << "this machine's fault is gone: it can be counted on";
      continue;
    }
    EXPECT_EQ(difference(bound, size, tag, 1 * MiB), "");
    expect_only(bound, route, size);
    if (raw.nsid == 0) continue;  // no NVMe drive: not in the trace
    const auto account =
        watch.account(raw, oracle::Operation::read, {{1 * MiB, size, 0}}, region_window(region));
    const bool iommu = !std::filesystem::is_empty("/sys/class/iommu");
    if (iommu) {
      // The drive gets an I/O virtual address; which memory that is, only the bytes tell (above,
      // from the host's side).
      EXPECT_EQ(account.payload.inside + account.payload.outside, size);
    } else {
      EXPECT_EQ(reached ? account.payload.inside : account.payload.outside, size);
      EXPECT_EQ(reached ? account.payload.outside : account.payload.inside, 0u);
    }
  }
}

TEST_F(TopologyTest, FilesGetTheSameVerdictAsTheirDrive) {
  for (const ExpectedPair& pair : expected_pairs()) {
    SCOPED_TRACE(pair.name());
    for (const Drive& each : drives()) {
      if (each.serial != pair.requester || each.fs.empty()) continue;
      const Mount mount(each.path(), each.fs);
      make_pattern_file(mount.file("pattern"), 1 * MiB, 0x19);
      {
        const Bound bound = make_in(region_of(pair.memory), mount.file("pattern"), 1 * MiB,
                                    DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDONLY);
        ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
        EXPECT_EQ(bound.binding.verdict.route, pair.redirected_route())
            << describe(bound.binding.verdict);
        ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
        if (!pair.loses_bytes) {
          EXPECT_EQ(difference(bound, 1 * MiB, 0x19), "");
        }
      }
      unlink(mount.file("pattern").c_str());
    }
  }
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// Bindings of other exporters' dma-bufs behind an IOMMU; and vfio-pci's, which needs one.
#include <fcntl.h>

#include "exporter.hpp"
#include "support/block_fixture.hpp"
#include "support/system_buffers.hpp"

namespace dmabridge::test {
namespace {

class ForeignIommu : public BlockTest {
 protected:
  const Drive raw_ = drives().front();
};

TEST_F(ForeignIommu, MemoryIsReachedByTranslatedAddresses) {
  for (const bool heap : {true, false}) {
    SCOPED_TRACE(heap ? "dma-heap" : "udmabuf");
    Bound bound;
    bound.buffer = heap ? allocate_from_heap(4 * MiB) : make_udmabuf(4 * MiB).buffer;
    bound.target = open_file(raw_.path(), O_RDONLY);
    bound.binding = bind(bound.buffer.get(), bound.target.get(), DMABRIDGE_POLICY_PREFER);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
    ASSERT_EQ(load(bound, 4 * MiB - 12 * KiB, 1 * MiB, 12 * KiB),
              static_cast<std::int64_t>(4 * MiB - 12 * KiB));
    const Mapping mapping(bound.buffer.get(), 4 * MiB);
    const auto image = host_read(raw_.image(), 1 * MiB, 4 * MiB - 12 * KiB);
    EXPECT_TRUE(std::equal(image.begin(), image.end(), mapping.data() + 12 * KiB));
    expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 4 * MiB - 12 * KiB);
  }
}

// Device memory without a mapping for the kernel: by no policy, and in advance.
TEST_F(ForeignIommu, VfioPciIsRefused) {
  const auto exporter = conformance::vfio_pci({.size = 64 * KiB, .vfio_function = ""});
  const Fd buffer = exporter->make();
  const Fd target = open_file(raw_.path(), O_RDONLY);
  for (const std::uint32_t policy :
       {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_PREFER, DMABRIDGE_POLICY_FORBID}) {
    const Binding bound = bind(buffer.get(), target.get(), policy);
    EXPECT_EQ(bound.error, -EMEDIUMTYPE);
    EXPECT_EQ(bound.verdict.route, DMABRIDGE_ROUTE_NONE);
    const dmabridge_reason* reason = find_reason(bound.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER);
    ASSERT_TRUE(reason) << describe(bound.verdict);
    EXPECT_STREQ(reason->name, "vfio_pci_core");
    EXPECT_EQ(reason->value, static_cast<std::uint64_t>(EOPNOTSUPP));
    const Answer answer = ask_file(buffer.get(), target.get(), policy);
    EXPECT_EQ(answer.error, bound.error);
    EXPECT_EQ(describe(answer.verdict), describe(bound.verdict));
  }
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// exporter-conformance behind an IOMMU: our exporter, and vfio-pci, which needs one.
#include <gmock/gmock.h>

#include "support/conformance.hpp"
#include "support/fixture.hpp"

namespace dmabridge::test {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

class ConformanceIommu : public GuestTest {};

TEST_F(ConformanceIommu, OursKeepsTheContract) {
  const ConformanceReport report = run_conformance("--exporter dmabridge");
  EXPECT_EQ(report.status, 0);
  EXPECT_THAT(report.with("fail"), IsEmpty()) << report.details("fail");
  EXPECT_EQ(report.of("attach: P2P to the function").outcome, "yes")
      << report.of("attach: P2P to the function").detail;
  EXPECT_EQ(report.of("map: length is the buffer's").outcome, "pass");
}

TEST_F(ConformanceIommu, VfioPciBreaksNothingButWhatIsKnown) {
  const ConformanceReport report = run_conformance("--exporter vfio-pci");
  EXPECT_EQ(report.status, 0) << "what is known is no violation";
  EXPECT_THAT(report.with("fail"), UnorderedElementsAreArray({"attach: who is attached can map"}))
      << report.details("fail");
  EXPECT_TRUE(report.of("attach: who is attached can map").known);
  for (const char* fact : {"attach: takes: P2P, revocable, PCI", "attach: P2P to the function",
                           "map: pin", "revoke: no attachment afterwards"})
    EXPECT_EQ(report.of(fact).outcome, "yes") << fact << ": " << report.of(fact).detail;
  for (const char* fact :
       {"attach: takes: static, PCI", "attach: takes: P2P, PCI", "cpu: mmap", "cpu: vmap"})
    EXPECT_EQ(report.of(fact).outcome, "no") << fact;
  for (const char* check : {"map: length is the buffer's", "map: page aligned",
                            "revoke: importers are told", "revoke: no mapping afterwards"})
    EXPECT_EQ(report.of(check).outcome, "pass") << check << ": " << report.of(check).detail;
  EXPECT_FALSE(regions().empty()) << "the function is not back with its driver";
}

}  // namespace
}  // namespace dmabridge::test

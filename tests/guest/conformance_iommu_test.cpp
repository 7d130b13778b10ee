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

class ConformanceIommu : public GuestTest {
 protected:
  // Behind an IOMMU tables tell it.
  static void expect_p2p(const ConformanceReport& report) {
    const auto& fact = report.of("attach: P2P to the function");
    EXPECT_EQ(fact.outcome, tables_are_hidden() ? "untried" : "yes") << fact.detail;
  }
};

TEST_F(ConformanceIommu, OursKeepsTheContract) {
  const ConformanceReport report = run_conformance("--exporter dmabridge");
  EXPECT_EQ(report.status, 0);
  EXPECT_THAT(report.with("fail"), IsEmpty()) << report.details("fail");
  expect_p2p(report);
  EXPECT_EQ(report.of("map: length is the buffer's").outcome, "pass");
}

TEST_F(ConformanceIommu, VfioPciBreaksNothingButWhatIsKnown) {
  const ConformanceReport report = run_conformance("--exporter vfio-pci");
  EXPECT_EQ(report.status, 0) << "what is known is no violation";
  EXPECT_THAT(report.with("fail"), UnorderedElementsAreArray({"attach: who is attached can map"}))
      << report.details("fail");
  EXPECT_TRUE(report.of("attach: who is attached can map").known);
  expect_p2p(report);
  for (const char* fact :
       {"attach: takes: P2P, revocable, PCI", "map: pin", "revoke: no attachment afterwards"})
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

// SPDX-License-Identifier: MIT
//
// A BAR lent by vfio-pci as exported memory: that needs an IOMMU.
#include <gmock/gmock.h>
#include <dmabridge/any_memory.hpp>
#include <dmabridge/drm_memory.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/exporter_rules.hpp>
#include <dmabridge/vfio_memory.hpp>

#include <optional>
#include <utility>

#include "../unit/error_of.hpp"
#include "support/fixture.hpp"
#include "support/lent_function.hpp"
#include "support/test_importer.hpp"
#include "support/vfio_device.hpp"

namespace dmabridge::test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t page = 4096;
constexpr std::uint32_t bar = 2;
constexpr std::uint64_t offset = 16 * page, size = 8 * page;
constexpr std::uint8_t tag = 0x73;

// The first region's function, lent for the time of a test.
class AdaptorsIommu : public GuestTest {
 protected:
  void TearDown() override {
    device_.reset();
    function_.reset();
    GuestTest::TearDown();
  }

  exported_memory make() const { return export_vfio(device_->get(), bar, offset, size); }
  static Attached attach_drive(int dma_buf) {
    return attach(dma_buf, p2p_revocable, nvme("DRIVE0"), TEST_IMPORTER_UNMAP);
  }
  static std::string difference(const exported_memory& memory) {
    std::vector<std::byte> bytes(size);
    memory.owner().copy_out(0, bytes);
    return pattern_difference(bytes.data(), size, tag, 0);
  }
  static void fill(const exported_memory& memory) {
    std::vector<std::byte> bytes(size);
    fill_pattern(bytes.data(), size, tag, 0);
    memory.owner().copy_in(0, bytes);
  }

  std::optional<LentFunction> function_{std::in_place, pci_address(first_region().device)};
  std::optional<VfioDevice> device_{function_->address()};
};

TEST_F(AdaptorsIommu, CopiesMeetTheBar) {
  const exported_memory memory = make();
  EXPECT_EQ(memory.memory().exporter(), "vfio_pci_core");
  EXPECT_EQ(memory.memory().size(), size);
  fill(memory);
  EXPECT_EQ(difference(memory), "");
  const std::vector<std::byte> seen = host_read("vram-vram0", offset, size);
  EXPECT_EQ(pattern_difference(seen.data(), size, tag, 0), "") << "as the host sees the BAR";
}

TEST_F(AdaptorsIommu, CpuCannotMapIt) {
  const exported_memory memory = make();
  EXPECT_EQ(rules_of(memory.memory()).mappable, answer::no);
  const exported_memory again = any_memory(buffer::duplicate(memory.memory().descriptor()));
  std::byte byte{};
  const error failure = error_of([&] { again.owner().copy_out(0, {&byte, 1}); });
  EXPECT_EQ(failure.code(), EINVAL);
  EXPECT_THAT(failure.what(), HasSubstr("a BAR lent by vfio-pci cannot be mapped by the CPU"));
  std::uint64_t word = 0;
  EXPECT_EQ(vmap_read(memory.memory().descriptor(), 0, &word, sizeof(word)), -EINVAL);
}

TEST_F(AdaptorsIommu, RangesThatAreNone) {
  EXPECT_THAT(error_of([&] { export_vfio(device_->get(), bar, 0, 100); }).what(),
              HasSubstr("multiples of 4096"));
  EXPECT_THAT(error_of([&] { export_vfio(device_->get(), bar, 0, 65 * MiB); }).what(),
              HasSubstr("leave the BAR"));
  EXPECT_THAT(error_of([&] { export_vfio(device_->get(), 5, 0, page); }).what(),
              HasSubstr("no such BAR"));
  const Fd null = open_file("/dev/null", 0);
  EXPECT_THAT(error_of([&] { export_vfio(null.get(), bar, 0, page); }).what(),
              HasSubstr("not that of a vfio device"));
}

TEST_F(AdaptorsIommu, DisabledMemoryRevokesForAWhile) {
  const exported_memory memory = make();
  fill(memory);
  EXPECT_EQ(attach_drive(memory.memory().descriptor()).error, 0);
  ASSERT_EQ(device_->enable_memory(false), 0);
  EXPECT_EQ(attach_drive(memory.memory().descriptor()).error, -ENODEV);
  const error failure = error_of([&] { difference(memory); });
  EXPECT_EQ(failure.code(), EIO);
  EXPECT_THAT(failure.what(), HasSubstr("PCI_COMMAND"));
  ASSERT_EQ(device_->enable_memory(true), 0);
  EXPECT_EQ(attach_drive(memory.memory().descriptor()).error, 0);
  EXPECT_EQ(difference(memory), "");
}

TEST_F(AdaptorsIommu, DeviceIsOpenAsLongAsTheMemoryAndRevokedThen) {
  std::optional<exported_memory> memory = make();
  const buffer kept = buffer::duplicate(memory->memory().descriptor());
  device_.reset();
  fill(*memory);
  EXPECT_EQ(difference(*memory), "") << "the caller's fd is closed, the memory's own is not";
  EXPECT_EQ(attach_drive(kept.descriptor()).error, 0);
  memory.reset();
  EXPECT_EQ(attach_drive(kept.descriptor()).error, -ENODEV) << "for good";
}

}  // namespace
}  // namespace dmabridge::test

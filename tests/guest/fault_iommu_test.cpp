// SPDX-License-Identifier: MIT
//
// As fault_test.cpp, where an IOMMU translates, and of stolen memory: mappings that take several
// steps, each of which can fail, and are undone step by step.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "support/attach_fixture.hpp"
#include "support/fault_injection.hpp"
#include "support/named_device.hpp"
#include "support/pci_driver.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint64_t page = 4 * KiB;
// Several runs in system memory.
constexpr std::uint64_t size = 7 * page;

// A kind of memory, and an importer that is served from it.
struct Memory {
  const char* name;
  const char* device;
  ImporterKind importer;
  std::uint32_t placement;
};
constexpr Memory memories[] = {
    {"a BAR", "vram0", p2p_revocable, DMABRIDGE_PLACEMENT_DEVICE},
    {"system memory", "vram0", static_importer, DMABRIDGE_PLACEMENT_SYSTEM},
    {"stolen memory", "apu0", dynamic, DMABRIDGE_PLACEMENT_DEVICE},
};

class FaultIommu : public WithFaults<GuestTest> {
 protected:
  static Attachment attach_drive(int buffer, const Memory& memory) {
    Attached attached = attach(buffer, memory.importer, nvme("DRIVE0"));
    EXPECT_EQ(attached.error, 0);
    EXPECT_EQ(placement(buffer), memory.placement);
    return std::move(attached.attachment);
  }
};

TEST_F(FaultIommu, Map) {
  for (const Memory& memory : memories) {
    const Fd buffer = allocate_in(region_of(memory.device), size);
    Attachment attachment = attach_drive(buffer.get(), memory);
    std::uint32_t id = 0;
    int result = 0;
    const auto call = [&] { return result = attachment.map(&id); };
    const auto reset = [&] {
      if (result == 0) {
        const Table table = attachment.table(id);
        EXPECT_EQ(table.length(), size);
        for (const auto& segment : table.segments)
          EXPECT_NE(attachment.translate(segment.address), 0U);
        EXPECT_EQ(attachment.unmap(id), 0);
      } else if (result == -EFAULT && attachment.events().mappings != 0) {
        // It was mapped, but we were not told as what.
        attachment.detach();
        attachment = attach_drive(buffer.get(), memory);
      }
      EXPECT_EQ(attachment.events().mappings, 0U);
    };
    sweep(fmt::format("map {}", memory.name),
          {.call = call, .reset = reset, .errors = {ENOMEM, EFAULT}});

    id = attachment.map();
    const auto unmap = [&] { return attachment.unmap(id); };
    sweep(fmt::format("unmap {}", memory.name), {.call = unmap,
                                                 .reset = [&] { id = attachment.map(); },
                                                 .errors = {},
                                                 .may_have_none = true});
  }
}

TEST_F(FaultIommu, AllocateStolen) {
  const Fd node = open_file(region_node(region_of("apu0")), O_RDWR);
  dmabridge_alloc argument{};
  int result = 0;
  const auto call = [&] {
    argument = {};
    argument.size = size;
    argument.policy = DMABRIDGE_POLICY_PREFER;
    return result = test::call(node.get(), DMABRIDGE_IOCTL_ALLOC, &argument);
  };
  const auto reset = [&] {
    if (result == 0) close(argument.fd);
  };
  sweep("allocate stolen memory",
        {.call = call, .reset = reset, .errors = {ENOMEM, EFAULT, ENFILE}});
}

TEST_F(FaultIommu, RegisterStolen) {
  const std::string function = pci_address(region_of("apu0").device);
  const std::string bind = "/sys/bus/pci/drivers/dmabridge_pci/bind";
  ASSERT_EQ(unbind_function(function), 0);
  prepare_fault_injection(Spared::probe);
  // EBUSY is what the kernel says where it cannot note who has an address range.
  sweep("register stolen memory", {.call = [&] { return write_text(bind, function); },
                                   .reset = [&] { EXPECT_EQ(unbind_function(function), 0); },
                                   .errors = {ENOMEM, EFAULT, EBUSY}});
  prepare_fault_injection();
  EXPECT_EQ(write_text(bind, function), 0);
}

}  // namespace
}  // namespace dmabridge::test

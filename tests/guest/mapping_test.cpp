// SPDX-License-Identifier: MIT
//
// What a device gets by its mapping of a buffer: for every page, by the tables of its IOMMU if
// there is one, the memory that holds the buffer's bytes. tests/run boots this with an IOMMU in
// each of its modes, and without.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <thread>

#include "machine.hpp"
#include "support/attach_fixture.hpp"
#include "support/tracing.hpp"

namespace dmabridge::test {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t page = 4096;

// --- the machine -------------------------------------------------------------------------------

// The topology's first drive that reaches the memory.
Client p2p_drive() {
  std::ifstream file("/host/topology.json");
  const auto topology = nlohmann::json::parse(file);
  for (const auto& verdict : topology.at("verdicts"))
    if (verdict.at("route") != "none") return nvme(verdict.at("requester"));
  throw std::runtime_error("no drive of this topology reaches the memory");
}

// "DMA", "DMA-FQ" (lazy), "identity", or "none".
std::string iommu_type(const Client& client) {
  const std::string path =
      fmt::format("/sys/bus/pci/devices/{}/iommu_group/type", pci_address(client.function));
  return access(path.c_str(), F_OK) == 0 ? oracle::read_line(path) : "none";
}

bool translates(const Client& client) {
  return iommu_type(client).starts_with("DMA");
}

// --- what ought to be there ----------------------------------------------------------------------

// A kind of memory, and who is served from it.
struct Memory {
  const char* name;
  std::uint32_t region_kind;
  ImporterKind importer;
  std::uint32_t placement;

  bool is_io() const { return importer.peer2peer(); }
  dmabridge_region_info region() const {
    for (const auto& region : regions())
      if (region.kind == region_kind) return region;
    throw std::runtime_error("this topology has no such memory");
  }
};
void PrintTo(const Memory& memory, std::ostream* out) {
  *out << memory.name;
}
constexpr Memory device{"Device", DMABRIDGE_REGION_BAR, p2p_revocable, DMABRIDGE_PLACEMENT_DEVICE};
constexpr Memory redirected{"System", DMABRIDGE_REGION_BAR, dynamic, DMABRIDGE_PLACEMENT_SYSTEM};
constexpr Memory stolen{"Stolen", DMABRIDGE_REGION_STOLEN, dynamic, DMABRIDGE_PLACEMENT_DEVICE};

// Physical address of each page of a buffer that is on its device, by the chunks.
std::vector<std::uint64_t> device_pages(int buffer, const dmabridge_region_info& region) {
  const std::uint64_t start = region_window(region).start;
  std::vector<std::uint64_t> pages;
  for (const auto& chunk : query(buffer).chunks)
    for (std::uint64_t at = 0; at < chunk.length; at += page)
      pages.push_back(start + chunk.offset + at);
  return pages;
}

// Of one in system memory, by the CPU's page tables.
std::vector<std::uint64_t> system_pages(int buffer, std::uint64_t size) {
  const Mapping mapping(buffer, size);
  const Fd pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  std::vector<std::uint64_t> pages;
  for (std::uint64_t at = 0; at < size; at += page) {
    const auto address = reinterpret_cast<std::uintptr_t>(mapping.data()) + at;
    static_cast<volatile std::byte*>(mapping.data())[at];  // brings it in
    std::uint64_t entry = 0;
    if (pread(pagemap.get(), &entry, sizeof(entry),
              static_cast<off_t>(address / page * sizeof(entry))) != sizeof(entry))
      throw std::runtime_error("cannot read the pagemap");
    const std::uint64_t frame = entry & ((1ULL << 55) - 1);
    if ((entry >> 63) == 0 || frame == 0)
      throw std::runtime_error(fmt::format("the page at {:#x} is not in the pagemap", at));
    pages.push_back(frame * page);
  }
  return pages;
}

std::vector<std::uint64_t> pages_of(int buffer, const Memory& memory, std::uint64_t size) {
  if (placement(buffer) != memory.placement)
    throw std::runtime_error(
        fmt::format("the buffer is not where it is to be for {}", memory.name));
  return memory.placement == DMABRIDGE_PLACEMENT_DEVICE ? device_pages(buffer, memory.region())
                                                        : system_pages(buffer, size);
}

// How what the device gets differs from these pages. Empty: not at all.
std::string difference_from(const std::vector<std::uint64_t>& pages, const Attachment& attachment,
                            const Table& table) {
  auto expected = pages.begin();
  for (const auto& segment : table.segments) {
    if (segment.address % page != 0 || segment.length % page != 0 || segment.length == 0)
      return fmt::format("{:#x}+{:#x} is not of whole pages", segment.address, segment.length);
    for (std::uint64_t at = 0; at < segment.length; at += page, ++expected) {
      if (expected == pages.end()) return "the table is longer than the buffer";
      const std::uint64_t phys = attachment.translate(segment.address + at);
      if (phys != *expected)
        return fmt::format("page {}: {:#x} leads to {:#x} where {:#x} ought to be",
                           expected - pages.begin(), segment.address + at, phys, *expected);
    }
  }
  return expected == pages.end() ? "" : "the table is shorter than the buffer";
}

// The first of its pages that still leads anywhere. Empty: none.
std::string leftover(const Attachment& attachment, const Table& table) {
  for (const auto& segment : table.segments)
    for (std::uint64_t at = 0; at < segment.length; at += page)
      if (const std::uint64_t phys = attachment.translate(segment.address + at))
        return fmt::format("{:#x} leads to {:#x}", segment.address + at, phys);
  return "";
}

// --- the tests -----------------------------------------------------------------------------------

class MappingTest : public AttachTest {
 protected:
  // Of several runs of system memory.
  static constexpr std::uint64_t size = 3 * MiB + page;
  const Client drive_ = p2p_drive();

  Attachment attach_drive(int buffer, const ImporterKind& kind) const {
    Attached attached = attach(buffer, kind, drive_);
    if (attached.error != 0)
      throw std::runtime_error(fmt::format("the drive cannot attach: {}", attached.error));
    return std::move(attached.attachment);
  }
  // Where nothing translates every address leads somewhere.
  std::string leftover_if_any(const Attachment& attachment, const Table& table) const {
    return translates(drive_) ? leftover(attachment, table) : "";
  }
};

// Not a test of dmabridge: of the guest, which is to be what the other tests are run for.
TEST_F(MappingTest, IommuIsAsTheCommandLineAsks) {
  std::ifstream file("/proc/cmdline");
  const std::string line{std::istreambuf_iterator<char>(file), {}};
  const auto asked = [&](const char* argument) { return line.find(argument) != line.npos; };
  std::string expected = "none";
  if (asked("intel_iommu=on"))
    expected = asked("iommu.passthrough=1") ? "identity"
               : asked("iommu.strict=1")    ? "DMA"
                                            : "DMA-FQ";
  EXPECT_EQ(iommu_type(drive_), expected) << line;
}

class MappingOf : public MappingTest, public testing::WithParamInterface<Memory> {
 protected:
  const Memory memory_ = GetParam();
  Fd buffer_ = allocate_in(memory_.region(), size);
  Attachment attachment_ = attach_drive(buffer_.get(), memory_.importer);
  const std::vector<std::uint64_t> pages_ = pages_of(buffer_.get(), memory_, size);

  void TearDown() override {
    attachment_.detach();
    buffer_.reset();
    MappingTest::TearDown();
  }
  void check_shape(const Table& table) const {
    if (memory_.is_io() || translates(drive_)) {
      EXPECT_FALSE(table.shows_cpu_side());
    }
    if (!memory_.is_io() && translates(drive_)) {
      EXPECT_EQ(table.segments.size(), 1u) << "one span of addresses holds all of it";
    }
  }
};

TEST_P(MappingOf, IsReached) {
  const std::uint32_t id = attachment_.map();
  const Table table = attachment_.table(id);
  EXPECT_EQ(difference_from(pages_, attachment_, table), "");
  check_shape(table);
  EXPECT_EQ(begin_cpu_access(buffer_.get()), 0);
  EXPECT_EQ(end_cpu_access(buffer_.get()), 0);
  EXPECT_EQ(attachment_.unmap(id), 0);
  EXPECT_EQ(leftover_if_any(attachment_, table), "");
}

TEST_P(MappingOf, IsReachedInEveryDirection) {
  for (const auto direction :
       {TEST_IMPORTER_BIDIRECTIONAL, TEST_IMPORTER_TO_DEVICE, TEST_IMPORTER_FROM_DEVICE}) {
    SCOPED_TRACE(int(direction));
    const std::uint32_t id = attachment_.map(direction);
    EXPECT_EQ(difference_from(pages_, attachment_, attachment_.table(id)), "");
    EXPECT_EQ(attachment_.unmap(id), 0);
  }
}

TEST_P(MappingOf, LivesApartFromAnother) {
  Attachment other = attach_drive(buffer_.get(), memory_.importer);
  const std::uint32_t first = attachment_.map(), second = other.map();
  EXPECT_EQ(difference_from(pages_, attachment_, attachment_.table(first)), "");
  EXPECT_EQ(difference_from(pages_, other, other.table(second)), "");
  const Table gone = attachment_.table(first);
  EXPECT_EQ(attachment_.unmap(first), 0);
  EXPECT_EQ(difference_from(pages_, other, other.table(second)), "");
  EXPECT_EQ(leftover_if_any(attachment_, gone), "");
}

INSTANTIATE_TEST_SUITE_P(All, MappingOf, testing::Values(device, redirected, stolen),
                         [](const auto& param) { return param.param.name; });

class MappingOfDeviceMemory : public MappingOf {
 protected:
  // Takes all of it, and leaves holes of this size.
  std::vector<Fd> fragment(std::uint64_t hole) const {
    std::vector<Fd> all, kept;
    try {
      for (;;) all.push_back(allocate_in(memory_.region(), hole));
    } catch (const std::system_error& error) {
      if (error.code().value() != ENOSPC) throw;
    }
    for (std::size_t i = 0; i < all.size(); i += 2) kept.push_back(std::move(all[i]));
    return kept;
  }
};

TEST_P(MappingOfDeviceMemory, OfSeveralChunksIsReached) {
  const std::vector<Fd> between = fragment(8 * MiB);
  const Fd buffer = allocate_in(memory_.region(), 20 * MiB);
  ASSERT_GE(query(buffer.get()).chunks.size(), 3u);
  Attachment attachment = attach_drive(buffer.get(), memory_.importer);
  const std::uint32_t id = attachment.map();
  const Table table = attachment.table(id);
  EXPECT_EQ(difference_from(pages_of(buffer.get(), memory_, 20 * MiB), attachment, table), "");
  check_shape(table);
  EXPECT_EQ(attachment.unmap(id), 0);
  EXPECT_EQ(leftover_if_any(attachment, table), "");
}

// The driver takes the device down as soon as the last mapping is gone. In a lazy domain the kernel
// itself would flush a few milliseconds later only.
TEST_P(MappingOfDeviceMemory, IsOutOfTheIommusCacheAfterUnmap) {
  if (!translates(drive_)) GTEST_SKIP() << "in this guest no IOMMU translates";
  const std::uint32_t id = attachment_.map();
  // What others unmapped before is flushed by now, and not in between.
  std::this_thread::sleep_for(100ms);
  const Tracing tracing("intel_iommu", gettid());
  ASSERT_EQ(attachment_.unmap(id), 0);
  EXPECT_FALSE(tracing.events("qi_submit").empty()) << "no command to the IOMMU";
}

INSTANTIATE_TEST_SUITE_P(All, MappingOfDeviceMemory, testing::Values(device, stolen),
                         [](const auto& param) { return param.param.name; });

// Until its owner lets go of it: what the device still reads or writes is no one else's memory.
TEST_F(MappingTest, OldMappingKeepsItsMemoryOverAMove) {
  const Fd buffer = allocate_in(device.region(), size);
  write_pattern(buffer.get(), size);
  Attachment attachment = attach_drive(buffer.get(), device.importer);
  const std::uint32_t old = attachment.map();
  const auto on_device = pages_of(buffer.get(), device, size);
  {
    Attachment demoter = attach_drive(buffer.get(), redirected.importer);
    EXPECT_EQ(difference_from(on_device, attachment, attachment.table(old)), "");
    const std::uint32_t id = attachment.map();
    const auto in_system = pages_of(buffer.get(), redirected, size);
    EXPECT_EQ(difference_from(in_system, attachment, attachment.table(id)), "");
    EXPECT_EQ(attachment.unmap(old), 0);
    EXPECT_EQ(difference_from(in_system, attachment, attachment.table(id)), "");
    EXPECT_EQ(attachment.unmap(id), 0);
  }
  const Table again = attachment.table(attachment.map());
  EXPECT_EQ(difference_from(pages_of(buffer.get(), device, size), attachment, again), "");
  EXPECT_EQ(difference(buffer.get(), size), "");
}

TEST_F(MappingTest, SegmentsAreNoLongerThanTheDeviceTakes) {
  const Fd buffer = allocate_in(redirected.region(), size);
  Client client = no_bus;
  client.max_segment = 64 * KiB + 512;  // of which whole pages count
  Attached attached = attach(buffer.get(), redirected.importer, client);
  ASSERT_EQ(attached.error, 0);
  const Table table = attached.attachment.table(attached.attachment.map());
  EXPECT_EQ(difference_from(pages_of(buffer.get(), redirected, size), attached.attachment, table),
            "");
  EXPECT_EQ(table.segments.size(), size / (64 * KiB) + 1);
  for (const auto& segment : table.segments) EXPECT_LE(segment.length, 64 * KiB);
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// Memory of other exporters, made and taken by the library, on the kernel's own exporters.
#include <drm/drm.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <dmabridge/any_memory.hpp>
#include <dmabridge/confirm.hpp>
#include <dmabridge/control.hpp>
#include <dmabridge/dma_heap.hpp>
#include <dmabridge/drm_memory.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/exporter_rules.hpp>
#include <dmabridge/plan.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/sync_file.hpp>
#include <dmabridge/udmabuf.hpp>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <optional>
#include <ostream>
#include <regex>

#include "../conformance/transfer_fd.hpp"
#include "../unit/error_of.hpp"
#include "support/child.hpp"
#include "support/drm_card.hpp"
#include "support/fixture.hpp"
#include "support/named_device.hpp"
#include "support/test_importer.hpp"
#include "support/vgem.hpp"

namespace dmabridge::test {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint8_t old_tag = 0x71, new_tag = 0x72;
constexpr std::uint64_t page = 4096;

drm_device vgem_card() {
  return card_of("vgem", "vgem");
}

std::vector<std::byte> pattern(std::uint64_t size, std::uint8_t tag) {
  std::vector<std::byte> bytes(size);
  fill_pattern(bytes.data(), bytes.size(), tag, 0);
  return bytes;
}

std::vector<std::byte> contents(const exported_memory& memory, std::uint64_t offset,
                                std::uint64_t size) {
  std::vector<std::byte> bytes(size);
  memory.owner().copy_out(offset, bytes);
  return bytes;
}

std::string difference(std::span<const std::byte> bytes, std::uint8_t tag,
                       std::uint64_t offset = 0) {
  return pattern_difference(bytes.data(), bytes.size(), tag, offset);
}

std::size_t open_fds() {
  const std::filesystem::directory_iterator fds("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(fds), end(fds)));
}

// In all of the machine, as debugfs counts them.
std::size_t dma_bufs() {
  std::ifstream file("/sys/kernel/debug/dma_buf/bufinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::smatch found;
  if (!std::regex_search(text, found, std::regex("Total ([0-9]+) objects")))
    throw std::runtime_error("bufinfo does not count dma-bufs:\n" + text);
  return std::stoul(found[1]);
}

// A drive reads into memory at `to`: bytes, or -errno.
ssize_t read_drive(std::byte* to, std::size_t size, std::uint64_t at) {
  const Fd raw = open_file(drive("DRIVE0").path(), O_RDONLY | O_DIRECT);
  const ssize_t got = pread(raw.get(), to, size, static_cast<off_t>(at));
  return got < 0 ? -errno : got;
}
constexpr std::uint8_t drive_tag = 0xa0;  // of the pattern that the topology puts on it

// --- every exporter
// -------------------------------------------------------------------------------

struct Source {
  std::string name;
  std::string exporter;  // in fdinfo
  std::string driver;    // of "drm"
  exported_memory (*make)(std::uint64_t size);
};
void PrintTo(const Source& source, std::ostream* out) {
  *out << source.name;
}

// In system memory for good: else the last importer to go has it moved back, and so waits for
// everybody's fences.
exported_memory of_region(std::uint64_t size) {
  const dmabridge::control module;
  return any_memory(
      allocate(find_region(module.regions(), region_of("vram0").name), size, policy::forbid));
}

const std::vector<Source>& sources() {
  static const std::vector<Source> all = {
      {"Udmabuf", "udmabuf", "", [](std::uint64_t size) { return allocate_udmabuf(size); }},
      {"DmaHeap", "system", "", [](std::uint64_t size) { return allocate_dma_heap(size); }},
      {"Vgem", "drm", "vgem", [](std::uint64_t size) { return allocate_dumb(vgem_card(), size); }},
      {"Bochs", "drm", "bochs-drm",
       [](std::uint64_t size) { return allocate_dumb(card_of("bochs-drm", "bochs"), size); }},
      {"VirtioGpu", "virtio_gpu", "",
       [](std::uint64_t size) { return allocate_dumb(card_of("virtio_gpu", "virtio-gpu"), size); }},
      {"Dmabridge", "dmabridge", "", of_region},
  };
  return all;
}

class Adaptors : public GuestTest, public testing::WithParamInterface<Source> {
 protected:
  static constexpr std::uint64_t size = 2 * MiB;
  static exported_memory make(std::uint64_t bytes = size) { return GetParam().make(bytes); }
};

INSTANTIATE_TEST_SUITE_P(, Adaptors, testing::ValuesIn(sources()),
                         [](const auto& source) { return source.param.name; });

TEST_P(Adaptors, ExporterIsRecognised) {
  const exported_memory memory = make();
  EXPECT_EQ(memory.memory().exporter(), GetParam().exporter);
  EXPECT_TRUE(rules_of(memory.memory()).is_known());
  EXPECT_GE(memory.memory().size(), size);
  EXPECT_EQ(memory.size(), size);
}

TEST_P(Adaptors, CopiesMeetASecondMapping) {
  const exported_memory memory = make();
  const Mapping second(memory.memory().descriptor(), size);
  memory.owner().copy_in(0, pattern(size, old_tag));
  EXPECT_EQ(difference(second.bytes(), old_tag), "");
  fill_pattern(second.data(), size, new_tag, 0);
  EXPECT_EQ(difference(contents(memory, 0, size), new_tag), "");
}

TEST_P(Adaptors, CopiesAtOddPlacesTouchNothingElse) {
  const exported_memory memory = make();
  memory.owner().copy_in(0, pattern(size, old_tag));
  const std::vector<std::byte> piece(4999, std::byte{0x5a});
  memory.owner().copy_in(page + 8, piece);
  EXPECT_EQ(contents(memory, page + 8, piece.size()), piece);
  EXPECT_EQ(difference(contents(memory, 0, page + 8), old_tag), "");
  const std::uint64_t behind = page + 8 + 5000;
  EXPECT_EQ(difference(contents(memory, behind, size - behind), old_tag, behind), "");
  EXPECT_EQ(error_of([&] { contents(memory, size - 1, 2); }).kind(), error_kind::usage);
}

TEST_P(Adaptors, PartOfADmaBufBeginsAtItsOffset) {
  const exported_memory all = make();
  all.owner().copy_in(0, pattern(size, old_tag));
  const std::uint64_t offset = 5 * page + 24;
  const exported_memory part =
      any_memory(buffer::duplicate(all.memory().descriptor()), offset, 3 * page);
  EXPECT_EQ(part.memory().inode(), all.memory().inode());
  EXPECT_EQ(difference(contents(part, 0, 3 * page), old_tag, offset), "");
  part.owner().copy_in(8, pattern(16, new_tag));
  EXPECT_EQ(difference(contents(all, offset + 8, 16), new_tag), "");
  EXPECT_EQ(difference(contents(all, 0, offset + 8), old_tag), "");
}

TEST_P(Adaptors, OddSizesAreExact) {
  if (GetParam().name == "Dmabridge") GTEST_SKIP() << "a region's buffers are whole pages";
  const exported_memory memory = make(page + 1);
  EXPECT_EQ(memory.size(), page + 1);
  EXPECT_GE(memory.memory().size(), 2 * page);
  const std::vector<std::byte> last(1, std::byte{0x33});
  memory.owner().copy_in(page, last);
  EXPECT_EQ(contents(memory, page, 1), last);
}

// What the table says of mappings, the kernel does.
TEST_P(Adaptors, MappingsAreAsTheTableSays) {
  const exported_memory memory = make();
  const exporter_rules rules = rules_of(GetParam().exporter, GetParam().driver);
  EXPECT_EQ(rules.driver, GetParam().driver);
  EXPECT_NE(rules.mappable, answer::no);
  const Mapping mapping(memory.memory().descriptor(), size);
  const ssize_t got = read_drive(mapping.data(), 64 * KiB, 0);
  if (rules.pinnable == answer::no) {
    EXPECT_EQ(got, -EFAULT);
  }
  std::uint64_t word = 0;
  const int vmapped = vmap_read(memory.memory().descriptor(), 0, &word, sizeof(word));
  if (rules.vmap != answer::unknown) {
    EXPECT_EQ(vmapped == 0, rules.vmap == answer::yes) << vmapped;
  }
  EXPECT_EQ(memory.owner().pinnable().empty(), GetParam().name != "Udmabuf");
}

// What a device still writes is waited for, by the fence and by the copy.
TEST_P(Adaptors, PendingFenceIsWaitedFor) {
  const exported_memory memory = make();
  memory.owner().copy_in(0, pattern(page, old_tag));
  EXPECT_TRUE(sync_file::export_from(memory.memory(), cpu_access::write).wait(0ms))
      << "nobody uses it";
  Vgem vgem;
  const std::uint32_t fence = vgem.attach_fence(memory.memory().descriptor());
  const sync_file pending = sync_file::export_from(memory.memory(), cpu_access::read);
  EXPECT_FALSE(pending.wait(0ms));
  EXPECT_FALSE(pending.wait(20ms));
  std::atomic<bool> signalled = false, begun = false;
  auto copied = std::async(std::launch::async, [&] {
    begun = true;
    contents(memory, 0, page);
    return signalled.load();
  });
  eventually([&] { return begun.load(); });
  EXPECT_EQ(copied.wait_for(100ms), std::future_status::timeout);
  signalled = true;
  vgem.signal_fence(fence);
  EXPECT_TRUE(copied.get()) << "copied while a device was writing";
  EXPECT_TRUE(pending.wait());
}

// A fence of one buffer, put on this one.
TEST_P(Adaptors, ImportedFenceHoldsUpOthers) {
  const exported_memory memory = make();
  Vgem vgem;
  const Fd other = vgem.export_new(page);
  const std::uint32_t fence = vgem.attach_fence(other.get());
  {
    const sync_file theirs =
        sync_file::export_from(buffer::duplicate(other.get()), cpu_access::read);
    theirs.import_into(memory.memory(), cpu_access::write);
  }
  const sync_file ours = sync_file::export_from(memory.memory(), cpu_access::read);
  EXPECT_FALSE(ours.wait(0ms));
  vgem.signal_fence(fence);
  EXPECT_TRUE(ours.wait());
}

TEST_P(Adaptors, NothingLeaks) {
  make();  // what is made once and kept: drivers, nodes
  const std::size_t fds = open_fds(), buffers = dma_bufs();
  for (int i = 0; i < 5; ++i) {
    exported_memory memory = make();
    memory.owner().copy_in(0, pattern(page, old_tag));
    const exported_memory moved = std::move(memory);
    EXPECT_EQ(difference(contents(moved, 0, page), old_tag), "");
    sync_file::export_from(moved.memory(), cpu_access::write);
    EXPECT_EQ(error_of([&] {
                any_memory(buffer::duplicate(moved.memory().descriptor()), 0, size * 16);
              }).kind(),
              error_kind::usage);
    EXPECT_GT(dma_bufs(), buffers);
  }
  EXPECT_EQ(open_fds(), fds);
  EXPECT_TRUE(eventually([&] { return dma_bufs() == buffers; })) << dma_bufs() << " dma-bufs";
}

// A child has the memory as well, and keeps it when the parent's is gone.
TEST_P(Adaptors, ChildSharesTheMemoryAndOutlivesTheParents) {
  std::optional<exported_memory> memory = make();
  memory->owner().copy_in(0, pattern(page, old_tag));
  Fd ends[2];
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  ends[0] = Fd(sockets[0]);
  ends[1] = Fd(sockets[1]);
  Child child([&](const Child::Say& say) {
    char go = 0;
    if (read(ends[1].get(), &go, 1) != 1) return;
    std::uint64_t word = 0;
    memory->owner().copy_out(8, std::as_writable_bytes(std::span(&word, 1)));
    say(word);
  });
  memory->owner().copy_in(0, pattern(page, new_tag));
  memory.reset();
  ASSERT_EQ(write(ends[0].get(), "", 1), 1);
  EXPECT_EQ(child.wait(), std::uint64_t{new_tag} << 56 | 8);
}

TEST_P(Adaptors, FdIsPassedToOthers) {
  int sockets[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  const Fd here(sockets[0]), there(sockets[1]);
  std::uint64_t inode = 0;
  {
    const exported_memory memory = make();
    memory.owner().copy_in(0, pattern(size, old_tag));
    conformance::send_fd(here.get(), memory.memory().descriptor());
    inode = memory.memory().inode();
  }
  Fd received = conformance::receive_fd(there.get());
  // Two owners of one fd cannot be: this is the test's, that is the library's.
  const exported_memory memory = any_memory(buffer::duplicate(received.get()), 0, size);
  received.reset();
  EXPECT_EQ(memory.memory().inode(), inode);
  EXPECT_EQ(difference(contents(memory, 0, size), old_tag), "");
}

// --- udmabuf
// --------------------------------------------------------------------------------------

// Needs none of our modules, and can be run without them: tests/vm --no-modules.
class UdmabufTest : public testing::Test {};

TEST_F(UdmabufTest, DriveReadsIntoThePinnableMapping) {
  const exported_memory memory = allocate_udmabuf(4 * MiB);
  const std::span<std::byte> pinnable = memory.owner().pinnable();
  ASSERT_EQ(pinnable.size(), 4 * MiB);
  Ring ring;
  const iovec fixed{pinnable.data(), pinnable.size()};
  ASSERT_EQ(io_uring_register_buffers(ring.get(), &fixed, 1), 0);
  const Fd raw = open_file(drive("DRIVE0").path(), O_RDONLY | O_DIRECT);
  for (std::uint64_t at = 0; at < 4 * MiB; at += MiB) {
    io_uring_prep_read_fixed(ring.next(), raw.get(), pinnable.data() + at, MiB, 8 * MiB + at, 0);
    ring.submit();
    ASSERT_EQ(ring.wait(), static_cast<int>(MiB));
  }
  const Mapping dma_buf(memory.memory().descriptor(), 4 * MiB);
  EXPECT_EQ(difference(dma_buf.bytes(), drive_tag, 8 * MiB), "");
  EXPECT_EQ(difference(contents(memory, 0, 4 * MiB), drive_tag, 8 * MiB), "");
}

TEST_F(UdmabufTest, PartOfACallersMemfd) {
  const Fd memfd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(memfd.get(), 16 * page), 0);
  EXPECT_THAT(error_of([&] { udmabuf_of(memfd.get(), 0, page); }).what(),
              HasSubstr("F_SEAL_SHRINK"));
  ASSERT_EQ(fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  const Mapping theirs(memfd.get(), 16 * page);
  fill_pattern(theirs.data(), theirs.size(), old_tag, 0);
  const exported_memory memory = udmabuf_of(memfd.get(), 4 * page, 2 * page);
  EXPECT_EQ(memory.memory().size(), 2 * page);
  EXPECT_EQ(difference(contents(memory, 0, 2 * page), old_tag, 4 * page), "");
  EXPECT_EQ(difference(memory.owner().pinnable(), old_tag, 4 * page), "");
  ASSERT_EQ(read_drive(memory.owner().pinnable().data(), 2 * page, MiB),
            static_cast<ssize_t>(2 * page));
  EXPECT_EQ(difference({theirs.data() + 4 * page, 2 * page}, drive_tag, MiB), "");
  EXPECT_EQ(difference({theirs.data(), 4 * page}, old_tag), "");
  EXPECT_EQ(difference({theirs.data() + 6 * page, 10 * page}, old_tag, 6 * page), "");
  EXPECT_GE(fcntl(memfd.get(), F_GETFD), 0) << "it stays the caller's";
}

TEST_F(UdmabufTest, MemfdsThatAreNone) {
  const Fd unsealable(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(unsealable.get(), page), 0);
  EXPECT_THAT(error_of([&] { udmabuf_of(unsealable.get(), 0, page); }).what(),
              HasSubstr("MFD_ALLOW_SEALING"));
  const Fd file = open_file("/proc/self/exe", O_RDONLY);
  EXPECT_THAT(error_of([&] { udmabuf_of(file.get(), 0, page); }).what(),
              HasSubstr("takes no seals"));
}

TEST_F(UdmabufTest, HugePages) {
  const std::string node = "/proc/sys/vm/nr_hugepages";
  EXPECT_THAT(error_of([] { allocate_udmabuf(3 * MiB, memfd_pages::huge); }).what(),
              HasSubstr("2 huge page(s) of 2 MiB"));
  ASSERT_EQ(write_text(node, "2"), 0);
  {
    const exported_memory memory = allocate_udmabuf(3 * MiB, memfd_pages::huge);
    EXPECT_EQ(memory.size(), 3 * MiB);
    ASSERT_EQ(read_drive(memory.owner().pinnable().data(), 3 * MiB, 0),
              static_cast<ssize_t>(3 * MiB));
    EXPECT_EQ(difference(contents(memory, 0, 3 * MiB), drive_tag), "");
  }
  EXPECT_EQ(write_text(node, "0"), 0);
}

TEST_F(UdmabufTest, LimitOfTheModuleIsTold) {
  const std::string node = "/sys/module/udmabuf/parameters/size_limit_mb";
  std::string before;
  std::getline(std::ifstream(node), before);
  ASSERT_EQ(write_text(node, "1"), 0);
  EXPECT_EQ(allocate_udmabuf(MiB).size(), MiB);
  EXPECT_THAT(error_of([] { allocate_udmabuf(MiB + 1); }).what(),
              AllOf(HasSubstr("no larger ones than 1 MiB"), HasSubstr("echo 2 > " + node)));
  EXPECT_EQ(write_text(node, before), 0);
}

// What somebody without rights is told, in a process of their own.
TEST_F(UdmabufTest, NodesOfOthers) {
  Child child([](const Child::Say& say) {
    if (setgid(65534) != 0 || setuid(65534) != 0) return;
    const std::string udmabuf = error_of([] { allocate_udmabuf(page); }).what();
    const std::string heap = error_of([] { allocate_dma_heap(page); }).what();
    say((udmabuf.find("usermod -aG kvm") != std::string::npos ? 1U : 0U) +
        (heap.find("chgrp render /dev/dma_heap/system") != std::string::npos ? 2U : 0U));
  });
  EXPECT_EQ(child.wait(), 3U);
}

TEST_F(UdmabufTest, HeapsAreListed) {
  EXPECT_THAT(dma_heaps(), testing::Contains("system"));
  EXPECT_THAT(error_of([] { allocate_dma_heap(page, "none"); }).what(), HasSubstr("there are: "));
}

// --- DRM
// -------------------------------------------------------------------------------------------

class DrmTest : public testing::Test {};

TEST_F(DrmTest, ImportedHandleIsTheSameMemoryAndExportsAsTheSame) {
  const drm_device card = vgem_card();
  const exported_memory memory = allocate_dma_heap(2 * page);
  const drm_handle imported = import_drm(card, memory.memory());
  const exported_memory again = export_drm(card, imported.value());
  EXPECT_EQ(again.memory().inode(), memory.memory().inode());
  memory.owner().copy_in(0, pattern(page, old_tag));
  EXPECT_EQ(difference(contents(again, 0, page), old_tag), "");
}

// The kernel has one handle for both: the first to go must not take it from the other.
TEST_F(DrmTest, HandlesOfOneDmaBufGoInAnyOrder) {
  const drm_device card = vgem_card();
  const exported_memory memory = allocate_dma_heap(page);
  std::optional<drm_handle> one = import_drm(card, memory.memory());
  std::optional<drm_handle> two = import_drm(card, memory.memory());
  EXPECT_EQ(one->value(), two->value());
  one.reset();
  EXPECT_EQ(export_drm(card, two->value()).memory().inode(), memory.memory().inode());
  const std::uint32_t value = two->value();
  two.reset();
  EXPECT_EQ(error_of([&] { export_drm(card, value); }).code(), ENOENT);
}

// The child has the same open file, and ends with its objects destroyed.
TEST_F(DrmTest, HandleIsNotClosedByAChildOfFork) {
  const drm_device card = vgem_card();
  const exported_memory memory = allocate_dma_heap(page);
  std::optional<drm_handle> imported = import_drm(card, memory.memory());
  Child child([&](const Child::Say& say) {
    imported.reset();
    say(1);
  });
  ASSERT_EQ(child.wait(), 1U);
  EXPECT_EQ(export_drm(card, imported->value()).memory().inode(), memory.memory().inode());
}

TEST_F(DrmTest, HandleOutlivesDeviceAndBuffer) {
  std::optional<drm_device> card = vgem_card();
  std::optional<exported_memory> memory = allocate_dma_heap(page);
  memory->owner().copy_in(0, pattern(page, old_tag));
  const drm_device shared = drm_device::duplicate(card->descriptor());
  const drm_handle imported = import_drm(*card, memory->memory());
  card.reset();
  memory.reset();
  const exported_memory again = export_drm(shared, imported.value());
  EXPECT_EQ(difference(contents(again, 0, page), old_tag), "");
}

TEST_F(DrmTest, RenderNodesHaveNoDumbBuffers) {
  vgem_card();  // loads the driver
  const drm_device node = [] {
    for (const auto& entry : std::filesystem::directory_iterator("/dev/dri"))
      if (entry.path().filename().string().starts_with("renderD"))
        return drm_device::open(entry.path());
    throw std::runtime_error("no render node");
  }();
  const error failure = error_of([&] { allocate_dumb(node, page); });
  EXPECT_EQ(failure.code(), EACCES);
  EXPECT_THAT(failure.what(), HasSubstr("/dev/dri/card*"));
}

TEST_F(DrmTest, DriversThatTakeOnlyTheirOwn) {
  const drm_device card = card_of("virtio_gpu", "virtio-gpu");
  const error failure = error_of([&] { import_drm(card, allocate_udmabuf(page).memory()); });
  EXPECT_EQ(failure.kind(), error_kind::refused);
  EXPECT_EQ(failure.code(), ENODEV);
  EXPECT_THAT(failure.what(), HasSubstr("import a dma-buf of udmabuf into virtio_gpu"));
}

// What their rules foretell of block I/O the kernel confirms; of virtio_gpu's nothing is foretold.
TEST_F(DrmTest, DisplaysHaveMemoryThatABindingTakes) {
  const auto machine = read_topology();
  const dmabridge::control module;
  const std::vector importers{
      importer_named(machine, drive("DRIVE0").path(), dmabridge::policy::prefer)};
  for (const auto& [driver, name] :
       {std::pair{"bochs-drm", "bochs"}, std::pair{"virtio_gpu", "virtio-gpu"}}) {
    SCOPED_TRACE(driver);
    const auto memory = allocate_dumb(card_of(driver, name), 2 * MiB);
    const auto facts = facts_of(rules_of_driver(driver), driver, memory.memory().size(),
                                dmabridge::policy::prefer);
    const auto foretold = negotiate(machine, facts, importers).importers.front();
    EXPECT_EQ(foretold.unknown, std::string(driver) == "virtio_gpu");
    const auto found = confirm(module, memory.memory(), machine, facts, importers);
    EXPECT_TRUE(found.differences.empty());
    EXPECT_EQ(found.joint.importers.front().word.state, verdict_state::confirmed);
    EXPECT_EQ(found.joint.importers.front().word.route, route::system);
  }
}

// By the names that people have for them.
TEST_F(DrmTest, ExplainTellsOfADisplaysMemory) {
  card_of("bochs-drm", "bochs");
  card_of("virtio_gpu", "virtio-gpu");
  const auto machine = read_topology();
  for (const auto& node : machine.drm) {
    if (!node.function) continue;
    SCOPED_TRACE(node.card + ", " + node.driver);
    for (const std::string& spec : {node.card, to_string(*node.function)}) {
      const Output told =
          shell(fmt::format("dmabridge explain {} {}", spec, drive("DRIVE0").path()));
      const auto known = rules_of_driver(node.driver).bindable == answer::yes;
      EXPECT_EQ(told.status, known ? 1 : 3) << told.text;
      EXPECT_THAT(told.text, HasSubstr("as driver " + node.driver + " exports it"));
      EXPECT_THAT(told.text,
                  HasSubstr(known ? "system, no copy (predicted)" : "answer: not known"));
    }
  }
}

TEST_F(DrmTest, WhatIsNoNode) {
  EXPECT_THAT(error_of([] { drm_device::open("/dev/null"); }).what(), HasSubstr("no DRM node"));
  EXPECT_THAT(error_of([] { drm_device::open("/dev/dri/card99"); }).what(),
              HasSubstr("ls /dev/dri"));
}

// --- fences
// ----------------------------------------------------------------------------------------

class SyncFileTest : public testing::Test {};

TEST_F(SyncFileTest, MergedFenceWaitsForBoth) {
  Vgem vgem;
  const buffer one = buffer::from_fd(dmabridge::fd(dup(vgem.export_new(page).get())));
  const buffer two = buffer::from_fd(dmabridge::fd(dup(vgem.export_new(page).get())));
  const std::uint32_t first = vgem.attach_fence(one.descriptor());
  const std::uint32_t second = vgem.attach_fence(two.descriptor());
  const sync_file both = sync_file::merge(sync_file::export_from(one, cpu_access::read),
                                          sync_file::export_from(two, cpu_access::read));
  vgem.signal_fence(second);
  EXPECT_FALSE(both.wait(0ms));
  vgem.signal_fence(first);
  EXPECT_TRUE(both.wait());
}

TEST_F(SyncFileTest, ReadersDoNotHoldUpReaders) {
  Vgem vgem;
  const exported_memory memory = allocate_udmabuf(page);
  const Fd other = vgem.export_new(page);
  const std::uint32_t fence = vgem.attach_fence(other.get());
  sync_file::export_from(buffer::duplicate(other.get()), cpu_access::read)
      .import_into(memory.memory(), cpu_access::read);
  EXPECT_TRUE(sync_file::export_from(memory.memory(), cpu_access::read).wait(0ms));
  EXPECT_FALSE(sync_file::export_from(memory.memory(), cpu_access::write).wait(0ms));
  vgem.signal_fence(fence);
  EXPECT_TRUE(sync_file::export_from(memory.memory(), cpu_access::write).wait());
}

TEST_F(SyncFileTest, OtherFilesAreNone) {
  const Fd file = open_file("/dev/null", O_RDONLY);
  EXPECT_THAT(error_of([&] { sync_file::from_fd(dmabridge::fd(dup(file.get()))); }).what(),
              HasSubstr("anon_inode:sync_file"));
}

}  // namespace
}  // namespace dmabridge::test

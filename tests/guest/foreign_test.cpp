// SPDX-License-Identifier: MIT
//
// Bindings of other exporters' dma-bufs.
#include <bad_exporter.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <chrono>
#include <dmabridge/block_importer.hpp>
#include <dmabridge/confirm.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/exporter_rules.hpp>
#include <dmabridge/plan.hpp>
#include <dmabridge/topology.hpp>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <thread>

#include "machine.hpp"
#include "support/block_fixture.hpp"
#include "support/child.hpp"
#include "support/system_buffers.hpp"
#include "support/test_importer.hpp"

namespace dmabridge::test {
namespace {

using oracle::Operation;
using testing::HasSubstr;

// How many references there are on a dma-buf, by /proc.
std::uint64_t references(int buffer) {
  std::ifstream file(fmt::format("/proc/self/fdinfo/{}", buffer));
  for (std::string key; file >> key;) {
    std::uint64_t value = 0;
    if (key == "count:" && file >> value) return value;
  }
  return 0;
}

// Where a drive without an IOMMU finds a buffer's bytes.
class Pages {
 public:
  explicit Pages(int buffer) : attached_(attach(buffer, static_importer, nvme("SAMESW"))) {
    if (attached_.error != 0) throw std::runtime_error("cannot attach a drive");
    auto segments = attached_.attachment.table(attached_.attachment.map()).segments;
    std::ranges::sort(segments, {}, &test_importer_segment::address);
    // A drive may go on from one to the next.
    for (const auto& each : segments) {
      if (!runs_.empty() && runs_.back().start + runs_.back().length == each.address)
        runs_.back().length += each.length;
      else
        runs_.push_back({each.address, each.length});
    }
  }

  bool hold(const oracle::DmaTarget& target) const {
    return std::ranges::any_of(runs_, [&](const auto& each) { return each.holds(target); });
  }

 private:
  Attached attached_;
  std::vector<oracle::Window> runs_;
};

struct Moved {
  std::uint64_t to_buffer = 0;
  std::uint64_t elsewhere = 0;
};

// What a drive's commands on these extents moved to or from the buffer's own pages.
Moved moved_by(const TraceWatch& watch, const Drive& drive, Operation operation,
               const std::vector<oracle::Extent>& extents, const Pages& pages) {
  Moved moved;
  for (const oracle::Command& command : watch.commands()) {
    if (command.nsid != drive.nsid || command.operation != operation ||
        !oracle::touches(command, extents))
      continue;
    for (const oracle::DmaTarget& target : command.targets)
      (pages.hold(target) ? moved.to_buffer : moved.elsewhere) += target.length;
  }
  return moved;
}

class ForeignTest : public BlockTest {
 protected:
  Bound join(Fd buffer, const std::string& path, std::uint32_t flags = DMABRIDGE_BIND_READ,
             int target_flags = O_RDWR, std::uint32_t policy = DMABRIDGE_POLICY_PREFER) {
    Bound bound;
    bound.buffer = std::move(buffer);
    bound.target = open_file(path, target_flags);
    bound.binding = bind(bound.buffer.get(), bound.target.get(), policy, flags);
    return bound;
  }

  // Through the dma-buf's own mapping.
  std::string foreign_difference(int buffer, std::uint64_t offset, std::uint64_t length,
                                 std::uint8_t tag, std::uint64_t pattern_offset) {
    const Mapping mapping(buffer, offset + length);
    return pattern_difference(mapping.data() + offset, length, tag, pattern_offset);
  }

  // That of the bind is the answer in advance.
  void expect_foretold(int buffer, const std::string& path, std::uint32_t policy,
                       std::uint32_t flags, int target_flags) {
    const Fd target = open_file(path, target_flags);
    const auto before = references(buffer);
    const Answer answer = ask_file(buffer, target.get(), policy, flags);
    EXPECT_EQ(references(buffer), before) << "a question leaves nothing behind";
    const Binding bound = bind(buffer, target.get(), policy, flags);
    EXPECT_EQ(answer.error, bound.error) << path;
    EXPECT_EQ(describe(answer.verdict), describe(bound.verdict)) << path;
    EXPECT_EQ(answer.placement,
              bound.error == 0 ? DMABRIDGE_PLACEMENT_SYSTEM : DMABRIDGE_PLACEMENT_NONE);
  }

  const Drive raw_ = drive("SAMESW");
};

struct Kind {
  const char* name;
  const char* exporter;     // as it calls itself
  const char* driver = "";  // of DRM, where that is how it calls itself
};

class Foreign : public ForeignTest, public testing::WithParamInterface<Kind> {
 protected:
  exporter_rules rules() const { return rules_of(GetParam().exporter, GetParam().driver); }

  Fd make_buffer(std::uint64_t size) {
    const std::string name = GetParam().name;
    if (name == "Heap") return allocate_from_heap(size);
    if (name == "Udmabuf") return make_udmabuf(size).buffer;
    if (!vgem_) vgem_.emplace();
    return vgem_->export_new(size);
  }

 private:
  std::optional<Vgem> vgem_;
};

INSTANTIATE_TEST_SUITE_P(Exporters, Foreign,
                         testing::Values(Kind{"Heap", "system"}, Kind{"Udmabuf", "udmabuf"},
                                         Kind{"Vgem", "drm", "vgem"}),
                         [](const auto& test) { return std::string(test.param.name); });

// --- bytes
// --------------------------------------------------------------------------------------

TEST_P(Foreign, RawReadGoesStraightToItsPages) {
  const Bound bound = join(make_buffer(8 * MiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_EQ(bound.binding.verdict.policy, DMABRIDGE_POLICY_PREFER);
  ASSERT_EQ(bound.binding.verdict.nr_reasons, 1u) << describe(bound.binding.verdict);
  const dmabridge_reason* reason =
      find_reason(bound.binding.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER);
  ASSERT_TRUE(reason) << describe(bound.binding.verdict);
  EXPECT_STREQ(reason->name, GetParam().exporter);
  EXPECT_EQ(reason->value, 0u);
  EXPECT_EQ(bound.info().buffer_size, 8 * MiB);
  EXPECT_EQ(bound.info().generation, 0u);

  const Pages pages(bound.buffer.get());
  TraceWatch watch;
  ASSERT_EQ(load(bound, 8 * MiB, 32 * MiB), static_cast<std::int64_t>(8 * MiB));
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, 8 * MiB, 0xa0, 32 * MiB), "");
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 8 * MiB);
  const Moved moved = moved_by(watch, raw_, Operation::read, {{32 * MiB, 8 * MiB, 0}}, pages);
  EXPECT_EQ(moved.to_buffer, 8 * MiB);
  EXPECT_EQ(moved.elsewhere, 0u) << "it was copied";
}

TEST_P(Foreign, RawWriteComesStraightFromItsPages) {
  const Bound bound =
      join(make_buffer(4 * MiB), raw_.path(), DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  const Pages pages(bound.buffer.get());
  const Mapping mapping(bound.buffer.get(), 4 * MiB);
  fill_pattern(mapping.data(), 4 * MiB, 0x31, 0);
  TraceWatch watch;
  ASSERT_EQ(save(bound, 4 * MiB, 100 * MiB), static_cast<std::int64_t>(4 * MiB));
  const Moved moved = moved_by(watch, raw_, Operation::write, {{100 * MiB, 4 * MiB, 0}}, pages);
  EXPECT_EQ(moved.to_buffer, 4 * MiB);
  EXPECT_EQ(moved.elsewhere, 0u);
  const auto image = host_read(raw_.image(), 100 * MiB, 4 * MiB);
  EXPECT_EQ(pattern_difference(image.data(), image.size(), 0x31, 0), "");

  // As it was, for the next test.
  fill_pattern(mapping.data(), 4 * MiB, 0xa0, 100 * MiB);
  ASSERT_EQ(save(bound, 4 * MiB, 100 * MiB), static_cast<std::int64_t>(4 * MiB));
}

// Every alignment that the kernel allows, at random places; nothing beside the range changes.
TEST_P(Foreign, RandomRangesLandWhereTheyShould) {
  const std::uint64_t size = 4 * MiB;
  const Bound bound = join(make_buffer(size), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  const Mapping mapping(bound.buffer.get(), size);
  std::vector<std::byte> expected(size);
  fill_pattern(expected.data(), size, 0x77, 0);
  std::ranges::copy(expected, mapping.data());
  read_random_ranges(bound, raw_.size, 0xa0, 100, 5, expected);
  const auto [is, should] = std::ranges::mismatch(mapping.bytes(), expected);
  EXPECT_EQ(should, expected.end()) << "first difference at " << should - expected.begin();
}

TEST_P(Foreign, RangesAreChecked) {
  const Bound bound = join(make_buffer(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 60 * KiB, 8 * KiB, 0), -ERANGE);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, ~0ULL, 4096, 0), -ERANGE);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 100, 0), -EINVAL);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 1, 4096, 0), -EINVAL);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_WRITE, 0, 4096, 0), -EBADF);
  EXPECT_EQ(bound.info().errors, 5u);
  EXPECT_EQ(bound.bytes_on_all(), 0u);
}

TEST_P(Foreign, EndOfTheDeviceIsShort) {
  const Bound bound = join(make_buffer(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 64 * KiB, raw_.size - 8 * KiB),
            static_cast<int>(8 * KiB));
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, 8 * KiB, 0xa0, raw_.size - 8 * KiB), "");
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, raw_.size), 0);
}

TEST_P(Foreign, FilesOfBothKinds) {
  const std::uint64_t size = 4 * MiB + 1000;
  for (const char* fs : {"ext4", "xfs"}) {
    SCOPED_TRACE(fs);
    const Drive drive = test::drive("SAMESW", fs);
    const Mount mount(drive.path(), fs);
    const std::string path = mount.file("foreign");
    make_pattern_file(path, size, 0x61);
    {
      const Bound bound =
          join(make_buffer(8 * MiB), path, DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
      ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
      EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
      const Pages pages(bound.buffer.get());
      const auto places = oracle::extents_of(bound.target.get());
      {
        TraceWatch watch;
        // To an offset inside, and to the end of the file, which is inside a block.
        ASSERT_EQ(load(bound, 5 * MiB, 0, 12 * KiB), static_cast<std::int64_t>(size));
        const Moved moved = moved_by(watch, drive, Operation::read, places, pages);
        EXPECT_GE(moved.to_buffer, size);
        EXPECT_EQ(moved.elsewhere, 0u) << "it was copied";
      }
      EXPECT_EQ(foreign_difference(bound.buffer.get(), 12 * KiB, size, 0x61, 0), "");
      expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, size);

      const Mapping mapping(bound.buffer.get(), 8 * MiB);
      fill_pattern(mapping.data(), 2 * MiB, 0x62, 0);
      TraceWatch watch;
      ASSERT_EQ(save(bound, 2 * MiB, 1 * MiB), static_cast<std::int64_t>(2 * MiB));
      ASSERT_EQ(fsync(bound.target.get()), 0);
      const Moved moved = moved_by(watch, drive, Operation::write, places, pages);
      EXPECT_EQ(moved.to_buffer, 2 * MiB);
      EXPECT_EQ(moved.elsewhere, 0u);
      const auto bytes = read_file(path, 1 * MiB, 2 * MiB);
      EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x62, 0), "");
      expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, size + 2 * MiB);
    }
    ASSERT_EQ(unlink(path.c_str()), 0);
  }
}

TEST_P(Foreign, HolesAreZeros) {
  const Drive drive = test::drive("SAMESW", "xfs");
  const Mount mount(drive.path(), "xfs");
  const std::string path = mount.file("hole");
  {
    const Fd file = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
    ASSERT_EQ(ftruncate(file.get(), 1 * MiB), 0);
  }
  {
    const Bound bound = join(make_buffer(1 * MiB), path, DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0);
    const Mapping mapping(bound.buffer.get(), 1 * MiB);
    std::ranges::fill(mapping.bytes(), std::byte(0x55));
    ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
    EXPECT_TRUE(
        std::ranges::all_of(mapping.bytes(), [](std::byte byte) { return byte == std::byte(0); }));
    expect_only(bound, DMABRIDGE_ROUTE_UNPROVED, 1 * MiB);
  }
  ASSERT_EQ(unlink(path.c_str()), 0);
}

// It takes a direct I/O, and nobody can say what it does then.
TEST_P(Foreign, TmpfsIsUnproved) {
  const Mount mount("foreign", "tmpfs");
  const std::string path = mount.file("pattern");
  make_pattern_file(path, 1 * MiB, 0x44);
  const Bound bound = join(make_buffer(1 * MiB), path, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_FILESYSTEM_UNLISTED));
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, 1 * MiB, 0x44, 0), "");
  expect_only(bound, DMABRIDGE_ROUTE_UNPROVED, 1 * MiB);
}

// A data journal is written by the CPU; ext4 has one only without delayed allocation.
TEST_P(Foreign, WithoutDirectIoItBounces) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4", "nodelalloc");
  const std::string path = mount.file("journalled");
  make_pattern_file(path, 1 * MiB, 0x44);
  {
    const Fd file = open_file(path, O_RDWR);
    journal_data(file.get());
    ASSERT_EQ(fsync(file.get()), 0);
    const Bound bound =
        join(make_buffer(1 * MiB), path, DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_BOUNCE);
    EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_FILE_NO_DIRECT_IO));
    ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
    EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, 1 * MiB, 0x44, 0), "");
    const Mapping mapping(bound.buffer.get(), 1 * MiB);
    fill_pattern(mapping.data(), 1 * MiB, 0x45, 0);
    ASSERT_EQ(save(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
    const auto bytes = read_file(path, 0, 1 * MiB);
    EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x45, 0), "");
    expect_only(bound, DMABRIDGE_ROUTE_BOUNCE, 2 * MiB);
  }
  ASSERT_EQ(unlink(path.c_str()), 0);
}

// The owner's way in sees what the drive brought, though the owner never touched it.
TEST_F(ForeignTest, MemfdHasTheBytesOnceAllElseIsClosed) {
  Udmabuf made = make_udmabuf(4 * MiB);
  {
    const Bound bound = join(std::move(made.buffer), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    ASSERT_EQ(load(bound, 4 * MiB), static_cast<std::int64_t>(4 * MiB));
  }
  const Mapping mapping(made.memory.get(), 4 * MiB);
  EXPECT_EQ(pattern_difference(mapping.data(), 4 * MiB, 0xa0, 0), "");
  // Nor does it when memory is short: without a word from us these pages were never written.
  ASSERT_EQ(madvise(mapping.data(), 4 * MiB, MADV_PAGEOUT), 0);
  EXPECT_EQ(pattern_difference(mapping.data(), 4 * MiB, 0xa0, 0), "");
}

// --- verdicts
// -----------------------------------------------------------------------------------

TEST_P(Foreign, QuestionsAreAnsweredAsBindsAre) {
  const Fd buffer = make_buffer(64 * KiB);
  const Mount mount("foreign", "tmpfs");
  make_pattern_file(mount.file("pattern"), 64 * KiB, 0x44);
  const Drive ext4 = drive("SAMESW", "ext4");
  const Mount files(ext4.path(), "ext4");
  make_pattern_file(files.file("pattern"), 64 * KiB, 0x44);
  for (const std::uint32_t policy :
       {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_PREFER, DMABRIDGE_POLICY_FORBID}) {
    for (const std::string& path :
         {raw_.path(), drive("VIRTIO").path(), files.file("pattern"), mount.file("pattern")})
      for (const std::uint32_t flags : {DMABRIDGE_BIND_READ, DMABRIDGE_BIND_WRITE})
        expect_foretold(buffer.get(), path, policy, flags, O_RDWR);
    // A mounted drive.
    expect_foretold(buffer.get(), ext4.path(), policy, DMABRIDGE_BIND_READ, O_RDONLY);
  }
  expect_foretold(buffer.get(), "/dev/zero", DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_READ, O_RDWR);
  expect_foretold(buffer.get(), raw_.path(), DMABRIDGE_POLICY_PREFER, DMABRIDGE_BIND_WRITE,
                  O_RDONLY);
  ASSERT_EQ(unlink(files.file("pattern").c_str()), 0);
}

// What the library foretells without the kernel, the kernel says, and does.
TEST_P(Foreign, PredictionsComeTrue) {
  const Fd buffer = make_buffer(64 * KiB);
  const Drive ext4 = drive("SAMESW", "ext4");
  const Mount files(ext4.path(), "ext4");
  const std::string file = files.file("pattern");
  make_pattern_file(file, 64 * KiB, 0x44);
  const auto machine = read_topology();
  const auto facts = facts_of(rules(), GetParam().exporter, 64 * KiB, policy::prefer);
  for (const std::string& path : {raw_.path(), drive("VIRTIO").path(), file})
    for (const auto wanted : {policy::require, policy::prefer, policy::forbid}) {
      SCOPED_TRACE(fmt::format("{}, policy {}", path, static_cast<int>(wanted)));
      const auto importer = importer_named(machine, path, wanted);
      const auto joint = negotiate(machine, facts, {&importer, 1});
      const auto& predicted = joint.importers.front();
      EXPECT_FALSE(predicted.unknown);
      const Fd target = open_file(path, O_RDONLY);
      const Answer answer =
          ask_file(buffer.get(), target.get(), static_cast<std::uint32_t>(wanted));
      EXPECT_EQ(static_cast<std::uint32_t>(predicted.word.route), answer.verdict.route);
      std::set<std::uint32_t> here, there;
      for (const auto& why : predicted.word.reasons) here.insert(why.code);
      for (std::uint32_t i = 0; i < answer.verdict.nr_reasons; i++)
        there.insert(answer.verdict.reasons[i].code);
      EXPECT_EQ(here, there) << describe(answer.verdict);
      const Binding bound = bind(buffer.get(), target.get(), static_cast<std::uint32_t>(wanted));
      EXPECT_EQ(bound.error, answer.error);
      if (bound.error != 0) continue;
      ASSERT_EQ(ring_.transfer(bound.fd.get(), DMABRIDGE_URING_READ, 0, 64 * KiB, 0),
                static_cast<int>(64 * KiB));
      EXPECT_EQ(binding_info(bound.fd.get()).routes[answer.verdict.route].bytes, 64 * KiB);
    }
  ASSERT_EQ(unlink(file.c_str()), 0);
}

// Also of a DRM driver's, of which its dma-buf does not tell which driver that is.
TEST_P(Foreign, ConfirmLearnsFromTheKernelWhereTheMemoryIs) {
  const Fd made = make_buffer(64 * KiB);
  const auto memory = dmabridge::buffer::duplicate(made.get());
  const auto machine = read_topology();
  const dmabridge::control module;
  const auto facts = facts_of(memory, policy::prefer);
  EXPECT_EQ(facts.foreign, GetParam().exporter);
  for (const auto wanted : {policy::require, policy::prefer, policy::forbid}) {
    const auto raw = importer_named(machine, raw_.path(), wanted);
    const std::vector importers{raw, importer_named(machine, drive("VIRTIO").path(), wanted),
                                importer_named(machine, to_string(raw.functions.at(0)), wanted)};
    const auto before = references(memory.descriptor());
    const auto found = confirm(module, memory, machine, facts, importers);
    EXPECT_EQ(references(memory.descriptor()), before) << "a question left something behind";
    EXPECT_TRUE(found.differences.empty());
    EXPECT_EQ(found.joint.state, verdict_state::predicted);
    for (std::size_t i = 0; i < 2; i++) {
      const auto& drive = found.joint.importers.at(i);
      SCOPED_TRACE(fmt::format("{}, policy {}", drive.importer, static_cast<int>(wanted)));
      EXPECT_EQ(drive.word.state, verdict_state::confirmed);
      EXPECT_FALSE(drive.unknown);
      EXPECT_EQ(drive.word.route, wanted == policy::require ? route::none : route::system);
    }
    const auto& function = found.joint.importers.at(2);
    EXPECT_EQ(function.word.state, verdict_state::predicted);
    ASSERT_FALSE(function.missing.empty());
    EXPECT_THAT(function.missing.back().why, HasSubstr("another exporter's"));
  }
}

TEST_P(Foreign, RequireIsRefusedWithAllReasons) {
  const Fd buffer = make_buffer(64 * KiB);
  const Drive virtio = drive("VIRTIO");
  const Fd target = open_file(virtio.path(), O_RDONLY);
  const Binding bound = bind(buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE);
  EXPECT_EQ(bound.error, -EOPNOTSUPP);
  EXPECT_EQ(bound.verdict.route, DMABRIDGE_ROUTE_NONE);
  EXPECT_TRUE(find_reason(bound.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER));
  EXPECT_TRUE(find_reason(bound.verdict, DMABRIDGE_REASON_QUEUE_NO_P2P));
  EXPECT_EQ(references(buffer.get()), 1u);

  try {
    const dmabridge::binding refused(
        dmabridge::control(), dmabridge::buffer::duplicate(buffer.get()), target.get(),
        virtio.path(), dmabridge::policy::require, dmabridge::direction::read);
    FAIL() << "bound";
  } catch (const dmabridge::error& failure) {
    EXPECT_EQ(failure.kind(), dmabridge::error_kind::refused);
    EXPECT_THAT(failure.what(), HasSubstr("the buffer comes from another exporter"));
    EXPECT_THAT(failure.what(), HasSubstr(fmt::format("exporter {}", GetParam().exporter)));
    EXPECT_THAT(failure.what(), HasSubstr("or use policy prefer"));
  }
}

TEST_P(Foreign, ForbidIsNoHindrance) {
  const Bound bound = join(make_buffer(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY,
                           DMABRIDGE_POLICY_FORBID);
  ASSERT_EQ(bound.binding.error, 0);
  EXPECT_EQ(bound.binding.verdict.route, DMABRIDGE_ROUTE_SYSTEM);
  EXPECT_TRUE(find_reason(bound.binding.verdict, DMABRIDGE_REASON_POLICY_FORBID));
  ASSERT_EQ(load(bound, 64 * KiB), static_cast<std::int64_t>(64 * KiB));
}

TEST_P(Foreign, FdinfoTellsRouteAndCounters) {
  const Bound bound = join(make_buffer(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(load(bound, 64 * KiB), static_cast<std::int64_t>(64 * KiB));
  const Output text = shell(fmt::format("cat /proc/{}/fdinfo/{}", getpid(), bound.fd()));
  EXPECT_THAT(text.text, HasSubstr("dmabridge-verdict:\tsystem"));
  EXPECT_THAT(text.text, HasSubstr("dmabridge-route-system:\t1 commands, 65536 bytes"));
}

// --- who cannot be had
// --------------------------------------------------------------------------

class BadBuffer : public ForeignTest {
 protected:
  Fd export_bad(unsigned fault) {
    const Output loaded = shell("modprobe dmabridge_bad_exporter");
    if (loaded.status != 0) throw std::runtime_error(loaded.text);
    const Fd node = open_file("/dev/dmabridge-bad-exporter", O_RDWR);
    Fd buffer(ioctl(node.get(), BAD_EXPORTER_IOCTL_EXPORT, fault));
    if (!buffer) throw std::system_error(errno, std::generic_category(), "bad exporter");
    return buffer;
  }

  // By every policy, and nothing is kept of it.
  void expect_out_of_reach(int buffer, int error) {
    const Fd target = open_file(raw_.path(), O_RDONLY);
    for (const std::uint32_t policy :
         {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_PREFER, DMABRIDGE_POLICY_FORBID}) {
      const Binding bound = bind(buffer, target.get(), policy);
      EXPECT_EQ(bound.error, -EMEDIUMTYPE);
      EXPECT_EQ(bound.verdict.route, DMABRIDGE_ROUTE_NONE);
      const dmabridge_reason* reason = find_reason(bound.verdict, DMABRIDGE_REASON_FOREIGN_BUFFER);
      ASSERT_TRUE(reason) << describe(bound.verdict);
      EXPECT_STREQ(reason->name, "dmabridge_bad_exporter");
      EXPECT_EQ(reason->value, static_cast<std::uint64_t>(error));
      expect_foretold(buffer, raw_.path(), policy, DMABRIDGE_BIND_READ, O_RDONLY);
    }
    EXPECT_EQ(references(buffer), 1u);
  }
};

// It would have to be pinned, and pins are not for whoever has the fd.
TEST_F(BadBuffer, ExporterThatMovesBuffersIsRefused) {
  expect_out_of_reach(export_bad(BAD_EXPORTER_NONE).get(), EOPNOTSUPP);
}

TEST_F(BadBuffer, ExporterWithoutAMappingForTheKernelIsRefusedInWords) {
  const Fd buffer = export_bad(BAD_EXPORTER_STATIC | BAD_EXPORTER_NO_VMAP);
  expect_out_of_reach(buffer.get(), EOPNOTSUPP);
  const Fd target = open_file(raw_.path(), O_RDONLY);
  try {
    const dmabridge::binding refused(
        dmabridge::control(), dmabridge::buffer::duplicate(buffer.get()), target.get(), raw_.path(),
        dmabridge::policy::prefer, dmabridge::direction::read);
    FAIL() << "bound";
  } catch (const dmabridge::error& failure) {
    EXPECT_THAT(failure.what(), HasSubstr("exporter dmabridge_bad_exporter"));
    EXPECT_THAT(failure.what(), HasSubstr("on a mapping that can be pinned"));
    EXPECT_THAT(failure.what(), HasSubstr("on memory of your own and copy"));
  }
}

TEST_F(BadBuffer, DeviceMemoryIsRefused) {
  expect_out_of_reach(export_bad(BAD_EXPORTER_STATIC | BAD_EXPORTER_VMAP_IO).get(), EREMOTEIO);
}

// Nobody says that it is none.
TEST_F(BadBuffer, DeviceMemoryThatLooksLikeMemoryIsRefused) {
  expect_out_of_reach(export_bad(BAD_EXPORTER_STATIC | BAD_EXPORTER_VMAP_IO_UNSAID).get(),
                      EREMOTEIO);
}

// In the linear map, and not in pieces that the kernel maps.
TEST_F(BadBuffer, MappingInTheLinearMapServes) {
  const Bound bound = join(export_bad(BAD_EXPORTER_STATIC | BAD_EXPORTER_NONE), raw_.path(),
                           DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, BAD_EXPORTER_SIZE), BAD_EXPORTER_SIZE);
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, BAD_EXPORTER_SIZE, 0xa0, 0), "");
}

TEST_F(BadBuffer, AccessThatCannotBeginFailsTheCommand) {
  const Bound bound = join(export_bad(BAD_EXPORTER_STATIC | BAD_EXPORTER_NO_CPU_ACCESS),
                           raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  TraceWatch watch;
  EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0), -EIO);
  EXPECT_EQ(watch.account(raw_, Operation::read, {{0, 4096, 0}}).payload.commands, 0u);
  EXPECT_EQ(bound.info().errors, 1u);
  EXPECT_EQ(bound.bytes_on_all(), 0u);
}

TEST_F(BadBuffer, AccessThatCannotEndFailsTheCommand) {
  const Drive ext4 = drive("SAMESW", "ext4");
  const Mount mount(ext4.path(), "ext4");
  make_pattern_file(mount.file("pattern"), 64 * KiB, 0x44);
  for (const std::string& path : {raw_.path(), mount.file("pattern")}) {
    const Bound bound = join(export_bad(BAD_EXPORTER_STATIC | BAD_EXPORTER_ENDLESS_ACCESS), path,
                             DMABRIDGE_BIND_READ, O_RDONLY);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    EXPECT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0), -EIO) << path;
    EXPECT_EQ(bound.info().errors, 1u);
  }
  ASSERT_EQ(unlink(mount.file("pattern").c_str()), 0);
}

// --- fences
// -------------------------------------------------------------------------------------

class Fence {
 public:
  explicit Fence(int buffer, std::uint32_t as = DMA_BUF_SYNC_WRITE)
      : source_(vgem_.export_new(4096)), fence_(vgem_.attach_fence(source_.get())) {
    copy_fences(source_.get(), buffer, as);
  }
  void signal() { vgem_.signal_fence(fence_); }

 private:
  Vgem vgem_;
  Fd source_;
  std::uint32_t fence_;
};

TEST_P(Foreign, CommandWaitsForAFence) {
  const Bound bound = join(make_buffer(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  Fence fence(bound.buffer.get());
  TraceWatch watch;
  ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, 0, 64 * KiB, 0);
  const auto start = std::chrono::steady_clock::now();
  ring_.submit();
  EXPECT_LT(std::chrono::steady_clock::now() - start, patience(std::chrono::seconds(2)))
      << "submitting must not wait for the fence";
  int result = 0;
  EXPECT_FALSE(ring_.wait_for(300, &result)) << "did not wait; result " << result;
  EXPECT_EQ(watch.account(raw_, Operation::read, {{0, 64 * KiB, 0}}).payload.commands, 0u)
      << "DMA before the fence";
  fence.signal();
  ASSERT_TRUE(ring_.wait_for(5000, &result));
  EXPECT_EQ(result, static_cast<int>(64 * KiB));
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, 64 * KiB, 0xa0, 0), "");
}

// Where nobody can make a command sleep, no other thread is needed.
TEST_F(ForeignTest, WithoutBracketsAndFencesItIsIssuedAtOnce) {
  Vgem vgem;
  const Bound bound = join(vgem.export_new(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, 0, 4096, 0), 4096);
  EXPECT_EQ(bound.info().reissued, 0u);
}

// Who reads the buffer does not mind that it is read.
TEST_P(Foreign, SaveWaitsForWritersOnly) {
  const Drive drive = test::drive("SAMESW", "ext4");
  const Mount mount(drive.path(), "ext4");
  const std::string path = mount.file("fence");
  make_pattern_file(path, 64 * KiB, 0x44);
  {
    const Bound bound = join(make_buffer(64 * KiB), path, DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(bound.binding.error, 0);
    Fence reader(bound.buffer.get(), DMA_BUF_SYNC_READ);
    ring_.prepare(bound.fd(), DMABRIDGE_URING_WRITE, 0, 64 * KiB, 0);
    ring_.submit();
    int result = 0;
    ASSERT_TRUE(ring_.wait_for(5000, &result));
    EXPECT_EQ(result, static_cast<int>(64 * KiB));
    reader.signal();
  }
  ASSERT_EQ(unlink(path.c_str()), 0);
}

TEST_P(Foreign, ExitWhileACommandWaitsForAFence) {
  const Bound bound = join(make_buffer(64 * KiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  Fence fence(bound.buffer.get());
  EXPECT_TRUE(dies_with_a_read_in_flight(bound.fd())) << "a killed process hangs";
  fence.signal();
}

// --- lifetimes
// ----------------------------------------------------------------------------------

TEST_P(Foreign, BindingIsAllThatKeepsIt) {
  const Drive drive = test::drive("SAMESW", "ext4");
  const Mount mount(drive.path(), "ext4");
  const std::string path = mount.file("alone");
  make_pattern_file(path, 1 * MiB, 0x44);
  {
    Bound bound = join(make_buffer(512 * KiB), path, DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE);
    ASSERT_EQ(bound.binding.error, 0);
    bound.buffer.reset();
    bound.target.reset();
    ASSERT_EQ(load(bound, 512 * KiB), static_cast<std::int64_t>(512 * KiB));
    ASSERT_EQ(save(bound, 512 * KiB, 512 * KiB), static_cast<std::int64_t>(512 * KiB));
  }
  const auto bytes = read_file(path, 512 * KiB, 512 * KiB);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x44, 0), "");
  ASSERT_EQ(unlink(path.c_str()), 0);
}

TEST_P(Foreign, BindingClosedWithCommandsInFlight) {
  Bound bound = join(make_buffer(16 * MiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  for (unsigned i = 0; i < 16; i++)
    ring_.prepare(bound.fd(), DMABRIDGE_URING_READ, i * MiB, 1 * MiB, i * MiB);
  ring_.submit();
  bound.binding.fd.reset();
  for (int i = 0; i < 16; i++) EXPECT_EQ(ring_.wait(), static_cast<int>(1 * MiB));
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, 16 * MiB, 0xa0, 0), "");
  EXPECT_TRUE(eventually([&] { return references(bound.buffer.get()) == 1; }))
      << references(bound.buffer.get());
}

TEST_P(Foreign, ProcessKilledWithCommandsInFlight) {
  const Fd buffer = make_buffer(load_depth * load_piece);
  {
    Child child([&](const Child::Say& say) {
      const Bound bound = join(Fd(dup(buffer.get())), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
      std::atomic<unsigned> completed = 0;
      std::thread loader([&] { load_for_ever(bound.fd(), raw_.size, completed); });
      while (completed < 100) std::this_thread::yield();
      say(static_cast<std::uint64_t>(-bound.binding.error));
      loader.join();
    });
    ASSERT_EQ(child.wait(), std::uint64_t(0));
  }
  EXPECT_TRUE(eventually([&] { return references(buffer.get()) == 1; }))
      << references(buffer.get());
  // It serves others as before.
  const Bound bound = join(Fd(dup(buffer.get())), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  ASSERT_EQ(load(bound, 1 * MiB), static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(foreign_difference(buffer.get(), 0, 1 * MiB, 0xa0, 0), "");
}

TEST_P(Foreign, ManyThreadsOnOneBinding) {
  constexpr unsigned threads = 6;
  const Bound bound = join(make_buffer(threads * MiB), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0);
  std::vector<std::int64_t> results(threads);
  {
    std::vector<std::jthread> all;
    for (unsigned i = 0; i < threads; i++)
      all.emplace_back([&, i] {
        Ring ring;
        for (int round = 0; round < 4; round++)
          results[i] = ring.transfer_all(bound.fd(), DMABRIDGE_URING_READ, i * MiB, 1 * MiB,
                                         i * MiB, 64 << 10);
      });
  }
  for (const std::int64_t result : results) EXPECT_EQ(result, static_cast<std::int64_t>(1 * MiB));
  EXPECT_EQ(foreign_difference(bound.buffer.get(), 0, threads * MiB, 0xa0, 0), "");
  expect_only(bound, DMABRIDGE_ROUTE_SYSTEM, 4ULL * threads * MiB);
}

TEST_P(Foreign, SeveralBindingsOfOneBuffer) {
  const Fd buffer = make_buffer(8 * MiB);
  std::vector<Bound> all;
  for (unsigned i = 0; i < 8; i++) {
    all.push_back(join(Fd(dup(buffer.get())), raw_.path(), DMABRIDGE_BIND_READ, O_RDONLY));
    ASSERT_EQ(all.back().binding.error, 0);
    ring_.prepare(all.back().fd(), DMABRIDGE_URING_READ, i * MiB, 1 * MiB, i * MiB);
  }
  ring_.submit();
  for (int i = 0; i < 8; i++) EXPECT_EQ(ring_.wait(), static_cast<int>(1 * MiB));
  EXPECT_EQ(foreign_difference(buffer.get(), 0, 8 * MiB, 0xa0, 0), "");
  all.clear();
  EXPECT_TRUE(eventually([&] { return references(buffer.get()) == 1; }))
      << references(buffer.get());
}

}  // namespace
}  // namespace dmabridge::test

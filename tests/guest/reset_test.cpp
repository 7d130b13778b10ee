// SPDX-License-Identifier: MIT
//
// Functions that are reset, and ports that find errors, while buffers are in use. dmabridge_pci is
// told by the same calls as any driver.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>

#include "support/block_fixture.hpp"
#include "support/hotplug.hpp"
#include "support/named_device.hpp"
#include "support/pci_driver.hpp"
#include "support/test_importer.hpp"
#include "support/toucher.hpp"

namespace dmabridge::test {
namespace {

constexpr auto a_moment = std::chrono::milliseconds(300);
constexpr const char* fatal = "DLP";
constexpr const char* not_fatal = "COMP_TIME";

// What becomes of the device.
enum class Loss { reset, error, error_at_the_root };

struct Case {
  const char* name;
  const char* memory;
  Loss loss;
};

class ResetTest : public BlockTest {
 protected:
  explicit ResetTest(const std::string& memory) : memory_(memory) {}

  void TearDown() override {
    EXPECT_TRUE(gets_usable());
    BlockTest::TearDown();
  }

  dmabridge_region_info region() const { return region_of(memory_); }
  // Whether there is memory to be had.
  bool is_usable() const { return !(region().flags & DMABRIDGE_REGION_SUSPENDED); }
  bool gets_usable() const {
    return eventually([&] { return is_usable(); });
  }
  // Whether the bytes are behind a BAR: nobody else gets them before each importer has let go.
  bool is_io() const { return region().kind == DMABRIDGE_REGION_BAR; }

  Bound make_bound(std::uint64_t size) {
    return make_in(region(), raw_.path(), size, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ,
                   O_RDONLY);
  }

  // 0 or -errno.
  int reset_function() const { return write_text(find_device(memory_).value() + "/reset", "1"); }

  // Of this size: cleared, and loaded.
  void expect_new_buffers_work(std::uint64_t size = MiB) {
    const Bound bound = make_bound(size);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    const auto bytes = contents(bound, 0, size);
    EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte(0); }))
        << "old bytes";
    ASSERT_EQ(load(bound, MiB), static_cast<std::int64_t>(MiB));
    EXPECT_EQ(difference(bound, MiB, 0xa0), "");
  }

  const std::string memory_;
  const Drive raw_ = drive("SAMESW");
  Machine machine_;
};

class Lost : public ResetTest, public testing::WithParamInterface<Case> {
 protected:
  Lost() : ResetTest(GetParam().memory) {}

  // The device's memory is lost, and the device works again.
  void lose() {
    switch (GetParam().loss) {
      case Loss::reset:
        ASSERT_EQ(reset_function(), 0);
        break;
      case Loss::error:
        ASSERT_EQ(machine_.raise_error(memory_, fatal), Machine::Recovery::successful);
        break;
      case Loss::error_at_the_root:
        ASSERT_EQ(machine_.raise_error(memory_, fatal, Machine::Port::root),
                  Machine::Recovery::successful);
        break;
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Memory, Lost,
                         testing::Values(Case{"vram0_by_a_reset", "vram0", Loss::reset},
                                         Case{"vram0_by_an_error", "vram0", Loss::error},
                                         Case{"vram0_and_the_drive_by_an_error", "vram0",
                                              Loss::error_at_the_root},
                                         Case{"apu0_by_a_reset", "apu0", Loss::reset},
                                         Case{"apu0_by_an_error", "apu0", Loss::error}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(Lost, EndsWhatIsAliveAndTheDeviceGoesOn) {
  const auto before = region();
  const Bound bound = make_bound(MiB);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, MiB), static_cast<std::int64_t>(MiB));
  const int buffer = bound.buffer.get();
  const Mapping mapping(buffer, MiB);
  ASSERT_EQ(pattern_difference(mapping.data(), MiB, 0xa0, 0), "");
  Attached importer = attach(buffer, p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  const std::uint32_t mapped = importer.attachment.map();
  const Hold held = hold(buffer, DMABRIDGE_PLACEMENT_DEVICE);
  ASSERT_EQ(held.error, 0) << describe(held.verdict);
  const Watch watching = watch(buffer);
  ASSERT_EQ(watching.error, 0);

  ASSERT_NO_FATAL_FAILURE(lose());
  EXPECT_EQ(region().id, before.id) << "it is another region";
  const Query found = query(buffer);
  EXPECT_TRUE(found.head.flags & DMABRIDGE_BUFFER_REVOKED);
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_NONE);
  EXPECT_EQ(found.head.last_move.code, DMABRIDGE_REASON_REVOKED);
  EXPECT_FALSE(is_there(mapping.data()));
  dmabridge_event event{};
  ASSERT_EQ(read_event(watching.fd.get(), &event), static_cast<int>(sizeof(event)));
  EXPECT_TRUE(event.flags & DMABRIDGE_EVENT_REVOKED);
  EXPECT_EQ(importer.attachment.events().invalidations, 1u);
  std::uint32_t another = 0;
  EXPECT_EQ(importer.attachment.map(&another), -ENODEV);
  for (const ImporterKind& kind : {static_importer, p2p_revocable})
    EXPECT_EQ(attach(buffer, kind, nvme("SAMESW")).error, -ENODEV);
  EXPECT_EQ(load(bound, MiB), -ENODEV);
  EXPECT_EQ(move(buffer, DMABRIDGE_PLACEMENT_SYSTEM), -ENODEV);
  EXPECT_EQ(hold(buffer, DMABRIDGE_PLACEMENT_DEVICE).error, -ENODEV);
  EXPECT_EQ(bind(buffer, bound.target.get()).error, -ENODEV);
  EXPECT_THROW(Mapping(buffer, 4096), std::system_error);

  if (is_io()) {
    // Who has it mapped may DMA to it still.
    EXPECT_FALSE(is_usable());
    EXPECT_THROW(allocate_in(region(), 4096), std::system_error);
  }
  EXPECT_EQ(importer.attachment.unmap(mapped), 0);
  ASSERT_TRUE(gets_usable());
  expect_new_buffers_work(region().size);
  EXPECT_EQ(placement(buffer), DMABRIDGE_PLACEMENT_NONE) << "a revoked buffer stays so";
  EXPECT_FALSE(is_there(mapping.data()));
}

TEST_P(Lost, InMidLoad) {
  for (int round = 0; round < 2; round++) {
    const Bound bound = make_bound(load_depth * load_piece);
    ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
    std::atomic<unsigned> completed = 0;
    std::future<int> loader = std::async(
        std::launch::async, [&] { return load_for_ever(bound.fd(), 32 * MiB, completed); });
    ASSERT_TRUE(eventually([&] { return completed > 20; })) << "it does not load";
    ASSERT_NO_FATAL_FAILURE(lose());
    ASSERT_EQ(loader.wait_for(patience(std::chrono::seconds(30))), std::future_status::ready)
        << "the loader hangs";
    // The drive may have found no memory at the other end before the gate was closed to it.
    const int result = loader.get();
    EXPECT_TRUE(result == -ENODEV || result == -EIO) << result;
    ASSERT_TRUE(gets_usable());
  }
  expect_new_buffers_work();
}

TEST_P(Lost, WhileTheCpuTouchesIt) {
  for (int round = 0; round < 2; round++) {
    const Fd buffer = allocate_in(region(), 256 * KiB);
    const Mapping mapping(buffer.get(), 256 * KiB);
    Toucher toucher(mapping);
    ASSERT_NO_FATAL_FAILURE(lose());
    EXPECT_TRUE(toucher.gets_bus_error());
    ASSERT_TRUE(gets_usable());
  }
  expect_new_buffers_work();
}

TEST_P(Lost, DuringAMoveThatWaitsForAFence) {
  const Fd buffer = allocate_in(region(), MiB);
  Attached importer = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  importer.attachment.add_fence();
  std::future<int> moved = std::async(
      std::launch::async, [&] { return move(buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM); });
  EXPECT_TRUE(eventually([&] { return importer.attachment.events().invalidations == 1; }));
  ASSERT_NO_FATAL_FAILURE(lose());
  EXPECT_EQ(moved.get(), -ENODEV);
  EXPECT_FALSE(eventually([&] { return is_usable(); }, a_moment))
      << "the fence is of somebody who may be at work still";
  EXPECT_EQ(placement(buffer.get()), DMABRIDGE_PLACEMENT_NONE) << "others need not wait for it";
  importer.attachment.signal();
  ASSERT_TRUE(gets_usable());
  expect_new_buffers_work();
}

TEST_P(Lost, TwiceInARowWhileAnImporterHoldsOn) {
  const Fd buffer = allocate_in(region(), MiB);
  Attached importer = attach(buffer.get(), p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  const std::uint32_t mapped = importer.attachment.map();
  ASSERT_NO_FATAL_FAILURE(lose());
  ASSERT_NO_FATAL_FAILURE(lose());
  EXPECT_EQ(importer.attachment.events().invalidations, 1u) << "it was told of the same twice";
  if (is_io()) {
    EXPECT_FALSE(is_usable());
  }
  EXPECT_EQ(importer.attachment.unmap(mapped), 0);
  ASSERT_TRUE(gets_usable());

  const Fd next = allocate_in(region(), MiB);
  ASSERT_NO_FATAL_FAILURE(lose());
  EXPECT_EQ(placement(next.get()), DMABRIDGE_PLACEMENT_NONE);
  ASSERT_TRUE(gets_usable());
  expect_new_buffers_work();
}

// --- errors that need not cost anything
// ---------------------------------------------------------------------------------

class NonFatal : public ResetTest {
 protected:
  NonFatal() : ResetTest("vram0") {}
  void TearDown() override {
    const std::string function = pci_function();
    if (access(("/sys/bus/pci/devices/" + function + "/driver").c_str(), F_OK) != 0) {
      EXPECT_EQ(bind_function(function, "dmabridge_pci"), 0);
    }
    ResetTest::TearDown();
  }
  std::string pci_function() const {
    return std::filesystem::path(find_device(memory_).value()).filename();
  }
};

TEST_F(NonFatal, TakesNothing) {
  const Bound bound = make_bound(MiB);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  ASSERT_EQ(load(bound, MiB), static_cast<std::int64_t>(MiB));
  const int buffer = bound.buffer.get();
  const Mapping mapping(buffer, MiB);
  Attached importer = attach(buffer, p2p_revocable, nvme("SAMESW"));
  ASSERT_EQ(importer.error, 0);
  const std::uint32_t mapped = importer.attachment.map();
  const auto generation = query(buffer).head.generation;

  for (int round = 0; round < 2; round++)
    ASSERT_EQ(machine_.raise_error(memory_, not_fatal), Machine::Recovery::successful);
  EXPECT_TRUE(is_usable());
  EXPECT_EQ(placement(buffer), DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_EQ(query(buffer).head.generation, generation);
  EXPECT_EQ(importer.attachment.events().invalidations, 0u);
  EXPECT_EQ(pattern_difference(mapping.data(), MiB, 0xa0, 0), "");
  EXPECT_EQ(difference(bound, MiB, 0xa0), "");
  EXPECT_EQ(load(bound, MiB, MiB), static_cast<std::int64_t>(MiB));
  EXPECT_EQ(difference(bound, MiB, 0xa0, MiB), "");

  // Its driver still waits for those who have the memory mapped.
  std::future<int> unbound =
      std::async(std::launch::async, [&] { return unbind_function(pci_function()); });
  EXPECT_TRUE(eventually([&] { return importer.attachment.events().invalidations == 1; }));
  EXPECT_EQ(unbound.wait_for(a_moment), std::future_status::timeout)
      << "the device goes while it is mapped";
  EXPECT_EQ(importer.attachment.unmap(mapped), 0);
  EXPECT_EQ(unbound.get(), 0);
}

}  // namespace
}  // namespace dmabridge::test

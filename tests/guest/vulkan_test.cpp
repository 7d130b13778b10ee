// SPDX-License-Identifier: MIT
//
// Memory that is shared with Vulkan: llvmpipe, which is a Vulkan driver like any other but for
// computing by the CPU, runs shaders on what drives have loaded. A word from the validation layers
// fails a test.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <dmabridge/block_importer.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/transfer.hpp>
#include <dmabridge/vulkan_memory.hpp>
#include <dmabridge/vulkan_semaphore.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../conformance/transfer_fd.hpp"
#include "support/block_fixture.hpp"
#include "support/child.hpp"
#include "support/scramble.hpp"
#include "support/validation.hpp"

namespace dmabridge::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

constexpr std::uint64_t size = 3 * MiB;
constexpr std::uint8_t tag = 0x6b;
constexpr const char* log_file = "/tmp/validation.log";
constexpr const char* child_log_file = "/tmp/validation-child.log";

dmabridge_region_info region_of(std::uint32_t kind) {
  for (const auto& region : regions()) {
    if (region.kind == kind) return region;
  }
  throw std::runtime_error("this topology has no region of that kind");
}

vulkan_buffer import(const vulkan_device& device, int dma_buf) {
  return import_to_vulkan(device, dmabridge::buffer::duplicate(dma_buf));
}

std::size_t count_fds() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// Takes the numbers of fds that were just closed: whoever closes one of them again, closes one of
// these.
class Canaries {
 public:
  Canaries() {
    for (Fd& fd : fds_) fd = open_file("/dev/null", O_RDONLY);
  }
  bool live() const {
    return std::ranges::all_of(fds_, [](const Fd& fd) { return fcntl(fd.get(), F_GETFD) >= 0; });
  }

 private:
  std::array<Fd, 16> fds_;
};

dmabridge::fd fences(int dma_buf) {
  return dmabridge::fd::duplicate(fences_of(dma_buf).get());
}

bool is_signalled(const Fd& sync_file) {
  pollfd asked{sync_file.get(), POLLIN, 0};
  return poll(&asked, 1, 0) == 1;
}

// A process that gets a dma-buf by SCM_RIGHTS, imports it, and computes on it. It has to be there
// before its parent starts Vulkan, whose threads no child inherits.
class ComputingChild {
 public:
  ComputingChild() {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0)
      throw std::system_error(errno, std::generic_category(), "socketpair");
    here_ = Fd(ends[0]);
    Fd there(ends[1]);
    child_.emplace([&](const Child::Say& say) {
      here_.reset();
      const Fd dma_buf = conformance::receive_fd(there.get());
      enable_validation(child_log_file);
      const auto device = vulkan_device::open({.exports = false});
      const auto imported = import(device, dma_buf.get());
      Scramble(device, imported.handle(), imported.size()).run();
      say(imported.size());
    });
  }

  std::optional<std::uint64_t> compute(int dma_buf) {
    conformance::send_fd(here_.get(), dma_buf);
    return child_->wait();
  }

 private:
  Fd here_;
  std::optional<Child> child_;
};

class Vulkan : public BlockTest {
 protected:
  static void SetUpTestSuite() {
    child_ = std::make_unique<ComputingChild>();
    enable_validation(log_file);
    device_ = std::make_unique<vulkan_device>(vulkan_device::open());
  }
  static void TearDownTestSuite() {
    device_.reset();
    child_.reset();
  }

  void TearDown() override {
    mount_.reset();
    expect_silence();
    BlockTest::TearDown();
  }
  // Before another instance is made, which begins the log anew.
  static void expect_silence() { EXPECT_EQ(validation_messages(log_file), ""); }

  std::string pattern_file() {
    const std::string path = mount_->file("pattern");
    make_pattern_file(path, size, tag);
    return path;
  }
  Bound make_loaded(const dmabridge_region_info& region) {
    Bound bound = make_in(region, pattern_file(), size, DMABRIDGE_POLICY_REQUIRE,
                          DMABRIDGE_BIND_READ, O_RDONLY);
    if (bound.binding.error != 0) throw std::runtime_error(describe(bound.binding.verdict));
    EXPECT_EQ(load(bound, size), static_cast<std::int64_t>(size));
    return bound;
  }
  void check_in_place(const dmabridge_region_info& region, std::uint32_t route) {
    const TraceWatch watch;
    const Bound bound = make_loaded(region);
    expect_only(bound, route, size);
    const auto account =
        watch.account(drive_, oracle::Operation::read, oracle::extents_of(bound.target.get()),
                      region_window(region));
    EXPECT_EQ(account.payload.inside, size);
    EXPECT_EQ(account.payload.outside, 0u);

    const auto shared = import(*device_, bound.buffer.get());
    Scramble(*device_, shared.handle(), size).run();
    EXPECT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_DEVICE));
    EXPECT_EQ(scramble_difference(host_bytes(bound.buffer.get(), 0, size), tag), "");
  }
  static std::vector<std::byte> copied_out(memory_owner& owner, std::uint64_t length) {
    std::vector<std::byte> bytes(length);
    owner.copy_out(0, bytes);
    return bytes;
  }
  static vulkan_export pattern_memory() {
    auto made = export_from_vulkan(*device_, size);
    std::vector<std::byte> bytes(size);
    fill_pattern(bytes.data(), size, tag, 0);
    made.memory.owner().copy_in(0, bytes);
    return made;
  }

  static inline std::unique_ptr<ComputingChild> child_;
  static inline std::unique_ptr<vulkan_device> device_;
  const Drive drive_ = drive("SAMESW", "ext4");
  std::unique_ptr<Mount> mount_ = std::make_unique<Mount>(drive_.path(), "ext4");
};

// --- our memory in Vulkan

// The drive writes into the device's memory, the shader works on it there, and the host sees what
// came of it without asking the guest.
TEST_F(Vulkan, BarIsLoadedByTheDriveAndComputedOn) {
  check_in_place(region_of(DMABRIDGE_REGION_BAR), DMABRIDGE_ROUTE_P2P_BUS);
}

TEST_F(Vulkan, StolenMemoryIsLoadedByTheDriveAndComputedOn) {
  check_in_place(region_of(DMABRIDGE_REGION_STOLEN), DMABRIDGE_ROUTE_STOLEN);
}

// An import has the dma-buf for itself.
TEST_F(Vulkan, ImportOutlivesTheCallersFd) {
  Bound bound = make_loaded(region_of(DMABRIDGE_REGION_BAR));
  const auto shared = import(*device_, bound.buffer.get());
  const Mapping mapping(bound.buffer.get(), size);
  bound = Bound();
  Scramble(*device_, shared.handle(), size).run();
  EXPECT_EQ(scramble_difference({mapping.data(), mapping.data() + size}, tag), "");
}

// A buffer that moves to system memory is the same buffer still.
TEST_F(Vulkan, ImportFollowsAMove) {
  Bound bound = make_loaded(region_of(DMABRIDGE_REGION_BAR));
  const auto shared = import(*device_, bound.buffer.get());
  Scramble work(*device_, shared.handle(), size);
  work.run();
  bound.binding.fd.reset();  // it wants P2P
  ASSERT_EQ(move(bound.buffer.get(), DMABRIDGE_PLACEMENT_SYSTEM), 0);
  work.run();
  EXPECT_EQ(scramble_difference(contents(bound, 0, size), tag, 2), "");
}

TEST_F(Vulkan, CallersDeviceImports) {
  const Bound bound = make_loaded(region_of(DMABRIDGE_REGION_BAR));
  const vulkan_device callers(device_->handles());
  const auto shared = import_to_vulkan(callers, dmabridge::buffer::duplicate(bound.buffer.get()),
                                       {.offset = 4096, .size = size - 4096});
  EXPECT_EQ(shared.size(), size - 4096);
  Scramble(callers, shared.handle(), shared.size()).run();
  const auto bytes = host_bytes(bound.buffer.get(), 0, size);
  EXPECT_EQ(pattern_difference(bytes.data(), 4096, tag, 0), "") << "before the part";
  std::uint32_t first = 0, after = 0;
  std::vector<std::byte> pattern(4096 + 8);
  fill_pattern(pattern.data(), pattern.size(), tag, 0);
  std::memcpy(&first, pattern.data() + 4096, 4);
  std::memcpy(&after, bytes.data() + 4096, 4);
  EXPECT_EQ(after, first * 2654435761u);
}

// --- Vulkan's memory elsewhere

// By a binding, if the kernel module takes memory of other exporters, and else by way of the CPU.
// Tells the route.
std::string load_best(const exported_memory& into, const std::string& path) {
  const Fd file = open_file(path, O_RDONLY);
  std::optional<binding> between;
  try {
    between.emplace(dmabridge::control(), into.memory(), file.get(), path, policy::prefer,
                    direction::read);
  } catch (const error& refusal) {
    std::vector<std::byte> staging(1 * MiB);
    for (std::uint64_t at = 0; at < into.size(); at += staging.size()) {
      const auto got = pread(file.get(), staging.data(), staging.size(), static_cast<off_t>(at));
      if (got <= 0) throw std::runtime_error("the file ends early");
      into.owner().copy_in(at, std::span(staging).first(static_cast<std::size_t>(got)));
    }
    return fmt::format("bounce, as {}", refusal.what());
  }
  const auto done = transfer_engine().load(*between, {.length = into.size()});
  if (done.error != 0) throw std::system_error(-done.error, std::generic_category(), path);
  return to_string(between->verdict().route);
}

TEST_F(Vulkan, ItsMemoryIsLoadedAndComputedOn) {
  const auto made = export_from_vulkan(*device_, size);
  EXPECT_EQ(made.memory.memory().exporter(), "udmabuf");
  RecordProperty("route", load_best(made.memory, pattern_file()));
  Scramble(*device_, made.buffer, size).run();
  EXPECT_EQ(scramble_difference(copied_out(made.memory.owner(), size), tag), "");
  // Others find the same in the dma-buf.
  const Mapping mapping(made.memory.memory().descriptor(), size);
  EXPECT_EQ(scramble_difference({mapping.data(), mapping.data() + size}, tag), "");
}

TEST_F(Vulkan, CopiesOfAnyLengthGoWhereTheyShould) {
  constexpr std::uint64_t all = 9 * MiB + 12345;
  const auto made = export_from_vulkan(*device_, all);
  std::vector<std::byte> wanted(all), part(5 * MiB + 77);
  fill_pattern(part.data(), part.size(), tag, 0);
  made.memory.owner().copy_in(0, wanted);
  for (const std::uint64_t at : {std::uint64_t{1}, 4 * MiB - 5, all - part.size()}) {
    made.memory.owner().copy_in(at, part);
    std::ranges::copy(part, wanted.begin() + static_cast<std::ptrdiff_t>(at));
    EXPECT_TRUE(copied_out(made.memory.owner(), all) == wanted) << "at " << at;
  }
  std::vector<std::byte> some(3);
  made.memory.owner().copy_out(all - 3, some);
  EXPECT_TRUE(std::ranges::equal(some, std::span(wanted).last(3)));
}

// What a program has allocated by itself, it exports by the handles that it has.
TEST_F(Vulkan, CallersMemoryIsExportedAndStaysTheCallers) {
  const auto callers = pattern_memory();
  {
    const auto memory = export_from_vulkan(
        *device_, {.memory = callers.device_memory, .buffer = callers.buffer, .size = size});
    EXPECT_EQ(memory.memory().inode(), callers.memory.memory().inode());
    Scramble(*device_, callers.buffer, size).run();
    EXPECT_EQ(scramble_difference(copied_out(memory.owner(), size), tag), "");
  }
  EXPECT_EQ(scramble_difference(copied_out(callers.memory.owner(), size), tag), "");
}

TEST_F(Vulkan, CopyWaitsForFencesOfOthers) {
  const auto made = pattern_memory();
  Vgem vgem;
  const Fd holder = vgem.export_new(4096);
  const std::uint32_t fence = vgem.attach_fence(holder.get());
  const Fd sync_file = fences_of(holder.get());
  put_fence(sync_file.get(), made.memory.memory().descriptor());
  auto bytes =
      std::async(std::launch::async, [&] { return copied_out(made.memory.owner(), size); });
  EXPECT_EQ(bytes.wait_for(300ms), std::future_status::timeout) << "it did not wait";
  ASSERT_FALSE(is_signalled(sync_file)) << "vgem has lost its patience: nothing was shown";
  vgem.signal_fence(fence);
  const auto found = bytes.get();
  EXPECT_EQ(pattern_difference(found.data(), size, tag, 0), "");
}

TEST_F(Vulkan, ProcessThatGetsItBySocketComputesOnIt) {
  const auto made = pattern_memory();
  const auto told = child_->compute(made.memory.memory().descriptor());
  ASSERT_TRUE(told) << "the child has failed";
  EXPECT_GE(*told, size);
  EXPECT_EQ(scramble_difference(copied_out(made.memory.owner(), size), tag), "");
  EXPECT_EQ(validation_messages(child_log_file), "");
}

// --- order

// A submission that waits for a fence which the program signals when the drive has completed. The
// fence is vgem's, as llvmpipe has none that could be pending.
TEST_F(Vulkan, SubmissionWaitsForIo) {
  Bound bound = make_in(region_of(DMABRIDGE_REGION_BAR), pattern_file(), size,
                        DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const auto shared = import(*device_, bound.buffer.get());
  Scramble work(*device_, shared.handle(), size);
  work.run();  // once, as only the second time tells how long it takes
  const auto start = std::chrono::steady_clock::now();
  work.run();
  const auto usual = std::chrono::steady_clock::now() - start;
  Vgem vgem;
  const Fd holder = vgem.export_new(4096);
  const std::uint32_t io_done = vgem.attach_fence(holder.get());
  Fd sync_file = fences_of(holder.get());
  const vulkan_semaphore before(*device_, dmabridge::fd::duplicate(sync_file.get()));
  // Drivers may wait in vkQueueSubmit() already.
  auto done = std::async(std::launch::async, [&] {
    work.submit(before.handle());
    work.wait();
  });
  EXPECT_EQ(load(bound, size), static_cast<std::int64_t>(size));
  EXPECT_EQ(done.wait_for(300ms + 3 * usual), std::future_status::timeout) << "it did not wait";
  EXPECT_EQ(difference(bound, size, tag), "") << "computed on before the drive was done";
  ASSERT_FALSE(is_signalled(sync_file)) << "vgem has lost its patience: nothing was shown";
  vgem.signal_fence(io_done);
  ASSERT_EQ(done.wait_for(patience(10s)), std::future_status::ready);
  done.get();
  EXPECT_EQ(scramble_difference(host_bytes(bound.buffer.get(), 0, size), tag), "");
}

// The fence on the buffer stands for that of a submission, and is signalled when that is done.
TEST_F(Vulkan, IoWaitsForASubmission) {
  const auto region = region_of(DMABRIDGE_REGION_BAR);
  const Bound loaded = make_loaded(region);
  const std::string path = mount_->file("saved");
  make_pattern_file(path, size, 0);
  const Fd target = open_file(path, O_RDWR);
  const auto saving =
      bind(loaded.buffer.get(), target.get(), DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_WRITE);
  ASSERT_EQ(saving.error, 0) << describe(saving.verdict);
  const auto shared = import(*device_, loaded.buffer.get());
  Scramble work(*device_, shared.handle(), size);
  work.run();  // the first time takes longer than a fence of vgem's lasts, if it comes to the worst
  Vgem vgem;
  const Fd holder = vgem.export_new(4096);
  const std::uint32_t work_done = vgem.attach_fence(holder.get());
  const Fd sync_file = fences_of(holder.get());
  copy_fences(holder.get(), loaded.buffer.get());

  ASSERT_GE(binding_info(saving.fd.get()).max_length, size);
  ring_.prepare(saving.fd.get(), DMABRIDGE_URING_WRITE, 0, size, 0);
  ring_.submit();
  work.run();
  int result = 0;
  EXPECT_FALSE(ring_.wait_for(300, &result)) << "it did not wait; result " << result;
  ASSERT_FALSE(is_signalled(sync_file)) << "vgem has lost its patience: nothing was shown";
  vgem.signal_fence(work_done);
  ASSERT_TRUE(ring_.wait_for(10000, &result));
  EXPECT_EQ(result, static_cast<int>(size));
  drop_page_cache(target.get());
  EXPECT_EQ(scramble_difference(read_file(path, 0, size), tag, 2), "");
}

// As far as a driver goes whose fences are never pending: what one submission signals another waits
// for, by way of the buffer.
TEST_F(Vulkan, SyncFileOfASubmissionGoesByWayOfTheBuffer) {
  const Bound bound = make_loaded(region_of(DMABRIDGE_REGION_BAR));
  const auto shared = import(*device_, bound.buffer.get());
  Scramble first(*device_, shared.handle(), size), second(*device_, shared.handle(), size);
  const vulkan_semaphore after(*device_);
  first.submit(VK_NULL_HANDLE, after.handle());
  auto sync_file = after.export_sync_file();
  if (sync_file) put_fence(sync_file.get(), bound.buffer.get());
  const vulkan_semaphore before(*device_, fences(bound.buffer.get()));
  second.submit(before.handle());
  second.wait();
  first.wait();
  EXPECT_EQ(scramble_difference(host_bytes(bound.buffer.get(), 0, size), tag, 2), "");
}

TEST_F(Vulkan, SignalledSyncFileIsNoReasonToWait) {
  const auto made = pattern_memory();
  Scramble work(*device_, made.buffer, size);
  const vulkan_semaphore before(*device_, fd());
  work.submit(before.handle());
  work.wait();
  EXPECT_EQ(scramble_difference(copied_out(made.memory.owner(), size), tag), "");
}

// --- fds

TEST_F(Vulkan, EveryFdIsClosedOnce) {
  const Fd plain = allocate(64 * KiB);
  const auto use_all = [&] {
    const auto made = export_from_vulkan(*device_, 64 * KiB);
    const auto again = import(*device_, made.memory.memory().descriptor());
    const auto ours = import(*device_, plain.get());
    const vulkan_semaphore before(*device_, fences(plain.get()));
    const Canaries canaries;
    {
      const auto copy = import(*device_, plain.get());
      const vulkan_semaphore more(*device_, fences(plain.get()));
    }
    EXPECT_TRUE(canaries.live()) << "an fd was closed twice";
  };
  use_all();
  const auto before = count_fds();
  for (int i = 0; i < 10; i++) use_all();
  EXPECT_EQ(count_fds(), before);
}

TEST_F(Vulkan, ImportThatFailsKeepsNoFd) {
  const Fd plain = allocate(64 * KiB);
  const auto before = count_fds();
  EXPECT_THROW(
      import_to_vulkan(*device_, dmabridge::buffer::duplicate(plain.get()), {.offset = 128 * KiB}),
      error);
  // llvmpipe would take it for a sync file.
  EXPECT_THROW(vulkan_semaphore(*device_, dmabridge::fd::duplicate(plain.get())), error);
  EXPECT_EQ(count_fds(), before);
}

// --- what there is not

TEST_F(Vulkan, WithoutUdmabufItImportsOnly) {
  expect_silence();
  std::filesystem::rename("/dev/udmabuf", "/dev/udmabuf.away");
  std::string refusal;
  std::optional<vulkan_device> importing;
  try {
    importing.emplace(vulkan_device::open({.exports = false}));
    vulkan_device::open();
  } catch (const error& failure) {
    refusal = failure.what();
  }
  std::filesystem::rename("/dev/udmabuf.away", "/dev/udmabuf");
  EXPECT_THAT(refusal, HasSubstr("not EXPORTABLE (they are: IMPORTABLE)"));
  EXPECT_THAT(refusal, HasSubstr("modprobe udmabuf"));
  ASSERT_TRUE(importing);
  const Bound bound = make_loaded(region_of(DMABRIDGE_REGION_BAR));
  const auto shared = import(*importing, bound.buffer.get());
  Scramble(*importing, shared.handle(), size).run();
  EXPECT_EQ(scramble_difference(host_bytes(bound.buffer.get(), 0, size), tag), "");
}

// --- the sample

TEST_F(Vulkan, SampleAddsUpAFile) {
  constexpr std::uint64_t length = 2 * MiB + 4321;
  const std::string path = mount_->file("odd");
  make_pattern_file(path, length, tag);
  const auto bytes = read_file(path, 0, length);
  const auto sum = std::accumulate(
      bytes.begin(), bytes.end(), std::uint64_t{0},
      [](auto total, std::byte byte) { return total + std::to_integer<std::uint64_t>(byte); });
  for (const auto& [kind, route] :
       {std::pair{DMABRIDGE_REGION_BAR, "p2p_bus"}, std::pair{DMABRIDGE_REGION_STOLEN, "stolen"}}) {
    const auto output =
        shell(fmt::format("VK_KHRONOS_VALIDATION_LOG_FILENAME={} "
                          "/build/samples/vulkan/vulkan-sum {} --region {} --require",
                          child_log_file, path, region_of(static_cast<unsigned>(kind)).name));
    EXPECT_EQ(output.status, 0) << output.text;
    EXPECT_THAT(output.text, HasSubstr(fmt::format("loaded {} bytes: route {}", length, route)));
    EXPECT_THAT(output.text, HasSubstr(fmt::format("sum {}, by llvmpipe", sum)));
    EXPECT_EQ(validation_messages(child_log_file), "");
  }
}

// --- the layers

// Or else their silence would say nothing.
TEST(VulkanValidation, LayersSpeakUp) {
  constexpr const char* own_log = "/tmp/validation-misuse.log";
  enable_validation(own_log);
  const auto device = vulkan_device::open();
  const auto made = export_from_vulkan(device, 4096);
  EXPECT_EQ(validation_messages(own_log), "");
  // A descriptor of more than the buffer has.
  const Scramble misused(device, made.buffer, 1 * MiB);
  EXPECT_THAT(validation_messages(own_log), HasSubstr("VUID-VkDescriptorBufferInfo-range"));
}

}  // namespace
}  // namespace dmabridge::test

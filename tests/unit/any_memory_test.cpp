// SPDX-License-Identifier: MIT
#include "dmabridge/any_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cerrno>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "error_of.hpp"
#include "fake_exporter.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using testing::_;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Return;

constexpr std::uint64_t begin_both = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW;
constexpr std::uint64_t end_both = DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW;
constexpr std::uint64_t begin_read = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ;
constexpr std::uint64_t end_read = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;

static_assert(!std::is_copy_constructible_v<exported_memory> &&
              std::is_nothrow_move_constructible_v<exported_memory>);

auto whole() -> exported_memory {
  return any_memory(buffer::from_fd(fd(buffer_fd)));
}
auto part(std::uint64_t offset, std::uint64_t size) -> exported_memory {
  return any_memory(buffer::from_fd(fd(buffer_fd)), offset, size);
}

class any_memory_test : public testing::Test {
 protected:
  static constexpr std::uint64_t all = 1 << 20;
  test::fake_module module_;
  test::fake_exporter exporter_{module_, "system"};
};

TEST_F(any_memory_test, is_the_whole_dma_buf_unless_told_otherwise) {
  const auto memory = whole();
  EXPECT_EQ(memory.offset(), 0U);
  EXPECT_EQ(memory.size(), all);
  EXPECT_EQ(memory.owner().name(), "system");
  EXPECT_TRUE(memory.owner().pinnable().empty());
}

TEST_F(any_memory_test, copies_land_in_the_range_between_brackets) {
  std::mt19937 random(3);
  auto expected = exporter_.bytes;
  for (int round = 0; round < 200; ++round) {
    const auto offset = random() % all;
    const auto size = 1 + random() % (all - offset);
    const auto memory = part(offset, size);
    const auto at = random() % size;
    std::vector<std::byte> bytes(random() % std::min<std::uint64_t>(size - at + 1, 5000));
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    memory.owner().copy_in(at, bytes);
    std::ranges::copy(bytes, expected.data() + offset + at);
    std::vector<std::byte> back(bytes.size());
    memory.owner().copy_out(at, back);
    EXPECT_EQ(back, bytes);
  }
  EXPECT_TRUE(exporter_.bytes == expected);
}

TEST_F(any_memory_test, brackets_wait_for_who_uses_the_buffer) {
  const auto memory = whole();
  std::array<std::byte, 8> bytes{};
  memory.owner().copy_in(0, bytes);
  EXPECT_THAT(exporter_.syncs, ElementsAre(begin_both, end_both));
  exporter_.syncs.clear();
  memory.owner().copy_out(0, bytes);
  EXPECT_THAT(exporter_.syncs, ElementsAre(begin_read, end_read));
}

// What a transfer of many pieces would otherwise spend much of its time with.
TEST_F(any_memory_test, many_copies_in_a_row_have_one_bracket) {
  const auto memory = part(4096, 8192);
  std::array<std::byte, 8> bytes{std::byte{1}, std::byte{2}};
  const auto in = memory.owner().begin_copies(cpu_access::write);
  EXPECT_THAT(exporter_.syncs, ElementsAre(begin_both));
  for (const auto at : {0, 8, 8184}) in->copy_in(static_cast<std::uint64_t>(at), bytes);
  EXPECT_EQ(exporter_.bytes[4096 + 8185], std::byte{2});
  EXPECT_EQ(error_of([&] { in->copy_in(8185, bytes); }).kind(), error_kind::usage);
  in->end();
  EXPECT_THAT(exporter_.syncs, ElementsAre(begin_both, end_both));
  exporter_.syncs.clear();
  {
    const auto out = memory.owner().begin_copies(cpu_access::read);
    std::array<std::byte, 8> back{};
    out->copy_out(8184, back);
    EXPECT_EQ(back, bytes);
    EXPECT_EQ(error_of([&] { out->copy_out(8185, back); }).kind(), error_kind::usage);
    EXPECT_THAT(exporter_.syncs, ElementsAre(begin_read));
  }
  EXPECT_THAT(exporter_.syncs, ElementsAre(begin_read, end_read)) << "whoever forgets the end";
}

TEST_F(any_memory_test, end_of_many_copies_tells_whether_they_arrived) {
  const auto memory = whole();
  const auto copies = memory.owner().begin_copies(cpu_access::write);
  EXPECT_CALL(module_.calls, ioctl(_, DMA_BUF_IOCTL_SYNC, _)).WillOnce(Return(-ENODEV));
  EXPECT_EQ(error_of([&] { copies->end(); }).code(), ENODEV);
}

TEST_F(any_memory_test, nothing_is_mapped_before_it_is_copied_and_then_once) {
  EXPECT_CALL(module_.calls, mmap).Times(0);
  const auto memory = whole();
  memory.owner().copy_in(0, {});
  memory.owner().copy_out(all, {});
  testing::Mock::VerifyAndClearExpectations(&module_.calls);
  EXPECT_CALL(module_.calls, mmap(all, PROT_READ | PROT_WRITE, buffer_fd, _)).Times(1);
  std::array<std::byte, 1> byte{};
  memory.owner().copy_in(0, byte);
  memory.owner().copy_in(all - 1, byte);
  memory.owner().copy_out(5, byte);
  EXPECT_CALL(module_.calls, munmap(exporter_.bytes.data(), all)).Times(1);
}

TEST_F(any_memory_test, an_fd_for_reading_can_be_read) {
  ON_CALL(module_.calls, mmap(_, PROT_READ | PROT_WRITE, _, _)).WillByDefault(Return(-EACCES));
  const auto memory = whole();
  std::array<std::byte, 8> bytes{};
  exporter_.bytes[3] = std::byte{7};
  memory.owner().copy_out(0, bytes);
  EXPECT_EQ(bytes[3], std::byte{7});
  const auto failure = error_of([&] { memory.owner().copy_in(0, bytes); });
  EXPECT_EQ(failure.code(), EACCES);
  EXPECT_THAT(failure.what(), AllOf(HasSubstr("for reading only"), HasSubstr("DRM_RDWR")));
  EXPECT_TRUE(exporter_.syncs.size() == 2) << "no access without a mapping";
}

TEST_F(any_memory_test, a_copy_that_leaves_the_range_is_refused) {
  const auto memory = part(4096, 8192);
  constexpr auto huge = std::numeric_limits<std::uint64_t>::max();
  std::array<std::byte, 2> bytes{};
  EXPECT_CALL(module_.calls, mmap).Times(0);
  for (const auto offset : {std::uint64_t{8191}, std::uint64_t{8192}, huge, huge - 1}) {
    for (const auto& failure : {error_of([&] { memory.owner().copy_in(offset, bytes); }),
                                error_of([&] { memory.owner().copy_out(offset, bytes); })}) {
      EXPECT_EQ(failure.kind(), error_kind::usage);
      EXPECT_THAT(failure.what(), HasSubstr("it has 8192 bytes"));
    }
  }
}

TEST_F(any_memory_test, a_range_that_leaves_the_dma_buf_is_refused_and_its_fd_closed) {
  EXPECT_CALL(module_.calls, close(_)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(buffer_fd)).Times(2);  // the caller's, and the owner's copy
  EXPECT_EQ(error_of([] { part(all, 1); }).kind(), error_kind::usage);
}

TEST_F(any_memory_test, failing_brackets_are_errors_and_move_nothing) {
  const auto memory = whole();
  std::array<std::byte, 1> byte{std::byte{9}};
  EXPECT_CALL(module_.calls, ioctl(_, DMA_BUF_IOCTL_SYNC, _)).WillOnce(Return(-EIO));
  EXPECT_EQ(error_of([&] { memory.owner().copy_in(0, byte); }).code(), EIO);
  EXPECT_EQ(exporter_.bytes[0], std::byte{0});
  EXPECT_CALL(module_.calls, ioctl(_, DMA_BUF_IOCTL_SYNC, _))
      .WillOnce(Return(0))
      .WillOnce(Return(-ENODEV));
  EXPECT_EQ(error_of([&] { memory.owner().copy_in(0, byte); }).code(), ENODEV)
      << "the end of an access tells whether it arrived";
}

// What a refused mapping says, by exporter.
auto refusal_of(const char* exporter, int code = EINVAL) -> error {
  test::fake_module module;
  const test::fake_exporter fake(module, exporter);
  ON_CALL(module.calls, mmap).WillByDefault(Return(-code));
  const auto memory = whole();
  std::array<std::byte, 1> byte{};
  return error_of([&] { memory.owner().copy_out(0, byte); });
}

TEST(any_memory, refused_mapping_is_explained_by_the_exporters_rule) {
  const auto never = refusal_of("vfio_pci_core");
  EXPECT_EQ(never.code(), EINVAL);
  EXPECT_THAT(never.what(), AllOf(HasSubstr("a BAR lent by vfio-pci cannot be mapped by the CPU"),
                                  HasSubstr("to fix it: copy by the API that owns")));
  EXPECT_THAT(refusal_of("i915").what(), HasSubstr("not all memory of i915 can be mapped"));
  EXPECT_THAT(refusal_of("mystery").what(),
              HasSubstr("its exporter, mystery, is unknown to this library"));
  EXPECT_THAT(refusal_of("udmabuf", ENOMEM).what(), HasSubstr("ENOMEM"))
      << "no rule forbids it: the errno is all there is to say";
}

TEST(any_memory, without_proc_the_exporter_is_unknown) {
  test::fake_module module;
  const auto memory = whole();
  EXPECT_EQ(memory.owner().name(), "an unknown exporter");
  std::array<std::byte, 1> byte{};
  EXPECT_THAT(error_of([&] { memory.owner().copy_out(0, byte); }).what(),
              HasSubstr("which /proc does not tell"));
}

}  // namespace
}  // namespace dmabridge

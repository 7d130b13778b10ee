// SPDX-License-Identifier: MIT
#include "dmabridge/vfio_memory.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "error_of.hpp"
#include "fake_exporter.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using testing::_;
using testing::AllOf;
using testing::AnyNumber;
using testing::HasSubstr;
using testing::Return;

constexpr int callers_fd = 9;
constexpr int device_fd = 180;
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t bar_size = 64 << 10;
constexpr std::uint64_t bar_start = std::uint64_t{2} << 40;  // in the device's file

// A vfio device with one BAR, number 2.
class vfio_memory_test : public testing::Test {
 protected:
  vfio_memory_test() {
    ON_CALL(module_.calls, duplicate(callers_fd)).WillByDefault(Return(device_fd));
    ON_CALL(module_.calls, ioctl(device_fd, VFIO_DEVICE_GET_REGION_INFO, _))
        .WillByDefault([](int, unsigned long, void* argument) {
          auto& raw = *static_cast<vfio_region_info*>(argument);
          EXPECT_EQ(raw.argsz, sizeof(raw));
          raw.size = raw.index == 2 ? bar_size : 0;
          raw.offset = bar_start;
          return raw.index < VFIO_PCI_NUM_REGIONS ? 0 : -EINVAL;
        });
    ON_CALL(module_.calls, ioctl(device_fd, VFIO_DEVICE_FEATURE, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          const auto& head = *static_cast<vfio_device_feature*>(argument);
          EXPECT_EQ(head.argsz, sizeof(head) + sizeof(vfio_device_feature_dma_buf) +
                                    sizeof(vfio_region_dma_range));
          EXPECT_EQ(head.flags,
                    std::uint32_t{VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF});
          std::memcpy(&asked_, head.data, sizeof(asked_));
          static_assert(sizeof(asked_) == sizeof(vfio_device_feature_dma_buf));
          std::memcpy(&range_, head.data + sizeof(asked_), sizeof(range_));
          return buffer_fd;
        });
  }
  auto refusal_of_kernel(int code) -> error {
    ON_CALL(module_.calls, ioctl(device_fd, VFIO_DEVICE_FEATURE, _)).WillByDefault(Return(-code));
    return error_of([] { export_vfio(callers_fd, 2, 0, page); });
  }

  test::fake_module module_;
  test::fake_exporter exporter_{module_, "vfio_pci_core"};
  // vfio_device_feature_dma_buf, which cannot be a member for the array at its end.
  struct {
    std::uint32_t region_index, open_flags, flags, nr_ranges;
  } asked_{};
  vfio_region_dma_range range_{};
};

TEST_F(vfio_memory_test, range_as_the_kernel_wants_it) {
  const auto memory = export_vfio(callers_fd, 2, 2 * page, 3 * page);
  EXPECT_EQ(asked_.region_index, 2U);
  EXPECT_EQ(asked_.open_flags, static_cast<std::uint32_t>(O_RDWR | O_CLOEXEC));
  EXPECT_EQ(asked_.flags, 0U);
  EXPECT_EQ(asked_.nr_ranges, 1U);
  EXPECT_EQ(range_.offset, 2 * page);
  EXPECT_EQ(range_.length, 3 * page);
  EXPECT_EQ(memory.offset(), 0U) << "the dma-buf begins with the range";
  EXPECT_EQ(memory.size(), 3 * page);
  EXPECT_EQ(memory.owner().name(), "vfio-pci");
  EXPECT_TRUE(memory.owner().pinnable().empty());
}

TEST_F(vfio_memory_test, device_stays_open_as_long_as_the_dma_buf) {
  EXPECT_CALL(module_.calls, close(_)).Times(AnyNumber());
  EXPECT_CALL(module_.calls, close(callers_fd)).Times(0);
  const testing::InSequence in_order;
  EXPECT_CALL(module_.calls, close(buffer_fd));
  EXPECT_CALL(module_.calls, close(device_fd));
  export_vfio(callers_fd, 2, 0, page);
}

TEST_F(vfio_memory_test, copies_go_by_the_devices_file_in_as_many_pieces_as_it_takes) {
  const auto memory = export_vfio(callers_fd, 2, 2 * page, page);
  std::array<std::byte, 100> bytes{};
  EXPECT_CALL(module_.calls, mmap).Times(0);
  EXPECT_CALL(module_.calls, pwrite(device_fd, bytes.data(), 100, bar_start + 2 * page + 8))
      .WillOnce(Return(60));
  EXPECT_CALL(module_.calls, pwrite(device_fd, bytes.data() + 60, 40, bar_start + 2 * page + 68))
      .WillOnce(Return(40));
  memory.owner().copy_in(8, bytes);
  EXPECT_CALL(module_.calls, pread(device_fd, bytes.data(), 100, bar_start + 2 * page))
      .WillOnce(Return(1));
  EXPECT_CALL(module_.calls, pread(device_fd, bytes.data() + 1, 99, bar_start + 2 * page + 1))
      .WillOnce(Return(99));
  memory.owner().copy_out(0, bytes);
}

TEST_F(vfio_memory_test, copies_that_fail_end) {
  const auto memory = export_vfio(callers_fd, 2, 0, page);
  std::array<std::byte, 4> bytes{};
  ON_CALL(module_.calls, pwrite).WillByDefault(Return(-EIO));
  const auto failure = error_of([&] { memory.owner().copy_in(0, bytes); });
  EXPECT_EQ(failure.kind(), error_kind::io);
  EXPECT_THAT(failure.what(), HasSubstr("PCI_COMMAND"));
  ON_CALL(module_.calls, pread).WillByDefault(Return(0));
  EXPECT_EQ(error_of([&] { memory.owner().copy_out(0, bytes); }).code(), EIO);
  EXPECT_EQ(error_of([&] { memory.owner().copy_out(page - 3, bytes); }).kind(), error_kind::usage);
}

TEST_F(vfio_memory_test, no_whole_pages) {
  EXPECT_CALL(module_.calls, ioctl).Times(0);
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, 0},
                                     {0, 100},
                                     {100, page},
                                     {page / 2, page / 2}}) {
    const auto failure = error_of([&] { export_vfio(callers_fd, 2, offset, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), HasSubstr("multiples of 4096"));
  }
}

TEST_F(vfio_memory_test, range_that_leaves_the_bar) {
  constexpr auto last_page = std::numeric_limits<std::uint64_t>::max() - page + 1;
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, bar_size + page},
                                     {bar_size, page},
                                     {last_page, page},
                                     {page, last_page}}) {
    const auto failure = error_of([&] { export_vfio(callers_fd, 2, offset, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), AllOf(HasSubstr("leave the BAR"), HasSubstr("65536")));
  }
}

TEST_F(vfio_memory_test, bars_that_are_none) {
  for (const auto bar : {std::uint32_t{0}, std::uint32_t{VFIO_PCI_ROM_REGION_INDEX},
                         std::uint32_t{VFIO_PCI_CONFIG_REGION_INDEX}, std::uint32_t{1000}}) {
    EXPECT_THAT(error_of([&] { export_vfio(callers_fd, bar, 0, page); }).what(),
                HasSubstr("no such BAR"))
        << bar;
  }
}

TEST_F(vfio_memory_test, fds_that_are_no_device) {
  EXPECT_THAT(error_of([] { export_vfio(8, 2, 0, page); }).what(), HasSubstr("vfio device"))
      << "which the fake module duplicates to a dma-buf";
  ON_CALL(module_.calls, duplicate).WillByDefault(Return(-EBADF));
  EXPECT_THAT(error_of([] { export_vfio(8, 2, 0, page); }).what(), HasSubstr("no fd 8"));
}

TEST_F(vfio_memory_test, refusals_of_the_kernel) {
  for (const auto code : {ENOTTY, EOPNOTSUPP}) {
    EXPECT_THAT(refusal_of_kernel(code).what(),
                AllOf(HasSubstr("Linux 6.19"), HasSubstr("CONFIG_VFIO_PCI_DMABUF")));
  }
  EXPECT_THAT(refusal_of_kernel(EINVAL).what(), HasSubstr("CONFIG_PCI_P2PDMA"));
  EXPECT_THAT(refusal_of_kernel(ENODEV).what(), HasSubstr("not in use by vfio-pci"));
  EXPECT_THAT(refusal_of_kernel(EMFILE).what(), HasSubstr("EMFILE"));
}

}  // namespace
}  // namespace dmabridge

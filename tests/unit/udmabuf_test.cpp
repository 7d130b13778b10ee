// SPDX-License-Identifier: MIT
#include "dmabridge/udmabuf.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <limits>
#include <string>

#include "error_of.hpp"
#include "fake_exporter.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using testing::_;
using testing::AllOf;
using testing::HasSubstr;
using testing::Return;
using testing::StrEq;

constexpr int memfd = 140;
constexpr int node_fd = 141;
constexpr int limit_fd = 142;
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t MiB = 1 << 20;

// A memfd of 1 MiB that can be had, sealed and mapped, and a /dev/udmabuf that takes it.
class udmabuf_test : public testing::Test {
 protected:
  udmabuf_test() {
    auto& calls = module_.calls;
    ON_CALL(calls, memfd_create).WillByDefault(Return(memfd));
    ON_CALL(calls, get_seals(memfd)).WillByDefault(Return(F_SEAL_SHRINK));
    ON_CALL(calls, add_seals(memfd, _)).WillByDefault(Return(0));
    ON_CALL(calls, seek(memfd, 0, SEEK_END)).WillByDefault(Return(MiB));
    ON_CALL(calls, fstat(memfd, _)).WillByDefault([this](int, struct stat* result) {
      result->st_blksize = static_cast<blksize_t>(memfd_page_);
      return 0;
    });
    ON_CALL(calls, mmap(_, _, memfd, _)).WillByDefault([this](auto, auto, auto, void** at) {
      *at = pages_.data();
      return 0;
    });
    ON_CALL(calls, open(StrEq("/dev/udmabuf"), _, _)).WillByDefault(Return(node_fd));
    ON_CALL(calls, ioctl(node_fd, UDMABUF_CREATE, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          asked_ = *static_cast<udmabuf_create*>(argument);
          return buffer_fd;
        });
  }

  void set_limit(const std::string& text) {
    ON_CALL(module_.calls, open(StrEq("/sys/module/udmabuf/parameters/size_limit_mb"), _, _))
        .WillByDefault(Return(limit_fd));
    EXPECT_CALL(module_.calls, read(limit_fd, _, _))
        .WillOnce([text](int, void* to, std::size_t) {
          std::memcpy(to, text.data(), text.size());
          return static_cast<std::int64_t>(text.size());
        })
        .WillRepeatedly(Return(0));
  }
  auto refusal_of_kernel(int code, std::uint64_t size = MiB) -> error {
    ON_CALL(module_.calls, ioctl(node_fd, UDMABUF_CREATE, _)).WillByDefault(Return(-code));
    return error_of([&] { allocate_udmabuf(size); });
  }
  auto refusal_of_node(int code) -> error {
    ON_CALL(module_.calls, open(StrEq("/dev/udmabuf"), _, _)).WillByDefault(Return(-code));
    return error_of([&] { allocate_udmabuf(MiB); });
  }

  test::fake_module module_;
  test::fake_exporter exporter_{module_, "udmabuf"};
  std::uint64_t memfd_page_ = page;
  std::array<std::byte, 64> pages_{};  // only its address counts
  udmabuf_create asked_{};
};

TEST_F(udmabuf_test, memory_of_its_own_is_sealed_and_mapped) {
  EXPECT_CALL(module_.calls, memfd_create(_, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_CALL(module_.calls, ftruncate(memfd, MiB)).WillOnce(Return(0));
  EXPECT_CALL(module_.calls, add_seals(memfd, F_SEAL_SHRINK)).WillOnce(Return(0));
  EXPECT_CALL(module_.calls, munmap(pages_.data(), MiB));
  EXPECT_CALL(module_.calls, close(memfd));  // the mapping and the dma-buf keep the memory
  EXPECT_CALL(module_.calls, close(node_fd));
  EXPECT_CALL(module_.calls, close(buffer_fd)).Times(2);  // the fd, and the owner's own
  EXPECT_CALL(module_.calls, close(test::fdinfo_fd)).Times(testing::AnyNumber());
  const auto memory = allocate_udmabuf(MiB);
  EXPECT_EQ(asked_.memfd, static_cast<std::uint32_t>(memfd));
  EXPECT_EQ(asked_.flags, static_cast<std::uint32_t>(UDMABUF_FLAGS_CLOEXEC));
  EXPECT_EQ(asked_.offset, 0U);
  EXPECT_EQ(asked_.size, MiB);
  EXPECT_EQ(memory.owner().pinnable().data(), pages_.data());
  EXPECT_EQ(memory.owner().pinnable().size(), MiB);
  EXPECT_EQ(memory.owner().name(), "udmabuf");
}

TEST_F(udmabuf_test, odd_sizes_are_exported_exactly_of_whole_pages) {
  const auto memory = allocate_udmabuf(5000);
  EXPECT_EQ(asked_.size, 2 * page);
  EXPECT_EQ(memory.size(), 5000U);
  EXPECT_EQ(memory.owner().pinnable().size(), 5000U);
}

TEST_F(udmabuf_test, huge_pages_are_whole_ones) {
  memfd_page_ = 2 * MiB;
  module_.buffer_size = 4 * MiB;
  EXPECT_CALL(module_.calls,
              memfd_create(_, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB));
  EXPECT_CALL(module_.calls, mmap(4 * MiB, _, memfd, _));
  EXPECT_CALL(module_.calls, munmap(pages_.data(), 4 * MiB));
  const auto memory = allocate_udmabuf(3 * MiB, memfd_pages::huge);
  EXPECT_EQ(asked_.size, 4 * MiB);
  EXPECT_EQ(memory.size(), 3 * MiB);
}

TEST_F(udmabuf_test, callers_memfd_stays_the_callers) {
  EXPECT_CALL(module_.calls, close(_)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(memfd)).Times(0);
  const auto memory = udmabuf_of(memfd, 8 * page, 4 * page);
  EXPECT_EQ(asked_.offset, 8 * page);
  EXPECT_EQ(asked_.size, 4 * page);
  EXPECT_EQ(memory.offset(), 0U) << "the dma-buf begins with the range";
  EXPECT_EQ(memory.owner().pinnable().data(), pages_.data() + 8 * page);
  EXPECT_EQ(memory.owner().pinnable().size(), 4 * page);
  testing::Mock::VerifyAndClearExpectations(&module_.calls);
}

TEST_F(udmabuf_test, huge_pages_of_the_caller_are_mapped_whole) {
  memfd_page_ = 2 * MiB;
  EXPECT_CALL(module_.calls, mmap(2 * MiB, _, memfd, _));
  EXPECT_CALL(module_.calls, munmap(_, 2 * MiB));  // hugetlb unmaps nothing else
  udmabuf_of(memfd, page, page);
}

TEST_F(udmabuf_test, no_whole_pages) {
  EXPECT_CALL(module_.calls, ioctl).Times(0);
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, 0},
                                     {1, page},
                                     {0, page + 1},
                                     {page / 2, page / 2}}) {
    const auto failure = error_of([&] { udmabuf_of(memfd, offset, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), HasSubstr("multiples of 4096"));
  }
}

TEST_F(udmabuf_test, range_outside_of_the_memfd) {
  constexpr auto last_page = std::numeric_limits<std::uint64_t>::max() - page + 1;
  EXPECT_CALL(module_.calls, mmap).Times(0);
  for (const auto& [offset, size] : {std::pair<std::uint64_t, std::uint64_t>{0, MiB + page},
                                     {MiB, page},
                                     {last_page, page},
                                     {page, last_page}}) {
    const auto failure = error_of([&] { udmabuf_of(memfd, offset, size); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    EXPECT_THAT(failure.what(), AllOf(HasSubstr("leave the memfd"), HasSubstr("1048576")));
  }
}

TEST_F(udmabuf_test, seals_that_are_missing_or_too_many) {
  const auto refusal = [&](int seals) {
    ON_CALL(module_.calls, get_seals(memfd)).WillByDefault(Return(seals));
    const auto failure = error_of([] { udmabuf_of(memfd, 0, page); });
    EXPECT_EQ(failure.kind(), error_kind::usage);
    return std::string(failure.what());
  };
  EXPECT_THAT(refusal(0), HasSubstr("F_ADD_SEALS, F_SEAL_SHRINK"));
  EXPECT_THAT(refusal(F_SEAL_SEAL), HasSubstr("MFD_ALLOW_SEALING")) << "as memfd_create() makes it";
  EXPECT_THAT(refusal(F_SEAL_SHRINK | F_SEAL_WRITE), HasSubstr("sealed against writing"));
  EXPECT_THAT(refusal(F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE), HasSubstr("sealed against writing"));
  EXPECT_THAT(refusal(-EINVAL), HasSubstr("takes no seals (EINVAL)"));
  EXPECT_THAT(refusal(-EBADF), HasSubstr("no fd 140"));
}

TEST_F(udmabuf_test, missing_node) {
  for (const auto code : {ENOENT, ENXIO, ENODEV}) {
    const auto failure = refusal_of_node(code);
    EXPECT_EQ(failure.code(), code);
    EXPECT_THAT(failure.what(), AllOf(HasSubstr("modprobe udmabuf"), HasSubstr("CONFIG_UDMABUF"),
                                      HasSubstr("allocate_dma_heap")));
  }
}

TEST_F(udmabuf_test, node_of_others) {
  for (const auto code : {EACCES, EPERM}) {
    EXPECT_THAT(refusal_of_node(code).what(),
                AllOf(HasSubstr("usermod -aG kvm"), HasSubstr("chmod")));
  }
  EXPECT_THAT(refusal_of_node(EMFILE).what(), HasSubstr("EMFILE"));
}

TEST_F(udmabuf_test, limit_of_the_module_is_told) {
  set_limit("64\n");
  const auto failure = refusal_of_kernel(EINVAL, 65 * MiB);
  EXPECT_THAT(failure.what(),
              AllOf(HasSubstr("no larger ones than 64 MiB"),
                    HasSubstr("echo 65 > /sys/module/udmabuf/parameters/size_limit_mb")));
}

TEST_F(udmabuf_test, limit_that_is_enough_or_unread_is_not_blamed) {
  set_limit("64\n");
  EXPECT_THAT(refusal_of_kernel(EINVAL, 64 * MiB).what(), HasSubstr("is 64, which is enough"));
  ON_CALL(module_.calls, open(StrEq("/sys/module/udmabuf/parameters/size_limit_mb"), _, _))
      .WillByDefault(Return(-EACCES));
  EXPECT_THAT(refusal_of_kernel(EINVAL).what(), HasSubstr("size_limit_mb, is not readable"));
}

TEST_F(udmabuf_test, other_refusals_of_the_kernel) {
  EXPECT_THAT(refusal_of_kernel(ENOMEM).what(), HasSubstr("not so much memory to pin"));
  EXPECT_THAT(refusal_of_kernel(EBADFD).what(), HasSubstr("for no memfd"));
  EXPECT_THAT(refusal_of_kernel(EIO).what(), HasSubstr("EIO"));
}

TEST_F(udmabuf_test, what_was_made_before_a_refusal_goes) {
  EXPECT_CALL(module_.calls, munmap(pages_.data(), MiB));
  EXPECT_CALL(module_.calls, close(memfd));
  EXPECT_CALL(module_.calls, close(node_fd));
  refusal_of_kernel(EIO);
}

TEST_F(udmabuf_test, no_memfd_to_be_had) {
  const auto refusal = [&](int code, memfd_pages pages) {
    ON_CALL(module_.calls, memfd_create).WillByDefault(Return(-code));
    return std::string(error_of([&] { allocate_udmabuf(MiB, pages); }).what());
  };
  EXPECT_THAT(refusal(EMFILE, memfd_pages::ordinary), HasSubstr("EMFILE"));
  EXPECT_THAT(refusal(EACCES, memfd_pages::ordinary), HasSubstr("vm.memfd_noexec"));
  EXPECT_THAT(refusal(ENODEV, memfd_pages::huge), HasSubstr("no huge pages of 2 MiB"));
  EXPECT_THAT(refusal(EINVAL, memfd_pages::huge), HasSubstr("no huge pages of 2 MiB"));
}

TEST_F(udmabuf_test, memfd_that_does_not_grow_or_seal) {
  EXPECT_CALL(module_.calls, ftruncate(memfd, _)).WillOnce(Return(-ENOSPC)).WillOnce(Return(0));
  EXPECT_CALL(module_.calls, close(memfd)).Times(2);
  EXPECT_EQ(error_of([] { allocate_udmabuf(MiB); }).code(), ENOSPC);
  EXPECT_CALL(module_.calls, add_seals(memfd, _)).WillOnce(Return(-EPERM));
  EXPECT_EQ(error_of([] { allocate_udmabuf(MiB); }).code(), EPERM);
}

TEST_F(udmabuf_test, huge_pages_that_are_not_reserved) {
  memfd_page_ = 2 * MiB;
  ON_CALL(module_.calls, mmap(_, _, memfd, _)).WillByDefault(Return(-ENOMEM));
  EXPECT_THAT(error_of([] { allocate_udmabuf(3 * MiB, memfd_pages::huge); }).what(),
              AllOf(HasSubstr("2 huge page(s) of 2 MiB"),
                    HasSubstr("echo 2 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")));
}

TEST_F(udmabuf_test, memfd_for_reading_only) {
  ON_CALL(module_.calls, mmap(_, _, memfd, _)).WillByDefault(Return(-EACCES));
  EXPECT_THAT(error_of([] { udmabuf_of(memfd, 0, page); }).what(),
              HasSubstr("not for reading and writing"));
}

TEST_F(udmabuf_test, sizes_that_are_none) {
  EXPECT_CALL(module_.calls, memfd_create).Times(0);
  for (const auto size : {std::uint64_t{0}, std::numeric_limits<std::uint64_t>::max()})
    EXPECT_EQ(error_of([&] { allocate_udmabuf(size); }).kind(), error_kind::usage);
}

}  // namespace
}  // namespace dmabridge

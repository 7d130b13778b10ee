// SPDX-License-Identifier: MIT
#include "dmabridge/dma_heap.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/dma-heap.h>

#include <cerrno>
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

constexpr int heap_fd = 150;

class dma_heap_test : public testing::Test {
 protected:
  dma_heap_test() {
    ON_CALL(module_.calls, open(StrEq("/dev/dma_heap/system"), _, _))
        .WillByDefault(Return(heap_fd));
    ON_CALL(module_.calls, ioctl(heap_fd, DMA_HEAP_IOCTL_ALLOC, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& raw = *static_cast<dma_heap_allocation_data*>(argument);
          asked_ = raw;
          raw.fd = buffer_fd;
          return 0;
        });
  }
  auto refusal_of_node(int code) -> error {
    ON_CALL(module_.calls, open(StrEq("/dev/dma_heap/system"), _, _)).WillByDefault(Return(-code));
    return error_of([] { allocate_dma_heap(4096); });
  }
  auto refusal_of_kernel(int code) -> error {
    ON_CALL(module_.calls, ioctl(heap_fd, _, _)).WillByDefault(Return(-code));
    return error_of([] { allocate_dma_heap(4096); });
  }

  test::fake_module module_;
  test::fake_exporter exporter_{module_, "system"};
  dma_heap_allocation_data asked_{};
};

TEST_F(dma_heap_test, size_is_the_callers_and_the_fd_for_both_directions) {
  EXPECT_CALL(module_.calls, close(_)).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(heap_fd));
  EXPECT_CALL(module_.calls, close(buffer_fd)).Times(2);  // the fd, and the owner's own
  const auto memory = allocate_dma_heap(5000);
  EXPECT_EQ(asked_.len, 5000U);
  EXPECT_EQ(asked_.fd_flags, static_cast<std::uint32_t>(O_RDWR | O_CLOEXEC));
  EXPECT_EQ(asked_.heap_flags, 0U);
  EXPECT_EQ(memory.size(), 5000U);
  EXPECT_EQ(memory.owner().name(), "dma-heap system");
  EXPECT_TRUE(memory.owner().pinnable().empty());
}

TEST_F(dma_heap_test, no_size_or_no_name) {
  EXPECT_CALL(module_.calls, open).Times(0);
  EXPECT_EQ(error_of([] { allocate_dma_heap(0); }).kind(), error_kind::usage);
  for (const auto* name : {"", "../null", "a/b"})
    EXPECT_EQ(error_of([&] { allocate_dma_heap(4096, name); }).kind(), error_kind::usage) << name;
}

TEST_F(dma_heap_test, missing_heap_names_those_that_there_are) {
  const auto failure = error_of([] { allocate_dma_heap(4096, "no such heap"); });
  EXPECT_EQ(failure.code(), ENOENT);
  const auto heaps = dma_heaps();
  EXPECT_THAT(failure.what(),
              heaps.empty() ? HasSubstr("CONFIG_DMABUF_HEAPS_SYSTEM") : HasSubstr(heaps.front()));
}

TEST_F(dma_heap_test, heap_of_others) {
  for (const auto code : {EACCES, EPERM}) {
    EXPECT_THAT(refusal_of_node(code).what(), AllOf(HasSubstr("chgrp render /dev/dma_heap/system"),
                                                    HasSubstr("allocate_udmabuf")));
  }
  EXPECT_THAT(refusal_of_node(EMFILE).what(), HasSubstr("cannot be opened"));
}

TEST_F(dma_heap_test, refusals_of_the_kernel) {
  EXPECT_THAT(refusal_of_kernel(ENOMEM).what(),
              AllOf(HasSubstr("not so much left"), HasSubstr("cma=")));
  EXPECT_EQ(refusal_of_kernel(EINVAL).code(), EINVAL);
}

}  // namespace
}  // namespace dmabridge

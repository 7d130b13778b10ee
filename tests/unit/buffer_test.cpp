// SPDX-License-Identifier: MIT
#include "dmabridge/buffer.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/dma-buf.h>

#include <array>
#include <cerrno>
#include <random>
#include <utility>

#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using test::buffer_fd;
using test::error_of;
using testing::_;
using testing::HasSubstr;
using testing::Return;

TEST(buffer, takes_the_fd_and_knows_its_size) {
  test::fake_module module;
  EXPECT_CALL(module.calls, close(buffer_fd)).Times(1);
  const auto memory = buffer::from_fd(fd(buffer_fd));
  EXPECT_EQ(memory.descriptor(), buffer_fd);
  EXPECT_EQ(memory.size(), 1U << 20);
}

TEST(buffer, anything_that_is_no_dmabuf_is_refused_and_named) {
  test::fake_module module;
  EXPECT_CALL(module.calls, read_link).WillOnce([](const char*, std::string& target) {
    target = "/home/me/notes";
    return 0;
  });
  EXPECT_CALL(module.calls, close(buffer_fd)).Times(1);
  const auto failure = error_of([] { buffer::from_fd(fd(buffer_fd)); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("/home/me/notes"));
}

TEST(buffer, without_proc_it_is_not_taken_for_granted) {
  test::fake_module module;
  EXPECT_CALL(module.calls, read_link).WillOnce(Return(-ENOENT));
  EXPECT_THAT(error_of([] { buffer::from_fd(fd(buffer_fd)); }).what(), HasSubstr("mount /proc"));
}

TEST(buffer, inherited_fd) {
  test::fake_module module;
  EXPECT_CALL(module.calls, duplicate(9)).WillOnce(Return(buffer_fd));
  EXPECT_EQ(buffer::from_spec("fd:9").descriptor(), buffer_fd);
  EXPECT_CALL(module.calls, duplicate(8)).WillOnce(Return(-EBADF));
  EXPECT_THAT(error_of([] { buffer::from_spec("fd:8"); }).what(), HasSubstr("no such fd"));
}

TEST(buffer, an_fd_that_is_no_dmabuf_is_called_as_the_caller_called_it) {
  test::fake_module module;
  ON_CALL(module.calls, read_link).WillByDefault([](const char*, std::string& target) {
    target = "/dev/pts/3";
    return 0;
  });
  ON_CALL(module.calls, pidfd_open).WillByDefault(Return(50));
  ON_CALL(module.calls, pidfd_getfd).WillByDefault(Return(51));
  for (const auto& [spec, name] :
       {std::pair("fd:9", "fd 9 of this process"), std::pair("pid:47:5", "fd 5 of process 47")}) {
    const auto failure = error_of([&] { buffer::from_spec(spec); });
    EXPECT_THAT(failure.what(), HasSubstr(fmt::format("cannot use {} as a buffer", name)));
    EXPECT_THAT(failure.what(), HasSubstr("no dma-buf but /dev/pts/3"));
    EXPECT_FALSE(failure.details().remedies.empty());
  }
}

TEST(buffer, of_another_process) {
  test::fake_module module;
  EXPECT_CALL(module.calls, pidfd_open(4711)).WillOnce(Return(50));
  EXPECT_CALL(module.calls, pidfd_getfd(50, 7)).WillOnce(Return(buffer_fd));
  EXPECT_CALL(module.calls, close(50)).Times(1);
  EXPECT_CALL(module.calls, close(buffer_fd)).Times(1);
  EXPECT_EQ(buffer::from_spec("pid:4711:7").descriptor(), buffer_fd);
}

TEST(buffer, missing_right_to_trace_is_explained) {
  test::fake_module module;
  EXPECT_CALL(module.calls, pidfd_open(4711)).WillOnce(Return(50));
  EXPECT_CALL(module.calls, pidfd_getfd(50, 7)).WillOnce(Return(-EPERM));
  const auto failure = error_of([] { buffer::from_spec("pid:4711:7"); });
  EXPECT_THAT(failure.what(), HasSubstr("CAP_SYS_PTRACE"));
  EXPECT_THAT(failure.what(), HasSubstr("ptrace_scope"));
}

TEST(buffer, process_or_fd_that_is_not_there) {
  test::fake_module module;
  EXPECT_THAT(error_of([] { buffer::from_spec("pid:1:2"); }).what(), HasSubstr("no such process"));
  EXPECT_CALL(module.calls, pidfd_open(1)).WillOnce(Return(50));
  EXPECT_THAT(error_of([] { buffer::from_spec("pid:1:2"); }).what(), HasSubstr("has no such fd"));
}

TEST(buffer, specs_that_are_none) {
  test::fake_module module;
  EXPECT_CALL(module.calls, duplicate).Times(0);
  EXPECT_CALL(module.calls, pidfd_open).Times(0);
  for (const auto* spec : {"", "3", "fd:", "fd:-1", "fd:1x", "fd:99999999999", "pid:1",
                           "pid:1:", "pid::1", "pid:1:2:3", "PID:1:2", " fd:1"}) {
    const auto failure = error_of([&] { buffer::from_spec(spec); });
    EXPECT_EQ(failure.kind(), error_kind::usage) << spec;
    EXPECT_THAT(failure.what(), HasSubstr("pid:PID:FD")) << spec;
  }
}

TEST(buffer, random_specs_never_reach_the_kernel_wrongly) {
  test::fake_module module;
  int asked = -1;
  ON_CALL(module.calls, duplicate).WillByDefault([&](int number) {
    asked = number;
    return -EBADF;
  });
  std::mt19937 random(20260104);
  const std::string letters = "0123456789fdpi:-+ ";
  for (int i = 0; i < 20000; ++i) {
    std::string spec = random() % 2 == 0 ? "fd:" : "";
    const auto length = random() % 8;
    for (std::size_t k = 0; k < length; ++k) spec += letters[random() % letters.size()];
    asked = -1;
    EXPECT_THROW(buffer::from_spec(spec), error);
    if (asked != -1) {
      EXPECT_EQ(std::stoll(spec.substr(3)), asked) << spec;
    }
  }
}

TEST(mapping, brackets_and_unmaps) {
  test::fake_module module;
  std::array<std::byte, 64> memory{};
  module.buffer_size = memory.size();
  EXPECT_CALL(module.calls, mmap(memory.size(), _, _, _))
      .WillOnce([&](std::size_t, int, int, void** result) {
        *result = memory.data();
        return 0;
      });
  EXPECT_CALL(module.calls, munmap(memory.data(), memory.size())).Times(1);
  std::vector<std::uint64_t> flags;
  int interruptions = 1;
  EXPECT_CALL(module.calls, ioctl(_, DMA_BUF_IOCTL_SYNC, _))
      .WillRepeatedly([&](int, unsigned long, void* argument) {
        if (interruptions-- > 0) return -EINTR;
        flags.push_back(static_cast<dma_buf_sync*>(argument)->flags);
        return 0;
      });
  const auto view = buffer::from_fd(fd(buffer_fd)).map(cpu_access::read_write);
  EXPECT_EQ(view.bytes().data(), memory.data());
  {
    const cpu_access_bracket bracket(view, cpu_access::write);
  }
  EXPECT_EQ(flags, (std::vector<std::uint64_t>{DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE,
                                               DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE}));
}

}  // namespace
}  // namespace dmabridge

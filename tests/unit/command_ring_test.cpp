// SPDX-License-Identifier: MIT
// The io_uring itself, with a kernel that takes no more commands for a while.
#include "command_ring.hpp"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "dmabridge/error.hpp"
#include "dmabridge/fd.hpp"

namespace dmabridge {
namespace {

constexpr int length = 512;

// From now on, io_uring_enter() of this process fails with -EAGAIN where it should submit.
auto forbid_submitting() -> bool {
  constexpr auto to_submit = offsetof(seccomp_data, args) + sizeof(std::uint64_t);
  std::array<sock_filter, 6> program{{
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, __NR_io_uring_enter},
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, to_submit},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, 0},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EAGAIN},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  }};
  const sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

void expect(bool condition, int code) {
  if (!condition) std::_Exit(code);
}

// A read of an empty pipe is in flight until somebody writes. What is wrong is the exit status.
[[noreturn]] void fill_up() {
  std::array<int, 2> ends{};
  expect(::pipe(ends.data()) == 0, 1);
  std::array<std::byte, 2 * length> memory{};
  native_ring native(4);
  const auto ring = native.carry(ends[0], memory, direction::read);
  std::array<completion, 4> done{};
  ring->queue({.file_offset = 0, .buffer_offset = 0, .length = length, .tag = 7});
  ring->submit();
  expect(forbid_submitting(), 2);
  ring->queue({.file_offset = 0, .buffer_offset = length, .length = length, .tag = 8});
  expect(::write(ends[1], memory.data(), length) == length, 3);
  expect(ring->submit_and_wait(done) == 1, 4);
  expect(done[0].tag == 7 && done[0].result == length, 5);
  // Now there is nothing to wait for.
  expect(ring->submit_and_wait(done) == -EAGAIN, 6);
  std::_Exit(0);
}

TEST(command_ring, what_is_in_flight_is_waited_for_if_no_more_is_taken) {
  try {
    const native_ring probe(4);
  } catch (const error& failure) {
    GTEST_SKIP() << failure.what();
  }
  EXPECT_EXIT(fill_up(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace dmabridge

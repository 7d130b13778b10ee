// SPDX-License-Identifier: MIT
//
// io_uring as tests use it, with the commands of a binding.
#pragma once

#include <dmabridge.h>
#include <liburing.h>

#include <cstdint>
#include <vector>

namespace dmabridge::test {

class Ring {
 public:
  // flags: IORING_SETUP_*. Throws std::system_error.
  explicit Ring(unsigned entries = 64, unsigned flags = 0);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  io_uring* get() { return &ring_; }

  // The next entry. Throws std::runtime_error if the queue is full.
  io_uring_sqe* next();
  void submit();
  // Result of the next completion, in any order. user_data: its mark, if wanted.
  int wait(std::uint64_t* user_data = nullptr);
  // The same, but gives false if nothing completes in this time (see patience).
  bool wait_for(unsigned milliseconds, int* result);

  // Queues a binding's command. The entry may still be changed.
  io_uring_sqe* prepare(int binding, std::uint32_t operation, std::uint64_t buffer_offset,
                        std::uint32_t length, std::uint64_t file_offset,
                        std::uint64_t user_data = 0);
  // One command, from start to end: bytes or -errno.
  int transfer(int binding, std::uint32_t operation, std::uint64_t buffer_offset,
               std::uint32_t length, std::uint64_t file_offset);
  // A whole range in pieces, up to depth at a time. Bytes that were moved before the first short
  // one, or the first -errno.
  std::int64_t transfer_all(int binding, std::uint32_t operation, std::uint64_t buffer_offset,
                            std::uint64_t length, std::uint64_t file_offset,
                            std::uint32_t piece = 1 << 20, unsigned depth = 8);

 private:
  io_uring ring_;
};

}  // namespace dmabridge::test

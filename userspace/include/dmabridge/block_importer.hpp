// SPDX-License-Identifier: MIT
// A buffer joined with a file or block device: io_uring commands move bytes between the two.
#pragma once

#include <dmabridge/uapi.h>

#include <array>
#include <cstdint>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/verdict.hpp"

struct io_uring_sqe;

namespace dmabridge {

enum class direction : std::uint32_t {
  read = DMABRIDGE_BIND_READ,    // target to buffer
  write = DMABRIDGE_BIND_WRITE,  // buffer to target
  both = DMABRIDGE_BIND_READ | DMABRIDGE_BIND_WRITE,
};

struct route_counter {
  std::uint64_t commands = 0;
  std::uint64_t bytes = 0;
};
using route_counters = std::array<route_counter, DMABRIDGE_NR_ROUTES>;  // by route

struct binding_info {
  std::uint32_t offset_align = 1;  // of file offset and length
  std::uint32_t memory_align = 1;  // of buffer offset
  std::uint32_t max_length = 0;    // of one command
  std::uint64_t buffer_size = 0;
  std::uint64_t errors = 0;    // commands that failed
  std::uint64_t reissued = 0;  // commands the kernel module issued again after -EAGAIN
  std::uint64_t generation = 0;
  route_counters routes{};
  dmabridge::verdict verdict{};
};

// Owns the binding's fd, which keeps the buffer and the target alive by itself.
class DMABRIDGE_API binding {
 public:
  // `target` is an open file or block device, opened for `way`. Writing to a block device claims it
  // exclusively. Throws dmabridge::error of kind refused, with every reason, if the kernel says no.
  // `name` is what errors call the target.
  binding(const control& module, const buffer& memory, int target, const std::string& name,
          policy wanted, direction way);

  auto descriptor() const noexcept -> int { return fd_.get(); }
  auto verdict() const noexcept -> const dmabridge::verdict& { return verdict_; }
  // Limits and counters, as of now. Throws dmabridge::error.
  auto info() const -> binding_info;

  // Fills a 64-byte SQE of any ring with one command; the caller sets user_data. The CQE's res is
  // the number of bytes, short at the end of the file, or -errno. Cannot fail: the kernel checks
  // the ranges.
  void prepare_read(io_uring_sqe& sqe, std::uint64_t file_offset, std::uint64_t buffer_offset,
                    std::uint32_t length) const noexcept;
  void prepare_write(io_uring_sqe& sqe, std::uint64_t file_offset, std::uint64_t buffer_offset,
                     std::uint32_t length) const noexcept;

 private:
  fd fd_;
  dmabridge::verdict verdict_;
};

}  // namespace dmabridge

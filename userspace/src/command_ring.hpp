// SPDX-License-Identifier: MIT
// The io_uring that carries a transfer's commands, so that tests can be one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "dmabridge/block_importer.hpp"

namespace dmabridge {

struct command {
  std::uint64_t file_offset;
  std::uint64_t buffer_offset;
  std::uint32_t length;
  std::uint32_t tag;  // comes back with the completion
};

struct completion {
  std::uint32_t tag;
  std::int32_t result;  // bytes or -errno
};

class command_ring {
 public:
  virtual ~command_ring() = default;

  // There is always room for as many commands as the ring was made for.
  virtual void queue(const command& what) = 0;

  // Begins with what is queued, and waits for nothing. If that fails, submit_and_wait() will, too.
  virtual void submit() = 0;

  // Submits what is queued and waits until one command at least is complete. Returns how many
  // completions it put at the front of `done`, or -errno; after -EINTR it may be called again.
  virtual auto submit_and_wait(std::span<completion> done) -> int = 0;
};

// The memory of a ring and its io_uring, to be used with one target after another.
class native_ring {
 public:
  // Throws dmabridge::error.
  explicit native_ring(unsigned entries);
  native_ring(const native_ring&) = delete;
  auto operator=(const native_ring&) -> native_ring& = delete;
  ~native_ring();

  // Commands between `between` and its buffer; both must outlive what comes back.
  auto carry(const binding& between, direction way) -> std::unique_ptr<command_ring>;
  // Ordinary reads and writes between an open file and memory, in which buffer offsets count; both
  // must outlive what comes back.
  auto carry(int target, std::span<std::byte> memory, direction way)
      -> std::unique_ptr<command_ring>;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace dmabridge

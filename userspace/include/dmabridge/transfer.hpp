// SPDX-License-Identifier: MIT
// Moves whole ranges between a target and memory, many commands at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "dmabridge/api.hpp"
#include "dmabridge/block_attachment.hpp"
#include "dmabridge/block_importer.hpp"

namespace dmabridge {

struct transfer_options {
  unsigned queue_depth = 16;               // commands in flight, 1 to 4096
  std::uint32_t block_size = 1024 * 1024;  // bytes of one command; a multiple of the alignment.
                                           // More than the binding's max_length is cut to it
  // Gets the bytes done so far, on the caller's thread. What it throws comes out of the transfer,
  // once nothing is in flight any more.
  std::function<void(std::uint64_t)> progress{};
  const std::atomic<bool>* stop = nullptr;  // set it to end the transfer early, with -ECANCELED
};

struct transfer_range {
  std::uint64_t file_offset = 0;    // a multiple of binding_info::offset_align
  std::uint64_t buffer_offset = 0;  // a multiple of offset_align and memory_align
  std::uint64_t length = 0;         // bytes
};

struct transfer_result {
  int error = 0;                   // -errno of the first failure in file order; 0: none
  std::uint64_t error_offset = 0;  // in the file
  std::uint64_t bytes = 0;         // bytes that arrived; after an error not always in one piece
  std::uint64_t commands = 0;  // io_uring commands issued, with those for the rest of a short one
  bool ended_early = false;    // the file ended before the range did: only `bytes` are there
  double seconds = 0;
  route_counters routes{};  // by the binding's counters; others who use it at the time are in it
};

// One io_uring and its queue; may be used again and again, but only by the thread that made it.
// Setting up throws dmabridge::error; what happens to the I/O comes back in the result, and no
// memory is allocated per command.
//
// Both directions move whole alignment units. A range whose length is no multiple of offset_align
// is rounded up: a read may fill the buffer up to there with what follows in the target, and a
// write writes what follows in the buffer, which a caller who made the file then cuts off.
class DMABRIDGE_API transfer_engine {
 public:
  explicit transfer_engine(transfer_options options = {});
  transfer_engine(transfer_engine&&) noexcept;
  auto operator=(transfer_engine&&) noexcept -> transfer_engine&;
  ~transfer_engine();

  // From the target into the buffer.
  auto load(const binding& between, const transfer_range& range) -> transfer_result;
  // From the buffer to the target.
  auto save(const binding& between, const transfer_range& range) -> transfer_result;

  // The same by whatever way the attachment has. Routes are then what this engine moved itself,
  // unless it is a binding. Throw besides what the memory's owner throws when it copies; some bytes
  // have moved then.
  auto load(const block_attachment& between, const transfer_range& range) -> transfer_result;
  auto save(const block_attachment& between, const transfer_range& range) -> transfer_result;

 private:
  auto move(const block_attachment& between, direction way, const transfer_range& range)
      -> transfer_result;

  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace dmabridge

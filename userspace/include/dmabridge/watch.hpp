// SPDX-License-Identifier: MIT
// Being told when a buffer moves, is revoked or is released.
#pragma once

#include <dmabridge/uapi.h>

#include <chrono>
#include <cstdint>
#include <optional>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

// The state of a buffer after something has happened to it.
struct DMABRIDGE_API buffer_event {
  std::uint64_t generation = 0;  // changes with every move and revoke
  dmabridge::placement placement = dmabridge::placement::none;
  bool revoked = false;                       // its device is gone
  bool released = false;                      // its last reference is gone
  std::optional<dmabridge::reason> reason{};  // of the last move or revoke; nothing: neither yet

  // Whether nothing will happen any more.
  auto is_last() const noexcept -> bool { return revoked || released; }

  static auto from_kernel(const dmabridge_event& raw) -> buffer_event;
};

// Owns the watch's fd. A watch does not keep its buffer alive. Several moves between two reads are
// one event, which has the latest state.
//
//   watch watching(module, memory);
//   while (const auto event = watching.read()) { ... }
class DMABRIDGE_API watch {
 public:
  // `eventfd`, if it is not -1, gets 1 added for each thing that happens; the caller keeps it.
  // Throws dmabridge::error: also if the buffer is another exporter's or revoked already, or if the
  // kernel module is older than watches.
  watch(const control& module, const buffer& memory, int eventfd = -1);
  watch(const control& module, int buffer, int eventfd = -1);

  // For a poll loop of one's own: POLLIN if read() has an event; POLLHUP if the buffer is revoked
  // or released, and stays.
  auto descriptor() const noexcept -> int { return fd_.get(); }
  // Of the buffer as the watch began: whatever changes it later is an event.
  auto generation() const noexcept -> std::uint64_t { return generation_; }

  // Waits until read() returns at once; for as long as it takes without a timeout, and not at all
  // with one of 0. False: it was over first, or a signal came. Throws dmabridge::error.
  auto wait(std::optional<std::chrono::milliseconds> timeout = {}) const -> bool;

  // What the buffer has come to since the last read(); waits until something has happened. Nothing
  // once the last event has been read, in which is_last(). Throws dmabridge::error: with code EINTR
  // if a signal came whose handler was not installed with SA_RESTART, with EAGAIN if nothing has
  // happened and the caller made the descriptor O_NONBLOCK.
  auto read() -> std::optional<buffer_event>;

 private:
  fd fd_;
  std::uint64_t generation_ = 0;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// Fences: what a device still does to a buffer, or will have done, as an fd.
#pragma once

#include <chrono>
#include <optional>
#include <utility>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/fd.hpp"

namespace dmabridge {

// Owns one fd of a sync_file, which is signalled once all that it stands for is done: GPU APIs take
// and give it as "sync fd". All functions throw dmabridge::error.
class DMABRIDGE_API sync_file {
 public:
  // Takes ownership. An API that gives -1 means "done already": there is nothing to take then.
  static auto from_fd(fd descriptor) -> sync_file;

  // What is to be waited for before one accesses the buffer: for reading, those who write it; for
  // writing, all. Is signalled already if there is nothing. Who comes later is not in it.
  static auto export_from(const buffer& memory, cpu_access access) -> sync_file;

  // Makes others wait for this: as for one who reads the buffer, or writes it. The buffer keeps the
  // fences, not the fd.
  void import_into(const buffer& memory, cpu_access access) const;

  // Signalled when both are.
  static auto merge(const sync_file& one, const sync_file& other) -> sync_file;

  // Waits until it is signalled: for as long as it takes without a timeout, and not at all with one
  // of 0. False: the timeout was over first. Signals of the process do not end it. Throws
  // dmabridge::error of kind io if what it stands for has failed, with that code.
  auto wait(std::optional<std::chrono::milliseconds> timeout = {}) const -> bool;

  // Stays this object's.
  auto descriptor() const noexcept -> int { return fd_.get(); }
  // Gives the fd away, to an API that takes it over; the object is empty afterwards.
  auto release() noexcept -> int { return fd_.release(); }

 private:
  explicit sync_file(fd descriptor) noexcept : fd_(std::move(descriptor)) {}

  fd fd_;
};

}  // namespace dmabridge

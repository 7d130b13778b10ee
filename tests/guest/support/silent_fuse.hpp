// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>

#include "drives.hpp"
#include "fd.hpp"

namespace dmabridge::test {

// A mounted FUSE file system with one file, whose reads are never answered.
class SilentFuse {
 public:
  // Throws std::system_error.
  SilentFuse();
  ~SilentFuse();
  SilentFuse(const SilentFuse&) = delete;
  SilentFuse& operator=(const SilentFuse&) = delete;

  std::string path() const { return mount_->file("file"); }
  // Reads that have come in so far.
  unsigned reads() const { return reads_; }
  // Makes all that waits for an answer fail, and all that comes.
  void abort();

 private:
  void serve();

  Fd device_;
  Fd stop_;
  std::atomic<unsigned> reads_ = 0;
  std::optional<Mount> mount_;
  std::thread server_;
};

}  // namespace dmabridge::test

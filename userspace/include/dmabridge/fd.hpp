// SPDX-License-Identifier: MIT
// A file descriptor that has one owner.
#pragma once

#include <sys/types.h>

#include <string>
#include <system_error>
#include <utility>

#include "dmabridge/api.hpp"

namespace dmabridge {

// Move-only; -1 is empty. Every descriptor made here is close-on-exec. The destructor closes and
// ignores errors: whoever needs to know whether close() worked calls it.
class DMABRIDGE_API fd {
 public:
  fd() noexcept = default;
  // Takes ownership of `descriptor`.
  explicit fd(int descriptor) noexcept : descriptor_(descriptor) {}
  fd(fd&& other) noexcept : descriptor_(other.release()) {}
  auto operator=(fd&& other) noexcept -> fd& {
    if (this != &other) reset(other.release());
    return *this;
  }
  fd(const fd&) = delete;
  auto operator=(const fd&) -> fd& = delete;
  ~fd() { reset(); }

  // Throws std::system_error.
  static auto open(const std::string& path, int flags, mode_t mode = 0) -> fd;
  static auto open(const std::string& path, int flags, mode_t mode, std::error_code& ec) noexcept
      -> fd;

  // A second descriptor of the same open file, by F_DUPFD_CLOEXEC. Throws std::system_error.
  static auto duplicate(int descriptor) -> fd;
  static auto duplicate(int descriptor, std::error_code& ec) noexcept -> fd;

  auto get() const noexcept -> int { return descriptor_; }
  explicit operator bool() const noexcept { return descriptor_ != -1; }

  // Gives the descriptor away; the caller closes it.
  auto release() noexcept -> int { return std::exchange(descriptor_, -1); }

  // Empty afterwards in any case, as Linux frees the number even if close() fails.
  void close();
  void close(std::error_code& ec) noexcept;

 private:
  void reset(int descriptor = -1) noexcept;

  int descriptor_ = -1;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// The system calls that this library makes, so that tests can take the kernel's part.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace dmabridge {

// Every function returns what the call returns, or -errno.
class system_calls {
 public:
  virtual ~system_calls() = default;

  virtual auto open(const char* path, int flags, mode_t mode) -> int = 0;
  virtual auto close(int descriptor) -> int = 0;
  virtual auto duplicate(int descriptor) -> int = 0;
  virtual auto ioctl(int descriptor, unsigned long request, void* argument) -> int = 0;
  // For at most `milliseconds`; -1: for as long as it takes. `seen` gets the events that came.
  virtual auto poll(int descriptor, short events, int milliseconds, short& seen) -> int = 0;
  virtual auto read(int descriptor, void* to, std::size_t length) -> std::int64_t = 0;
  virtual auto pread(int descriptor, void* to, std::size_t length, std::uint64_t offset)
      -> std::int64_t = 0;
  virtual auto pwrite(int descriptor, const void* from, std::size_t length, std::uint64_t offset)
      -> std::int64_t = 0;
  virtual auto seek(int descriptor, std::int64_t offset, int whence) -> std::int64_t = 0;
  virtual auto read_link(const char* path, std::string& target) -> int = 0;
  virtual auto access(const char* path, int mode) -> int = 0;
  virtual auto stat(const char* path, struct stat* result) -> int = 0;
  virtual auto fstat(int descriptor, struct stat* result) -> int = 0;
  virtual auto statx(int descriptor, unsigned mask, struct statx& result) -> int = 0;
  virtual auto mmap(std::size_t length, int protection, int descriptor, void** result) -> int = 0;
  virtual auto munmap(void* address, std::size_t length) -> int = 0;
  virtual auto memfd_create(const char* name, unsigned flags) -> int = 0;
  virtual auto get_seals(int descriptor) -> int = 0;
  virtual auto add_seals(int descriptor, int seals) -> int = 0;
  virtual auto pidfd_open(pid_t pid) -> int = 0;
  virtual auto pidfd_getfd(int pidfd, int descriptor) -> int = 0;
  virtual auto fallocate(int descriptor, std::uint64_t length) -> int = 0;
  virtual auto ftruncate(int descriptor, std::uint64_t length) -> int = 0;
  virtual auto fchmod(int descriptor, mode_t mode) -> int = 0;
  virtual auto fsync(int descriptor) -> int = 0;
  virtual auto rename(const char* from, const char* to, bool replace) -> int = 0;
  virtual auto unlink(const char* path) -> int = 0;
};

// The real ones, unless a test says otherwise.
auto sys() noexcept -> system_calls&;

// While it lives, sys() is `calls`. Not to be used while other threads are in the library.
class system_calls_override {
 public:
  explicit system_calls_override(system_calls& calls) noexcept;
  system_calls_override(const system_calls_override&) = delete;
  auto operator=(const system_calls_override&) -> system_calls_override& = delete;
  ~system_calls_override();

 private:
  system_calls* previous_;
};

}  // namespace dmabridge

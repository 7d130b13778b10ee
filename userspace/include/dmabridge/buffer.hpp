// SPDX-License-Identifier: MIT
// A dma-buf, from wherever it comes.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "dmabridge/api.hpp"
#include "dmabridge/fd.hpp"

namespace dmabridge {

class buffer_life;

enum class cpu_access : std::uint32_t { read = 1, write = 2, read_write = 3 };

// A buffer's bytes in this process, shared with the device. Unmapped on destruction. Touching it
// after the buffer was revoked raises SIGBUS.
class DMABRIDGE_API mapping {
 public:
  mapping(mapping&& other) noexcept;
  auto operator=(mapping&& other) noexcept -> mapping&;
  mapping(const mapping&) = delete;
  auto operator=(const mapping&) -> mapping& = delete;
  ~mapping();

  auto bytes() const noexcept -> std::span<std::byte> { return bytes_; }

  // CPU accesses must stand between begin() and end(), which wait for devices and keep caches
  // coherent (DMA_BUF_IOCTL_SYNC). Throw dmabridge::error.
  void begin(cpu_access access) const;
  void end(cpu_access access) const;

 private:
  friend class buffer;
  mapping(fd descriptor, std::span<std::byte> bytes) noexcept;

  fd fd_;  // an own one, so that the mapping may outlive the buffer object
  std::span<std::byte> bytes_;
};

// begin() in its constructor, end() in its destructor, which ignores errors.
class DMABRIDGE_API cpu_access_bracket {
 public:
  cpu_access_bracket(const mapping& map, cpu_access access) : map_(map), access_(access) {
    map_.begin(access_);
  }
  cpu_access_bracket(const cpu_access_bracket&) = delete;
  auto operator=(const cpu_access_bracket&) -> cpu_access_bracket& = delete;
  ~cpu_access_bracket();

 private:
  const mapping& map_;
  cpu_access access_;
};

// Owns one fd of a dma-buf; the memory lives as long as anybody holds an fd, a mapping or a binding
// of it. The functions that make one throw dmabridge::error, also if the fd is no dma-buf.
class DMABRIDGE_API buffer {
 public:
  // Takes ownership.
  static auto from_fd(fd descriptor) -> buffer;
  // The caller keeps `descriptor`.
  static auto duplicate(int descriptor) -> buffer;
  // Fetches fd number `descriptor` of process `pid`, for which this process needs the right to
  // trace that one (PTRACE_MODE_ATTACH_REALCREDS).
  static auto from_process(pid_t pid, int descriptor) -> buffer;
  // "fd:N", one of this process, inherited as a rule; or "pid:PID:FD".
  static auto from_spec(const std::string& spec) -> buffer;

  auto descriptor() const noexcept -> int { return fd_.get(); }
  auto size() const noexcept -> std::uint64_t { return size_; }
  // Which dma-buf it is, whatever fds there are of it: no two that exist have the same.
  auto inode() const noexcept -> std::uint64_t { return inode_; }
  // Who exports it, by its own word: "dmabridge", "udmabuf". Empty if /proc does not tell.
  auto exporter() const -> std::string;

  auto map(cpu_access access) const -> mapping;

  // Gives the fd away; the object is empty afterwards.
  auto release() noexcept -> int {
    life_.reset();
    return fd_.release();
  }

  // For what may last as long as this object, or the one that it is moved to: registration_cache.
  auto life() const noexcept -> const std::shared_ptr<buffer_life>& { return life_; }

 private:
  // `name` is what errors call the fd.
  static auto adopt(fd descriptor, const std::string& name) -> buffer;
  buffer(fd descriptor, std::uint64_t size, std::uint64_t inode);

  fd fd_;
  std::uint64_t size_ = 0;
  std::uint64_t inode_ = 0;
  std::shared_ptr<buffer_life> life_;  // before fd_ at the end
};

}  // namespace dmabridge

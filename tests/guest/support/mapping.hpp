// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <span>
#include <system_error>
#include <utility>

#include "fd.hpp"

namespace dmabridge::test {

// Owns a memory mapping.
class Mapping {
 public:
  // Shared mapping of an fd. Throws std::system_error.
  Mapping(int fd, std::size_t length, std::size_t offset = 0,
          int protection = PROT_READ | PROT_WRITE)
      : length_(length) {
    start_ = mmap(nullptr, length, protection, MAP_SHARED, fd, static_cast<off_t>(offset));
    if (start_ == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  }
  // Ordinary, page-aligned memory, zeroed and present. huge: made of 2 MiB pages where the kernel
  // has some.
  static Mapping anonymous(std::size_t length, bool huge = false) {
    constexpr std::size_t huge_size = 2 << 20;
    // A huge page needs an address that it divides.
    const std::size_t room = huge ? length + huge_size : length;
    void* start = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
    Mapping result(start, room);
    if (huge) {
      result.skip_ = -reinterpret_cast<std::size_t>(start) % huge_size;
      if (madvise(result.data(), length, MADV_HUGEPAGE) != 0)
        throw std::system_error(errno, std::generic_category(), "MADV_HUGEPAGE");
    } else if (madvise(start, room, MADV_NOHUGEPAGE) != 0) {
      throw std::system_error(errno, std::generic_category(), "MADV_NOHUGEPAGE");
    }
    if (madvise(result.data(), length, MADV_POPULATE_WRITE) != 0)
      throw std::system_error(errno, std::generic_category(), "MADV_POPULATE_WRITE");
    return result;
  }
  Mapping(Mapping&& other) noexcept
      : start_(std::exchange(other.start_, MAP_FAILED)),
        length_(other.length_),
        skip_(other.skip_) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (start_ != MAP_FAILED) munmap(start_, length_);
  }

  std::byte* data() const { return static_cast<std::byte*>(start_) + skip_; }
  std::size_t size() const { return length_ - skip_; }
  std::span<std::byte> bytes() const { return {data(), size()}; }

 private:
  Mapping(void* start, std::size_t length) : start_(start), length_(length) {}

  void* start_ = MAP_FAILED;
  std::size_t length_;
  std::size_t skip_ = 0;
};

// Whether the CPU finds memory behind an address: a system call that reads it says so without a
// signal.
inline bool is_there(const std::byte* address) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  const Fd reader(ends[0]), writer(ends[1]);
  return write(writer.get(), address, 1) == 1;
}

}  // namespace dmabridge::test

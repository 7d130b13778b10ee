// SPDX-License-Identifier: MIT
// The life of a buffer object, for those who keep something for as long as it lasts.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace dmabridge {

class buffer_observer {
 public:
  virtual ~buffer_observer() = default;

  // The object of this dma-buf is gone. In its destructor, on whatever thread that runs.
  virtual void buffer_gone(std::uint64_t inode) noexcept = 0;
};

// Shared by nobody but the buffer object: others keep weak references, which tell whether it lives.
class buffer_life {
 public:
  explicit buffer_life(std::uint64_t inode) noexcept : inode_(inode) {}
  buffer_life(const buffer_life&) = delete;
  auto operator=(const buffer_life&) -> buffer_life& = delete;
  ~buffer_life();

  // Once, however often it asks. An observer that is gone by then is not told.
  void tell(const std::shared_ptr<buffer_observer>& who);

 private:
  const std::uint64_t inode_;
  std::mutex lock_{};
  std::vector<std::weak_ptr<buffer_observer>> observers_{};
};

}  // namespace dmabridge

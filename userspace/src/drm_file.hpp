// SPDX-License-Identifier: MIT
// An open DRM node, with the handles that this library has imported by it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "dmabridge/fd.hpp"

namespace dmabridge {

// Threads may share one: handles may go on any.
class drm_file {
 public:
  drm_file(fd descriptor, std::string driver);

  auto descriptor() const noexcept -> int { return fd_.get(); }
  auto driver() const noexcept -> const std::string& { return driver_; }

  // A dma-buf's handle, counted: 0 or -errno.
  auto import(int dma_buf, std::uint32_t& handle) -> int;
  // Closes it when it was dropped as often as it was imported. Does nothing in a child of fork():
  // the file is the parent's as well, and so are its handles.
  void drop(std::uint32_t handle) noexcept;
  // Of a handle that is not counted.
  void close(std::uint32_t handle) noexcept;

 private:
  fd fd_;
  std::string driver_;
  pid_t process_;
  // Held over the ioctls: a handle must not be closed between its import and its count.
  std::mutex lock_;
  std::map<std::uint32_t, unsigned> imported_;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>

#include "system_calls.hpp"

namespace dmabridge {

// Begun again when it was interrupted, as DRM wants it.
inline auto drm_ioctl(int file, unsigned long request, void* argument) -> int {
  int result = 0;
  do {
    result = sys().ioctl(file, request, argument);
  } while (result == -EINTR || result == -EAGAIN);
  return result;
}

}  // namespace dmabridge

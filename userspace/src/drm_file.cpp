// SPDX-License-Identifier: MIT
#include "drm_file.hpp"

#include <drm/drm.h>
#include <unistd.h>

#include <utility>

#include "drm_ioctl.hpp"

namespace dmabridge {

drm_file::drm_file(fd descriptor, std::string driver)
    : fd_(std::move(descriptor)), driver_(std::move(driver)), process_(::getpid()) {}

auto drm_file::import(int dma_buf, std::uint32_t& handle) -> int {
  const std::scoped_lock guard(lock_);
  drm_prime_handle argument{};
  argument.fd = dma_buf;
  const auto result = drm_ioctl(descriptor(), DRM_IOCTL_PRIME_FD_TO_HANDLE, &argument);
  if (result < 0) return result;
  handle = argument.handle;
  ++imported_[handle];
  return 0;
}

void drm_file::drop(std::uint32_t handle) noexcept {
  if (::getpid() != process_) return;
  const std::scoped_lock guard(lock_);
  const auto found = imported_.find(handle);
  if (found == imported_.end() || --found->second != 0) return;
  imported_.erase(found);
  close(handle);
}

void drm_file::close(std::uint32_t handle) noexcept {
  drm_gem_close argument{};
  argument.handle = handle;
  drm_ioctl(descriptor(), DRM_IOCTL_GEM_CLOSE, &argument);
}

}  // namespace dmabridge

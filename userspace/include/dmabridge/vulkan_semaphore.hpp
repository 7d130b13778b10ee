// SPDX-License-Identifier: MIT
// Vulkan semaphores as sync files, and sync files as Vulkan semaphores: the order between a
// device's work and what others do with the same memory.
#pragma once

#include <vulkan/vulkan_core.h>

#include <memory>

#include "dmabridge/api.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/vulkan_device.hpp"

namespace dmabridge {

// A binary semaphore. It ends with the object: no work of the device may need it then.
//
// A sync file is signalled once. Vulkan says -1 for one that has been already, and so says an empty
// fd here.
class DMABRIDGE_API vulkan_semaphore {
 public:
  // For a submission of the caller's to signal, and then export_sync_file(). Throws
  // dmabridge::error.
  explicit vulkan_semaphore(const vulkan_device& device);
  // For one submission to wait for. Takes ownership of the fd, also if it throws dmabridge::error.
  vulkan_semaphore(const vulkan_device& device, fd sync_file);
  vulkan_semaphore(vulkan_semaphore&&) noexcept;
  auto operator=(vulkan_semaphore&&) noexcept -> vulkan_semaphore&;
  ~vulkan_semaphore();

  auto handle() const noexcept -> VkSemaphore;

  // Signalled when the submission that signals the semaphore is done; that one must be on its queue
  // already. The semaphore is as new afterwards. Some drivers return only when the work is done
  // (Mesa's llvmpipe). Throws dmabridge::error.
  auto export_sync_file() const -> fd;

 private:
  struct parts;
  std::unique_ptr<parts> parts_;
};

}  // namespace dmabridge

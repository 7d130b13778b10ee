// SPDX-License-Identifier: MIT
// Memory of DRM drivers: GPUs, displays, and some accelerators.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

class drm_file;

// An open node of a DRM device. What is made by it keeps the file open by itself.
class DMABRIDGE_API drm_device {
 public:
  // "/dev/dri/card0", or "/dev/dri/renderD128": a render node, which needs fewer rights, and has no
  // dumb buffers. Throws dmabridge::error.
  static auto open(const std::string& path) -> drm_device;
  // The caller keeps `descriptor`, and shares its GEM handles with this object. Throws
  // dmabridge::error, of kind usage if it is no DRM node.
  static auto duplicate(int descriptor) -> drm_device;

  auto descriptor() const noexcept -> int;
  // "amdgpu", "vgem"
  auto driver() const noexcept -> const std::string&;

  auto file() const noexcept -> const std::shared_ptr<drm_file>& { return file_; }

 private:
  explicit drm_device(std::shared_ptr<drm_file> file) noexcept : file_(std::move(file)) {}

  std::shared_ptr<drm_file> file_;
};

// A dma-buf that a DRM device has imported: its GEM handle there, closed on destruction. The kernel
// gives a second import of a dma-buf by the same file the first one's handle, and closes it at the
// first close; objects of this class are counted, so that each may go when it likes. That does not
// go for handles that the caller imports by other means with a descriptor shared by
// drm_device::duplicate(): import a dma-buf in one way there. A child of fork() shares the open
// file, so its copies of these objects close nothing: let a child open the device itself.
class DMABRIDGE_API drm_handle {
 public:
  drm_handle(drm_handle&& other) noexcept;
  auto operator=(drm_handle&& other) noexcept -> drm_handle&;
  drm_handle(const drm_handle&) = delete;
  auto operator=(const drm_handle&) -> drm_handle& = delete;
  ~drm_handle();

  auto value() const noexcept -> std::uint32_t { return value_; }

 private:
  friend DMABRIDGE_API auto import_drm(const drm_device& device, const buffer& memory)
      -> drm_handle;
  drm_handle(std::shared_ptr<drm_file> file, std::uint32_t value) noexcept;

  std::shared_ptr<drm_file> file_;
  std::uint32_t value_;
};

// All of these throw dmabridge::error.

// The memory behind a GEM handle (PRIME), all of it or [offset, offset + size). The caller keeps
// `handle`, and may close it: the exported memory needs it no more.
DMABRIDGE_API auto export_drm(const drm_device& device, std::uint32_t handle) -> exported_memory;
DMABRIDGE_API auto export_drm(const drm_device& device, std::uint32_t handle, std::uint64_t offset,
                              std::uint64_t size) -> exported_memory;

// The caller keeps `memory`. Refused as a rule by virtio_gpu and qxl, which take their own only.
DMABRIDGE_API auto import_drm(const drm_device& device, const buffer& memory) -> drm_handle;

// `size` bytes, less than 4 GiB, by the call that every driver of a display has: in system memory
// with most, with others where they keep what is shown. Needs a primary node (/dev/dri/card0).
DMABRIDGE_API auto allocate_dumb(const drm_device& device, std::uint64_t size) -> exported_memory;

// Where a GPU's memory begins; its driver may move it later (exporter_rules::movable). That in VRAM
// is asked for where the CPU and peers can reach it.
enum class drm_placement { device, system };

// By the calls of amdgpu, i915 and xe. They were tested against a double of the kernel, not with
// such a GPU. Other drivers are refused.
DMABRIDGE_API auto allocate_drm(const drm_device& device, std::uint64_t size, drm_placement where)
    -> exported_memory;

}  // namespace dmabridge

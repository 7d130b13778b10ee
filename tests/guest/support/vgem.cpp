// SPDX-License-Identifier: MIT
#include "vgem.hpp"

#include <drm/drm.h>
#include <drm/vgem_drm.h>
#include <fcntl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "abi.hpp"
#include "fixture.hpp"

namespace dmabridge::test {
namespace {

void check(int error, const char* what) {
  if (error != 0) throw std::system_error(-error, std::generic_category(), what);
}

bool is_vgem(int fd) {
  std::array<char, 16> name{};
  drm_version version{};
  version.name = name.data();
  version.name_len = name.size() - 1;
  return call(fd, DRM_IOCTL_VERSION, &version) == 0 && std::strcmp(name.data(), "vgem") == 0;
}

Fd open_node() {
  if (!std::filesystem::exists("/dev/dri")) return Fd();
  for (const auto& entry : std::filesystem::directory_iterator("/dev/dri")) {
    if (!entry.path().filename().string().starts_with("card")) continue;
    Fd fd(open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
    if (fd && is_vgem(fd.get())) return fd;
  }
  return Fd();
}

}  // namespace

Vgem::Vgem() {
  const Output loaded = shell("modprobe vgem");
  if (loaded.status != 0) throw std::runtime_error("cannot load vgem: " + loaded.text);
  eventually([&] {
    fd_ = open_node();
    return static_cast<bool>(fd_);
  });
  if (!fd_) throw std::runtime_error("vgem has made no node");
}

int Vgem::import(int dma_buf, std::uint32_t* handle) {
  drm_prime_handle prime{};
  prime.fd = dma_buf;
  const int error = call(fd_.get(), DRM_IOCTL_PRIME_FD_TO_HANDLE, &prime);
  *handle = prime.handle;
  return error;
}

void Vgem::close(std::uint32_t handle) {
  drm_gem_close argument{};
  argument.handle = handle;
  check(call(fd_.get(), DRM_IOCTL_GEM_CLOSE, &argument), "DRM_IOCTL_GEM_CLOSE");
}

Fd Vgem::export_new(std::uint64_t size) {
  drm_mode_create_dumb dumb{};
  dumb.width = static_cast<std::uint32_t>(size / 4);
  dumb.height = 1;
  dumb.bpp = 32;
  check(call(fd_.get(), DRM_IOCTL_MODE_CREATE_DUMB, &dumb), "DRM_IOCTL_MODE_CREATE_DUMB");
  drm_prime_handle prime{};
  prime.handle = dumb.handle;
  prime.flags = DRM_CLOEXEC | DRM_RDWR;
  const int error = call(fd_.get(), DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime);
  close(dumb.handle);
  check(error, "DRM_IOCTL_PRIME_HANDLE_TO_FD");
  return Fd(prime.fd);
}

std::uint32_t Vgem::attach_fence(int dma_buf) {
  std::uint32_t handle = 0;
  check(import(dma_buf, &handle), "DRM_IOCTL_PRIME_FD_TO_HANDLE");
  drm_vgem_fence_attach argument{};
  argument.handle = handle;
  argument.flags = VGEM_FENCE_WRITE;
  const int error = call(fd_.get(), DRM_IOCTL_VGEM_FENCE_ATTACH, &argument);
  close(handle);
  check(error, "DRM_IOCTL_VGEM_FENCE_ATTACH");
  return argument.out_fence;
}

void Vgem::signal_fence(std::uint32_t fence) {
  drm_vgem_fence_signal argument{};
  argument.fence = fence;
  check(call(fd_.get(), DRM_IOCTL_VGEM_FENCE_SIGNAL, &argument), "DRM_IOCTL_VGEM_FENCE_SIGNAL");
}

Fd fences_of(int dma_buf) {
  dma_buf_export_sync_file exported{};
  exported.flags = DMA_BUF_SYNC_RW;
  exported.fd = -1;
  check(call(dma_buf, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &exported), "DMA_BUF_IOCTL_EXPORT_SYNC_FILE");
  return Fd(exported.fd);
}

void put_fence(int sync_file, int dma_buf, std::uint32_t as) {
  dma_buf_import_sync_file imported{};
  imported.flags = as;
  imported.fd = sync_file;
  check(call(dma_buf, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &imported), "DMA_BUF_IOCTL_IMPORT_SYNC_FILE");
}

void copy_fences(int from, int to, std::uint32_t as) {
  put_fence(fences_of(from).get(), to, as);
}

}  // namespace dmabridge::test

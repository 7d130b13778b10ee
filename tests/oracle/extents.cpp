// SPDX-License-Identifier: MIT
#include "extents.hpp"

#include <fmt/format.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace dmabridge::oracle {
namespace {

constexpr std::uint32_t batch = 256;
constexpr std::uint32_t without_place = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC |
                                        FIEMAP_EXTENT_ENCODED | FIEMAP_EXTENT_DATA_INLINE |
                                        FIEMAP_EXTENT_NOT_ALIGNED;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

std::vector<Extent> extents_of(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) fail("fstat");
  if (S_ISBLK(status.st_mode)) {
    std::uint64_t size = 0;
    if (ioctl(fd, BLKGETSIZE64, &size) != 0) fail("BLKGETSIZE64");
    return {{0, size, 0}};
  }

  std::vector<Extent> found;
  std::vector<std::byte> storage(sizeof(fiemap) + batch * sizeof(fiemap_extent));
  for (std::uint64_t start = 0;;) {
    std::memset(storage.data(), 0, storage.size());
    auto* map = reinterpret_cast<fiemap*>(storage.data());
    map->fm_start = start;
    map->fm_length = FIEMAP_MAX_OFFSET - start;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = batch;
    if (ioctl(fd, FS_IOC_FIEMAP, map) != 0) fail("FS_IOC_FIEMAP");
    if (map->fm_mapped_extents == 0) return found;
    for (std::uint32_t i = 0; i < map->fm_mapped_extents; i++) {
      const fiemap_extent& extent = map->fm_extents[i];
      if (extent.fe_flags & without_place) {
        throw std::runtime_error(
            fmt::format("the file system gives no place for the bytes at {} (flags {:#x})",
                        extent.fe_logical, extent.fe_flags));
      }
      found.push_back({extent.fe_physical, extent.fe_length, extent.fe_logical});
      start = extent.fe_logical + extent.fe_length;
      if (extent.fe_flags & FIEMAP_EXTENT_LAST) return found;
    }
  }
}

}  // namespace dmabridge::oracle

// SPDX-License-Identifier: MIT
//
// Where a file's bytes lie on its block device.
#pragma once

#include <cstdint>
#include <vector>

namespace dmabridge::oracle {

// A run of bytes on a block device.
struct Extent {
  std::uint64_t offset;
  std::uint64_t length;
  std::uint64_t file_offset;
};

// The extents that hold data of an open file, in file order; holes are left out. Data is flushed to
// the device first, so that all of it has a place. For a block device: one extent, the whole of it.
// Throws std::system_error, and std::runtime_error where the file system does not say where the
// bytes are (inline, encoded, not yet allocated). Offsets count from the start of the block device
// that holds the file system.
std::vector<Extent> extents_of(int fd);

}  // namespace dmabridge::oracle

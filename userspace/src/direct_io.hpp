// SPDX-License-Identifier: MIT
// A file opened once more, for I/O that does not go through the page cache.
#pragma once

#include <cstdint>
#include <string>

#include "dmabridge/block_importer.hpp"
#include "dmabridge/fd.hpp"

namespace dmabridge {

struct direct_file {
  fd descriptor{};
  bool direct = false;  // else it has no direct I/O, and goes through the page cache
  // Powers of two, of offset and length, and of the address in memory; 1 if it is not direct.
  std::uint32_t offset_align = 1;
  std::uint32_t memory_align = 1;
};

// `target` stays the caller's, `name` is what errors call it. Throws dmabridge::error.
auto open_direct(int target, const std::string& name, direction way) -> direct_file;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// Names as the kernel module hands them over.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>

namespace dmabridge {

// The text in a fixed-size field, whether or not a NUL closes it.
template <std::size_t Size>
auto kernel_text(const char (&field)[Size]) -> std::string {
  return {field, strnlen(field, Size)};
}

}  // namespace dmabridge

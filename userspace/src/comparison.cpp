// SPDX-License-Identifier: MIT
#include "comparison.hpp"

#include <algorithm>
#include <cstring>

namespace dmabridge {

void fill_for_proof(std::span<std::byte> bytes, std::uint64_t salt) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint64_t)) {
    // splitmix64
    auto word = salt + at * 0x9e3779b97f4a7c15;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
    word = (word ^ word >> 27) * 0x94d049bb133111eb;
    word ^= word >> 31;
    // Whole words, as far as there are: device memory is written uncached.
    std::memcpy(bytes.data() + at, &word, std::min(bytes.size() - at, sizeof(word)));
  }
}

void compare(const reading& piece, std::uint64_t offset, proof& result) {
  const auto common = std::min({piece.before.size(), piece.claimed.size(), piece.after.size()});
  for (std::size_t i = 0; i < common; ++i) {
    if (piece.before[i] != piece.after[i]) continue;
    ++result.compared;
    if (piece.claimed[i] == piece.before[i]) continue;
    ++result.different;
    if (!result.first_difference) result.first_difference = offset + i;
  }
}

}  // namespace dmabridge

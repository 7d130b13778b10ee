// SPDX-License-Identifier: MIT
// What tells bytes that arrived from bytes that did not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dmabridge/confirm.hpp"

namespace dmabridge {

// What is in a buffer before somebody else's bytes have to arrive there: every 8 bytes others, by
// the place and by `salt`, as no file has them.
void fill_for_proof(std::span<std::byte> bytes, std::uint64_t salt);

// The same bytes of a target three times: by system memory, by the claimed route, and by system
// memory again. Others may write to the target meanwhile, and so only what system memory says twice
// is what is there.
struct reading {
  std::vector<std::byte> before{};
  std::vector<std::byte> claimed{};
  std::vector<std::byte> after{};
};

// Adds what `piece`, from `offset` of the target on, tells to `result`. Pieces may have different
// lengths, if the target became shorter: what all have is compared.
void compare(const reading& piece, std::uint64_t offset, proof& result);

}  // namespace dmabridge

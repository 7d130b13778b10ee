// SPDX-License-Identifier: MIT
#include "scramble.hpp"

#include <fmt/format.h>

#include <cstring>

#include "drives.hpp"
#include "scramble.comp.h"

namespace dmabridge::test {

Scramble::Scramble(const vulkan_device& device, VkBuffer buffer, std::uint64_t size)
    : compute(device, scramble_shader, {{buffer, 0, size}}, static_cast<std::uint32_t>(size / 4),
              64) {}

void Scramble::run() {
  submit();
  wait();
}

std::string scramble_difference(const std::vector<std::byte>& bytes, std::uint8_t tag,
                                unsigned runs) {
  std::vector<std::byte> wanted(bytes.size());
  fill_pattern(wanted.data(), wanted.size(), tag, 0);
  for (std::uint32_t i = 0; i < bytes.size() / 4; i++) {
    std::uint32_t word = 0, found = 0;
    std::memcpy(&word, wanted.data() + i * 4, 4);
    std::memcpy(&found, bytes.data() + i * 4, 4);
    for (unsigned run = 0; run < runs; run++) word = word * 2654435761u + i;
    if (word != found) return fmt::format("word {} is {:08x}, not {:08x}", i, found, word);
  }
  return {};
}

}  // namespace dmabridge::test

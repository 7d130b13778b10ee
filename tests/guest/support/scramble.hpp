// SPDX-License-Identifier: MIT
//
// A compute shader (scramble.comp) on a buffer, and what the CPU says must come of it.
#pragma once

#include <dmabridge/vulkan_device.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "compute.hpp"

namespace dmabridge::test {

class Scramble : public sample::compute {
 public:
  Scramble(const vulkan_device& device, VkBuffer buffer, std::uint64_t size);
  void run();
};

// Where bytes differ from what the shader makes of the pattern with this tag in so many runs: a
// text for messages, empty if nowhere.
std::string scramble_difference(const std::vector<std::byte>& bytes, std::uint8_t tag,
                                unsigned runs = 1);

}  // namespace dmabridge::test

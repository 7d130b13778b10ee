// SPDX-License-Identifier: MIT
//
// Vulkan's validation layers, with everything that they check.
#pragma once

#include <string>

namespace dmabridge::test {

// For the Vulkan instances that this process makes from now on, and its children that do not say
// otherwise.
void enable_validation(const std::string& log);

// All that the layers have said since the last instance was made; empty: nothing.
std::string validation_messages(const std::string& log);

}  // namespace dmabridge::test

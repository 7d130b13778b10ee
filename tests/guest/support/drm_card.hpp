// SPDX-License-Identifier: MIT
//
// The guest's DRM devices, by their drivers.
#pragma once

#include <dmabridge/drm_memory.hpp>

#include <string>

namespace dmabridge::test {

// The primary node of a device with this driver, whose module is loaded first. Throws
// std::runtime_error.
drm_device card_of(const std::string& driver, const std::string& module);

}  // namespace dmabridge::test

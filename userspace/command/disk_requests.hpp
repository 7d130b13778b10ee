// SPDX-License-Identifier: MIT
// How many requests a disk has completed.
#pragma once

#include <cstdint>
#include <optional>

#include "dmabridge/block_importer.hpp"

namespace dmabridge::command {

// Reads or writes that the disk under an open file or block device has completed since it is there,
// anybody's, from sysfs. Nothing if there is no disk under it.
auto disk_requests(int target, direction way) -> std::optional<std::uint64_t>;

}  // namespace dmabridge::command

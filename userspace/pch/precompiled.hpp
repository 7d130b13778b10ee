// SPDX-License-Identifier: MIT
// Precompiled: these headers are most of what a source of the library compiles.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

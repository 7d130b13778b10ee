// SPDX-License-Identifier: MIT
// Precompiled: these headers are most of what a source of the command compiles.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

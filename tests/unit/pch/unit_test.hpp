// SPDX-License-Identifier: MIT
// Precompiled: these headers are most of what a unit test compiles.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

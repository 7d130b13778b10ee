// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include "dmabridge/error.hpp"

namespace dmabridge::test {

// The error that `action` throws; fails the test if there is none.
template <typename Action>
auto error_of(Action action) -> error {
  try {
    action();
  } catch (const error& failure) {
    return failure;
  }
  ADD_FAILURE() << "nothing was thrown";
  return error({});
}

}  // namespace dmabridge::test

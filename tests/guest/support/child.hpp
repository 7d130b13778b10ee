// SPDX-License-Identifier: MIT
//
// A process that comes to a certain point, says so, and stays there until it is killed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "fd.hpp"

namespace dmabridge::test {

class Child {
 public:
  // Tells the parent a number. Does not come back, so that all that `work` has stays as it is.
  using Say = std::function<void(std::uint64_t)>;

  // If `work` returns, the process ends without having said anything.
  explicit Child(const std::function<void(const Say&)>& work);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() { end(); }

  // What it says; nothing: it has given up.
  std::optional<std::uint64_t> wait();
  // Kills it, and waits until it is gone.
  void end();

 private:
  Fd reader_;
  pid_t process_ = -1;
};

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
#pragma once

#include <sys/types.h>

#include <atomic>

#include "mapping.hpp"

namespace dmabridge::test {

// A process of its own whose threads write every page of a mapping, over and over, until one of
// them finds no memory there.
class Toucher {
 public:
  // Returns when each page was written. Throws std::runtime_error if that does not come to pass.
  explicit Toucher(const Mapping& mapping);
  ~Toucher();
  Toucher(const Toucher&) = delete;
  Toucher& operator=(const Toucher&) = delete;

  // Whether a signal has ended it, or does in time, and that is SIGBUS.
  bool gets_bus_error();

 private:
  bool has_ended();
  void end();

  const Mapping shared_;
  std::atomic<unsigned>& rounds_;
  pid_t process_ = -1;
  int status_ = 0;
};

}  // namespace dmabridge::test

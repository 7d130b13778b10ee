// SPDX-License-Identifier: MIT
//
// The tracepoints of the module, or of another part of the kernel.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace dmabridge::test {

// Records them from its making on, in an instance of tracefs that is its own.
class Tracing {
 public:
  // thread: only what it does itself; 0: all. Throws std::system_error.
  explicit Tracing(const std::string& subsystem = "dmabridge", pid_t thread = 0);
  ~Tracing();
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;

  // Only what fits this filter of a tracepoint: 0 or -errno.
  int filter(const std::string& event, const std::string& text);
  // What was recorded of one tracepoint so far: of each line what stands behind its name.
  std::vector<std::string> events(const std::string& name) const;

 private:
  void end() noexcept;

  std::string path_, events_;
};

}  // namespace dmabridge::test

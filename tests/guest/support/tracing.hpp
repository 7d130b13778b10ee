// SPDX-License-Identifier: MIT
//
// The tracepoints of the module.
#pragma once

#include <string>
#include <vector>

namespace dmabridge::test {

// Records them from its making on, in an instance of tracefs that is its own.
class Tracing {
 public:
  // Throws std::system_error.
  Tracing();
  ~Tracing();
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;

  // Only what fits this filter of a tracepoint: 0 or -errno.
  int filter(const std::string& event, const std::string& text);
  // What was recorded of one tracepoint so far: of each line what stands behind its name.
  std::vector<std::string> events(const std::string& name) const;

 private:
  std::string path_;
};

}  // namespace dmabridge::test

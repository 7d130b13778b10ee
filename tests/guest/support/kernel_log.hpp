// SPDX-License-Identifier: MIT
#pragma once

#include <optional>
#include <string>

#include "fd.hpp"

namespace dmabridge::test {

// The kernel's log, from its making on.
class KernelLog {
 public:
  // Throws std::system_error.
  KernelLog();
  // The next line with this text in it, from there to its end. Nothing: there is none yet; the
  // lines before are gone for later calls. Throws std::system_error.
  std::optional<std::string> find(const std::string& text) const;

 private:
  std::optional<std::string> next() const;

  Fd file_;
};

}  // namespace dmabridge::test

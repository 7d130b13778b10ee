// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace dmabridge::test::conformance {

// What /proc/self/fdinfo says of an fd.
class Fdinfo {
 public:
  // Throws std::runtime_error.
  explicit Fdinfo(int fd);

  // Of "key:\tvalue"; empty: not there.
  std::string text(const std::string& key) const;
  // Throws std::runtime_error.
  std::uint64_t number(const std::string& key) const;

 private:
  std::string all_;
};

}  // namespace dmabridge::test::conformance

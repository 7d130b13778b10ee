// SPDX-License-Identifier: MIT
//
// A PCI function that vfio-pci has for a while.
#pragma once

#include <string>

namespace dmabridge::test {

// Taken from dmabridge_pci, which gets it back at the end.
class LentFunction {
 public:
  // "0000:04:00.0". Loads vfio-pci, and waits for the node of the function's group. Throws
  // std::runtime_error.
  explicit LentFunction(std::string address);
  ~LentFunction();
  LentFunction(const LentFunction&) = delete;
  LentFunction& operator=(const LentFunction&) = delete;

  const std::string& address() const { return address_; }

 private:
  std::string address_;
};

}  // namespace dmabridge::test

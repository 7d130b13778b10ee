// SPDX-License-Identifier: MIT
//
// Which driver has a PCI function, and what dmabridge_pci is told about it.
#pragma once

#include <string>

namespace dmabridge::test {

// Gives a function ("0000:04:00.0") to a driver. 0 or -errno; then it has none.
int bind_function(const std::string& function, const std::string& driver);
// Takes it away from the driver that has it.
int unbind_function(const std::string& function);

// For its lifetime a parameter of dmabridge_pci has another value. Functions that are bound
// meanwhile see it. Throws std::system_error.
class PciParameter {
 public:
  PciParameter(const std::string& name, const std::string& value);
  ~PciParameter();
  PciParameter(const PciParameter&) = delete;
  PciParameter& operator=(const PciParameter&) = delete;

 private:
  std::string path_;
};

}  // namespace dmabridge::test

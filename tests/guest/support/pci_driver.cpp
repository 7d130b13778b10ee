// SPDX-License-Identifier: MIT
#include "pci_driver.hpp"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "fixture.hpp"

namespace dmabridge::test {
namespace {

std::string device(const std::string& function) {
  return "/sys/bus/pci/devices/" + function;
}

}  // namespace

int unbind_function(const std::string& function) {
  const std::string driver = device(function) + "/driver";
  if (access(driver.c_str(), F_OK) != 0) return 0;
  return write_text(driver + "/unbind", function);
}

int bind_function(const std::string& function, const std::string& driver) {
  int error = unbind_function(function);
  if (error == 0) error = write_text(device(function) + "/driver_override", driver);
  if (error == 0) error = write_text("/sys/bus/pci/drivers/" + driver + "/bind", function);
  return error;
}

PciParameter::PciParameter(const std::string& name, const std::string& value)
    : path_("/sys/module/dmabridge_pci/parameters/" + name) {
  const int error = write_text(path_, value);
  if (error != 0) throw std::system_error(-error, std::generic_category(), path_);
}

PciParameter::~PciParameter() {
  // An empty write() is none at all.
  EXPECT_EQ(write_text(path_, "\n"), 0);
}

}  // namespace dmabridge::test

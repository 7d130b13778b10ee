// SPDX-License-Identifier: MIT
#include "lent_function.hpp"

#include <unistd.h>

#include <stdexcept>
#include <utility>

#include "fixture.hpp"
#include "pci_driver.hpp"
#include "vfio_device.hpp"

namespace dmabridge::test {

LentFunction::LentFunction(std::string address) : address_(std::move(address)) {
  const Output loaded = shell("modprobe -a vfio-pci vfio_iommu_type1");
  if (loaded.status != 0) throw std::runtime_error(loaded.text);
  if (bind_function(address_, "vfio-pci") != 0 ||
      !eventually([&] { return access(vfio_group(address_).c_str(), F_OK) == 0; }))
    throw std::runtime_error("vfio-pci does not take " + address_);
}

LentFunction::~LentFunction() {
  EXPECT_EQ(bind_function(address_, "dmabridge_pci"), 0);
}

}  // namespace dmabridge::test

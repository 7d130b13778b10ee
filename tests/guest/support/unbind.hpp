// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include "fixture.hpp"

namespace dmabridge::test {

// Tests that take the first region's device from its driver. It is given back in the end.
class UnbindTest : public GuestTest {
 protected:
  void TearDown() override {
    rebind();
    GuestTest::TearDown();
  }
  const std::string driver_ = "/sys/bus/pci/drivers/dmabridge_pci";
  const std::string address_ = pci_address(first_region().device);

  int unbind() { return write_text(driver_ + "/unbind", address_); }
  void rebind() {
    if (!regions().empty()) return;
    ASSERT_EQ(write_text(driver_ + "/bind", address_), 0);
    ASSERT_EQ(regions().size(), 1u);
    EXPECT_TRUE(
        eventually([] { return access(region_node(first_region()).c_str(), R_OK | W_OK) == 0; }));
  }
};

}  // namespace dmabridge::test

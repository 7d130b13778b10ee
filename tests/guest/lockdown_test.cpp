// SPDX-License-Identifier: MIT
//
// A kernel that was locked down, which nobody can take back: this area is the last of its guest.
#include <unistd.h>

#include <cerrno>
#include <string>

#include "support/abi.hpp"
#include "support/fixture.hpp"
#include "support/pci_driver.hpp"

namespace dmabridge::test {
namespace {

constexpr const char* lockdown = "/sys/kernel/security/lockdown";

// As the kernel refuses the same of the BARs that sysfs shows (pci_mmap_resource()).
TEST(Lockdown, NoFunctionGetsExportedAnyMore) {
  if (access(lockdown, F_OK) != 0) shell("mount -t securityfs securityfs /sys/kernel/security");
  if (access(lockdown, F_OK) != 0)
    GTEST_SKIP() << "this kernel has no CONFIG_SECURITY_LOCKDOWN_LSM";
  const dmabridge_region_info region = first_region();
  const std::string function = pci_address(region.device);
  ASSERT_EQ(write_text(lockdown, "integrity"), 0);
  EXPECT_GE(allocate_in(region, 64 << 10).get(), 0) << "what was exported before stays";
  ASSERT_EQ(unbind_function(function), 0);
  EXPECT_EQ(bind_function(function, "dmabridge_pci"), -EPERM);
  EXPECT_TRUE(regions().empty());
}

}  // namespace
}  // namespace dmabridge::test

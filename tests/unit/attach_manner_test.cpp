// SPDX-License-Identifier: MIT
#include "attach_manner.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "../guest/support/rdma_drivers.hpp"

namespace dmabridge {
namespace {

// The drivers that the PCI functions of an RDMA driver's devices have.
const std::map<std::string, std::vector<std::string>> functions_drivers{
    {"mlx5", {"mlx5_core"}}, {"irdma", {"irdma", "i40e", "ice", "idpf"}},
    {"efa", {"efa"}},        {"bnxt_re", {"bnxt_re", "bnxt_en"}},
    {"mana", {"mana"}},      {"ionic", {"ionic"}}};

// What the guest's kernel is tested with, and what is said beforehand, are one thing.
TEST(attach_manner, rdma_drivers_are_those_of_the_guest_tests) {
  for (const auto& driver : test::rdma_drivers) {
    for (const auto& name : functions_drivers.at(driver.name)) {
      const auto* const manner = manner_of(name);
      ASSERT_NE(manner, nullptr) << name;
      EXPECT_FALSE(manner->is_static) << name;
      EXPECT_TRUE(manner->peer2peer) << name;
      EXPECT_EQ(manner->revocable, driver.revocable) << name;
      EXPECT_EQ(manner->pins, driver.pins) << name;
    }
  }
}

TEST(attach_manner, nobody_is_guessed) {
  for (const auto* const name : {"", "mlx5", "mlx5_core.sf", "rdma_rxe", "vfio-pci"})
    EXPECT_EQ(manner_of(name), nullptr) << name;
}

}  // namespace
}  // namespace dmabridge

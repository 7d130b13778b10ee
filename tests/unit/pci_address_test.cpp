// SPDX-License-Identifier: MIT
#include "dmabridge/pci_address.hpp"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace dmabridge {
namespace {

TEST(pci_address, unpacks_what_the_kernel_packs) {
  EXPECT_EQ(to_string(pci_address::unpack(0)), "0000:00:00.0");
  EXPECT_EQ(to_string(pci_address::unpack(0x0001'03'0fU)), "0001:03:01.7");
  EXPECT_EQ(to_string(pci_address::unpack(0xffffffffU)), "ffff:ff:1f.7");
}

TEST(pci_address, parses_with_and_without_domain) {
  EXPECT_EQ(pci_address::parse("0000:03:00.0"), (pci_address{0, 3, 0, 0}));
  EXPECT_EQ(pci_address::parse("03:1f.7"), (pci_address{0, 3, 31, 7}));
  EXPECT_EQ(pci_address::parse("10:AB:01.2"), (pci_address{0x10, 0xab, 1, 2}));
}

TEST(pci_address, refuses_everything_else) {
  for (const auto* text :
       {"", ":", "::", "03", "03:00", "03:00.", "03:00.8", "03:20.0", "103:00.0", "0000:03:00.0 ",
        " 03:00.0", "0:0:0:0.0", "+3:00.0", "000000000:03:00.0", ":03:00.0"}) {
    EXPECT_FALSE(pci_address::parse(text)) << text;
  }
}

TEST(pci_address, text_and_back_is_the_same) {
  std::mt19937 random(20260103);
  for (int i = 0; i < 10000; ++i) {
    const auto address = pci_address::unpack(static_cast<std::uint32_t>(random()));
    EXPECT_EQ(pci_address::parse(to_string(address)), address);
  }
}

}  // namespace
}  // namespace dmabridge

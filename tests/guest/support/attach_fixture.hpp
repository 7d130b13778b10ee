// SPDX-License-Identifier: MIT
#pragma once

#include <string>

#include "fixture.hpp"
#include "test_importer.hpp"

namespace dmabridge::test {

class AttachTest : public GuestTest {
 protected:
  static constexpr std::uint8_t tag = 0x6e;

  // Device memory that is in no buffer's hands, by the kernel's pool of it.
  static std::uint64_t available();

  static void write_pattern(int buffer, std::uint64_t size, std::uint8_t with = tag);
  // Through a CPU mapping; and, if the buffer is on its device, as the host finds them behind the
  // BAR. Empty: all as it should be.
  static std::string difference(int buffer, std::uint64_t size, std::uint8_t with = tag);

  // How a table differs from one of the whole buffer, on its device: each piece in the BAR where
  // the query says that the bytes are, and no struct page. For topologies without IOMMU.
  static std::string not_on_device(const Table& table, int buffer);
  // From one of the whole buffer in system memory: no piece touches the BAR.
  static std::string not_in_system(const Table& table, std::uint64_t size);
};

}  // namespace dmabridge::test

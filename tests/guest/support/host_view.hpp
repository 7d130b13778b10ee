// SPDX-License-Identifier: MIT
//
// What the host sees of this guest, while it runs: the memory behind the BAR, the drives' images,
// QEMU's trace. The run directory is shared, read-only and without a cache, at /host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "abi.hpp"
#include "account.hpp"
#include "drives.hpp"

namespace dmabridge::test {

// Bytes of a file in the run directory. Throws std::system_error.
std::vector<std::byte> host_read(const std::string& name, std::uint64_t offset,
                                 std::uint64_t length);

// Bytes of a buffer that lies on its device, as the host finds them behind the BAR; by the chunks
// that the kernel gives. Throws std::runtime_error if the buffer is not on the device.
std::vector<std::byte> host_bytes(int buffer, std::uint64_t offset, std::uint64_t length);

// Where drives reach a region: the addresses of its BAR, or, if it is stolen, of its RAM.
oracle::Window region_window(const dmabridge_region_info& region = first_region());

// Drives' commands from a moment on.
class TraceWatch {
 public:
  // From now on. Throws std::runtime_error if the run has no trace.
  TraceWatch();
  void restart();
  // Reads and writes since the start. Throws std::runtime_error at a damaged line.
  std::vector<oracle::Command> commands() const;
  // What this drive did to these extents since the start.
  oracle::Account account(const Drive& drive, oracle::Operation operation,
                          const std::vector<oracle::Extent>& extents,
                          const oracle::Window& window = region_window()) const;

 private:
  std::uint64_t begin_ = 0;
};

}  // namespace dmabridge::test

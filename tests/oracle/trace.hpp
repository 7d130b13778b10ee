// SPDX-License-Identifier: MIT
//
// Reads what QEMU's NVMe model traces (-trace pci_nvme_*): which commands came, and which addresses
// their data went to.
//
// QEMU handles one command at a time in its main loop and maps all of a command's data before it
// looks at the next one. So the map events between two command events belong to the first of the
// two. The events name the namespace but not the drive: give namespaces ids that are distinct over
// all drives.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dmabridge::oracle {

// QEMU's -trace argument values without which the joining above would be wrong.
inline constexpr std::string_view required_events =
    "pci_nvme_io_cmd,pci_nvme_admin_cmd,pci_nvme_read,pci_nvme_write,pci_nvme_map_addr,pci_nvme_"
    "map_addr_cmb";

// A run of bytes in the guest's physical address space that a command's data was mapped to.
struct DmaTarget {
  std::uint64_t address;
  std::uint64_t length;
};

enum class Operation { read, write, other };

// One command of an I/O queue. lba (in logical blocks) and bytes are 0 for other operations than
// read and write.
struct Command {
  std::uint32_t nsid = 0;
  Operation operation = Operation::other;
  std::uint64_t lba = 0;
  std::uint64_t blocks = 0;
  std::uint64_t bytes = 0;
  std::vector<DmaTarget> targets;
};

// Takes a trace in pieces of any size, as it grows.
class TraceParser {
 public:
  void feed(std::string_view piece);

  // Reads and writes so far, in the order in which QEMU took them. The last one may still lack
  // targets until a later command came.
  const std::vector<Command>& commands() const { return commands_; }

  // Lines that name a known event but cannot be understood. With any of these, no statement about
  // the trace can be trusted.
  const std::vector<std::string>& damaged() const { return damaged_; }

 private:
  void line(std::string_view text);

  std::string rest_;
  std::vector<Command> commands_;
  std::vector<std::string> damaged_;
  bool in_command_ = false;  // whether map events belong to commands_.back()
};

// The commands of a whole trace file. Throws std::runtime_error if it cannot be read, or has a
// damaged line. begin and end: byte offsets in the file, each at the start of a line; end 0 means
// all of it.
std::vector<Command> read_trace(const std::string& path, std::uint64_t begin = 0,
                                std::uint64_t end = 0);

}  // namespace dmabridge::oracle

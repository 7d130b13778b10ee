// SPDX-License-Identifier: MIT
//
// What a guest has to know about itself so that its host can check on it: which namespace a file
// lies on, and where BARs are.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "account.hpp"

namespace dmabridge::oracle {

// The namespace that a file, a mounted file system or a block device lies on.
struct Namespace {
  std::uint32_t nsid;
  std::string serial;
  std::string disk;  // kernel name
  // Name of the drive's image in a run directory of tests/vm.
  std::string image() const;
};

// Of the block device that fd is, or is stored on; nothing if that is no NVMe namespace.
std::optional<Namespace> namespace_of(int fd);

// Address window of a PCI function's BAR, from sysfs (root only). address: "0000:04:00.0". Throws
// std::runtime_error.
Window bar_window(const std::string& address, unsigned bar);

// First line of a small file in sysfs or procfs. Throws std::runtime_error if it cannot be read.
std::string read_line(const std::string& path);

}  // namespace dmabridge::oracle

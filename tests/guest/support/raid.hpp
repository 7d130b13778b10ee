// SPDX-License-Identifier: MIT
//
// md arrays without mdadm, and without a superblock: nothing is written to the disks.
#pragma once

#include <string>
#include <vector>

#include "fd.hpp"

namespace dmabridge::test {

// An array that runs for as long as this object lives.
class RaidArray {
 public:
  // level 0 or 1. Throws std::system_error, std::runtime_error.
  RaidArray(int level, const std::vector<std::string>& disks);
  ~RaidArray();
  RaidArray(const RaidArray&) = delete;
  RaidArray& operator=(const RaidArray&) = delete;

  std::string path() const { return "/dev/" + name_; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  Fd fd_;
};

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// Where the facts about a machine are read, so that a test can make up a whole machine in a folder.
#pragma once

#include <optional>
#include <string>

#include "dmabridge/topology.hpp"

namespace dmabridge {

struct machine_roots {
  std::string sys = "/sys";
  std::string proc = "/proc";
  std::string boot = "/boot";
  std::string modules = "/lib/modules";

  // What no file tells. All of it is this machine's, or is left out.
  bool here = false;                        // hwloc may be asked: it knows this machine only
  std::string architecture{};               // uname -m
  std::optional<bool> encrypts_as_guest{};  // CPUID: SEV is on offer to a kernel that runs here
};

auto this_machine() -> machine_roots;

auto read_topology(const machine_roots& roots) -> topology;

}  // namespace dmabridge

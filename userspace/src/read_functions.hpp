// SPDX-License-Identifier: MIT
// The PCI functions of a machine, by libpci; and the NUMA nodes that only hwloc knows.
#pragma once

#include "machine_roots.hpp"

namespace dmabridge {

// Adds functions, and what of them could not be read.
void read_functions(const machine_roots& roots, topology& machine);

// The NUMA nodes of functions of which the kernel says none.
void read_locality(const machine_roots& roots, topology& machine);

}  // namespace dmabridge

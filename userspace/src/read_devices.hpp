// SPDX-License-Identifier: MIT
// What functions are called as devices of the system, and what there is without a function.
#pragma once

#include "machine_roots.hpp"

namespace dmabridge {

// Disks, and what is stacked on them.
void read_blocks(const machine_roots& roots, topology& machine);

// RDMA and network devices, DRM nodes.
void read_rdma(const machine_roots& roots, topology& machine);
void read_nets(const machine_roots& roots, topology& machine);
void read_drm(const machine_roots& roots, topology& machine);

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// What functions are called as devices of the system, and what there is without a function.
//
// By sysfs, and not by hwloc, which has it from there as well, but only what has a PCI function of
// its own: no partition, array, loop or multipath disk, no drive over a network, no software RDMA
// device, no card without a function; and of none its driver, legs or network devices. It can be
// shown another /sys by the environment of the whole process alone, which tests of made-up machines
// could not use, and it takes 8 ms of CPU time on a machine of 6 functions, more than all that is
// read otherwise. So it is asked for what it alone knows (read_locality()), and by a test for a
// second opinion on tree, ids and names.
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

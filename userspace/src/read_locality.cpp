// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <memory>

#include "read_functions.hpp"

namespace dmabridge {
namespace {

struct destroy {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using topology_ptr = std::unique_ptr<hwloc_topology, destroy>;

// nullptr: hwloc cannot, or was told by its environment to speak of another machine.
auto load_hwloc() -> topology_ptr {
  hwloc_topology_t made = nullptr;
  if (hwloc_topology_init(&made) < 0) return {};
  topology_ptr loaded(made);
  // Nodes and I/O are all that is asked for. CPUID on every CPU, which its x86 part would run, has
  // nothing to say about them.
  hwloc_topology_set_all_types_filter(made, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_io_types_filter(made, HWLOC_TYPE_FILTER_KEEP_ALL);
  hwloc_topology_set_components(made, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86");
  if (hwloc_topology_load(made) < 0 || hwloc_topology_is_thissystem(made) == 0) return {};
  return loaded;
}

// The one node that is nearest; nothing if several are as near.
auto nearest_node(hwloc_topology_t loaded, const pci_address& address) -> std::optional<int> {
  auto* function = hwloc_get_pcidev_by_busid(loaded, address.domain, address.bus, address.device,
                                             address.function);
  if (function == nullptr) return {};
  const auto* place = hwloc_get_non_io_ancestor_obj(loaded, function);
  if (place == nullptr || hwloc_bitmap_weight(place->nodeset) != 1) return {};
  return hwloc_bitmap_first(place->nodeset);
}

}  // namespace

void read_locality(const machine_roots& roots, topology& machine) {
  const auto known = [](const pci_function& function) { return function.numa_node.has_value(); };
  if (std::ranges::all_of(machine.functions, known)) return;
  const auto loaded = roots.here ? load_hwloc() : nullptr;
  std::size_t rest = 0;
  for (auto& function : machine.functions) {
    if (known(function)) continue;
    if (loaded) function.numa_node = nearest_node(loaded.get(), function.address);
    if (!known(function)) ++rest;
  }
  if (rest != 0) {
    machine.unread.push_back({.what = fmt::format("NUMA node of {} functions", rest),
                              .why = "the firmware has not told the kernel",
                              .remedy = "look for a setting of the firmware's"});
  }
}

}  // namespace dmabridge

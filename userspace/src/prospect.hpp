// SPDX-License-Identifier: MIT
// What speaks against an importer's peer-to-peer access to a buffer's memory, before anybody's
// policies and wishes: the first half of negotiate().
#pragma once

#include <optional>
#include <vector>

#include "dmabridge/plan.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/topology.hpp"
#include "dmabridge/verdict.hpp"
#include "paths_from.hpp"

namespace dmabridge {

// What is the same for all importers of one buffer.
struct ground {
  const pci_function* exporter = nullptr;
  std::optional<paths_from> paths{};  // from the exporter, if there is one
  std::vector<reason> against{};
  std::vector<unread_fact> missing{};
  std::vector<reason> caveats{};
};

// One importer and the device's memory.
struct prospect {
  std::vector<reason> against{};       // what speaks against P2P, in the kernel's order
  std::vector<unread_fact> missing{};  // what would have to be known
  std::vector<reason> perhaps{};       // path_unknown for each of these, and what hangs on them
  std::vector<unread_fact> open{};     // what would tell the route, which is P2P either way
  std::optional<int> distance{};       // pci_p2pdma_distance()
  route straight = route::p2p_bus;     // what it gets if nothing speaks against it
};

// Takes note of a fact that decides and is not known.
void lack(unread_fact fact, prospect& result);

// Whether block I/O may reach another exporter's memory as it does ordinary memory: by a binding,
// where the exporter lets the kernel map it.
auto may_be_bound(const buffer_facts& buffer) -> bool;

// Whether another exporter's memory may be a device's, of which it is not known which, or may not
// be.
auto is_unplaced(const buffer_facts& buffer) -> bool;

// `machine` has to outlive it.
auto survey(const topology& machine, const buffer_facts& buffer) -> ground;

auto look_at(const topology& machine, const buffer_facts& buffer, const importer_facts& importer,
             const ground& base) -> prospect;

}  // namespace dmabridge

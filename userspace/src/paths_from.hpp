// SPDX-License-Identifier: MIT
// The paths from one function to many: what is the same for all of them is found once.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "dmabridge/path.hpp"
#include "dmabridge/topology.hpp"

namespace dmabridge {

// A kernel's release, as far as the rules for peer-to-peer differ.
struct kernel_rules {
  bool known = false;    // whether the release is; else what releases differ in is unknown
  unsigned version = 0;  // the nearest that is known; 7.2 is 7002
  bool exact = false;    // it is that very one
};

class paths_from {
 public:
  // `machine` has to outlive this, and to stay as it is.
  paths_from(const topology& machine, const pci_address& provider);

  // As find_path() says it, but for `distance_class` and `bridges`, which decide nothing.
  auto judge(const pci_address& client) const -> pci_path;
  // All of it.
  auto find(const pci_address& client) const -> pci_path;

 private:
  // What ACS says of one function on the way: neither, or one of the two.
  struct step {
    std::optional<reason> redirects{};
    std::optional<unread_fact> unread{};
  };
  struct way_down;

  auto judge(const pci_address& client, way_down& way) const -> pci_path;
  auto step_of(const pci_function& function) const -> step;
  void go_through_host_bridge(const pci_function& client_root, std::vector<reason> redirecting,
                              std::vector<unread_fact> unread, pci_path& path) const;

  const topology& machine_;
  pci_address provider_;
  std::vector<const pci_function*> line_{};  // from the provider up; empty: it is not there
  bool whole_ = false;                       // the line ends on a root bus
  std::vector<step> steps_{};                // of each in the line
  kernel_rules rules_;
  std::optional<bool> cpu_forwards_;
};

}  // namespace dmabridge

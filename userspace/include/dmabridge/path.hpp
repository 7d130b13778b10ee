// SPDX-License-Identifier: MIT
// The PCI path between two functions, and what the kernel would say to peer-to-peer traffic on it:
// the rules of drivers/pci/p2pdma.c, applied to a topology. No system call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/pci_address.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/topology.hpp"

namespace dmabridge {

// How far two functions are apart, by the words of `nvidia-smi topo -m`.
enum class proximity : std::uint8_t {
  self,  // X: the same function
  pix,   // at most one PCIe bridge (switch or port) between them
  pxb,   // several PCIe bridges, no host bridge
  phb,   // a host bridge
  node,  // several host bridges of one NUMA node
  sys,   // across NUMA nodes
  unknown,
};
// "X", "PIX", ...; "?" for unknown.
DMABRIDGE_API auto to_string(proximity value) -> std::string;

enum class path_answer : std::uint8_t {
  bus,          // inside a switch, or below one root port
  host_bridge,  // through one
  no,
  unknown,  // a fact that decides could not be read; pci_path::missing says which
};
DMABRIDGE_API auto to_string(path_answer value) -> std::string;

struct pci_path {
  path_answer answer = path_answer::unknown;
  proximity distance_class = proximity::unknown;
  std::optional<int> distance{};  // as pci_p2pdma_distance() counts, also where the answer is no
  std::vector<pci_address> bridges{};      // from the provider up, and down to the client
  std::vector<pci_address> redirecting{};  // those of them (and above) whose ACS sends traffic up
  // All of them; of an answer no, one at least. Of an unknown one: path_unknown for each missing
  // fact, and what would block it besides, with blocks_p2p unset.
  std::vector<reason> reasons{};
  // What would have to be known. Of other answers: what could make them better (bus instead of
  // host_bridge), or by which kernel's list of host bridges they are.
  std::vector<unread_fact> missing{};
};

// `provider` owns the memory, `client` does the DMA. Either may be absent from the topology:
// unknown. Administrators' denials and DMA masks are not the path's business (plan.hpp).
DMABRIDGE_API auto find_path(const topology& machine, const pci_address& provider,
                             const pci_address& client) -> pci_path;

}  // namespace dmabridge

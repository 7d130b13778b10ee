// SPDX-License-Identifier: MIT
#include "dmabridge/topology.hpp"

#include <algorithm>

namespace dmabridge {
namespace {

template <typename Node>
auto find_named(const std::vector<Node>& nodes, std::string_view name) noexcept -> const Node* {
  const auto found = std::ranges::find(nodes, name, &Node::name);
  return found != nodes.end() ? &*found : nullptr;
}

// A number in whose order the addresses are.
auto rank_of(const pci_address& address) noexcept -> std::uint64_t {
  return std::uint64_t{address.domain} << 24 | std::uint64_t{address.bus} << 16 |
         std::uint64_t{address.device} << 8 | address.function;
}

}  // namespace

// Halving without a branch, which would be guessed wrong every other time: most of what a plan does
// is to look up parents.
auto topology::find(const pci_address& address) const noexcept -> const pci_function* {
  if (functions.empty()) return nullptr;
  const auto wanted = rank_of(address);
  const auto* first = functions.data();
  for (auto count = functions.size(); count > 1;) {
    const auto half = count / 2;
    first += rank_of(first[half].address) <= wanted ? half : 0;
    count -= half;
  }
  return first->address == address ? first : nullptr;
}

auto topology::find_block(std::string_view name) const noexcept -> const block_node* {
  return find_named(blocks, name);
}

auto topology::find_rdma(std::string_view name) const noexcept -> const rdma_node* {
  return find_named(rdma, name);
}

auto topology::find_drm(std::string_view name) const noexcept -> const drm_node* {
  // A node without a card has an empty name there, which is nobody's.
  if (name.empty()) return nullptr;
  const auto found = std::ranges::find_if(
      drm, [&](const auto& node) { return node.card == name || node.render == name; });
  return found != drm.end() ? &*found : nullptr;
}

auto topology::find_net(std::string_view name) const noexcept -> const net_node* {
  return find_named(nets, name);
}

}  // namespace dmabridge

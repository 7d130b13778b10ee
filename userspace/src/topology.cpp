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

}  // namespace

auto topology::find(const pci_address& address) const noexcept -> const pci_function* {
  const auto found = std::ranges::lower_bound(functions, address, {}, &pci_function::address);
  return found != functions.end() && found->address == address ? &*found : nullptr;
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

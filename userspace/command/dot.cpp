// SPDX-License-Identifier: MIT
#include "dot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "machine.hpp"

namespace dmabridge::command {
namespace {

constexpr std::uint32_t host_bridge_class = 0x0600;

// Between quotation marks of a graph.
auto in_quotes(std::string_view text) -> std::string {
  std::string safe = "\"";
  for (const char c : printable(text)) {
    if (c == '"' || c == '\\') safe += '\\';
    safe += c;
  }
  return safe + '"';
}

// Lines of a label, each of them quoted by itself, as "\n" is the graph's line break.
auto label_of(std::span<const std::string> lines) -> std::string {
  std::string label = "\"";
  for (const auto& line : lines) {
    if (line.empty()) continue;
    const auto part = in_quotes(line);
    if (label.size() > 1) label += "\\n";
    label.append(part, 1, part.size() - 2);
  }
  return label + '"';
}

// A root bus: what is below one host bridge.
struct root_bus {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0;

  auto operator<=>(const root_bus&) const = default;
};

// Of a function on one. A virtual function is where its physical one is.
auto root_bus_of(const pci_function& function) -> root_bus {
  const auto& address = function.physical.value_or(function.address);
  return {address.domain, address.bus};
}

auto node_of(const root_bus& root) -> std::string {
  return fmt::format("pci{:04x}:{:02x}", root.domain, root.bus);
}

auto port_name(pci_port port) -> std::string {
  switch (port) {
    case pci_port::root:
      return "root port";
    case pci_port::upstream:
      return "switch, upstream port";
    case pci_port::downstream:
      return "switch, downstream port";
    case pci_port::bridge:
      return "bridge";
    case pci_port::endpoint:
    case pci_port::unknown:
      return {};
  }
  return {};
}

class drawing {
 public:
  drawing(const topology& machine, std::span<const device> devices,
          const std::optional<marked_path>& marked)
      : machine_(machine), marked_(marked) {
    for (const auto& entry : devices) {
      by_function_[entry.function] = &entry;
      take_with_bridges(entry.function);
    }
    if (!marked_) return;
    take_with_bridges(marked_->memory);
    take_with_bridges(marked_->importer);
    way_.insert({marked_->memory, marked_->importer});
    way_.insert(marked_->path.bridges.begin(), marked_->path.bridges.end());
    for (const auto& bridge : marked_->path.redirecting) colours_[bridge] = "orange";
    for (const auto& why : marked_->word.word.reasons) {
      if (why.device && why.blocks_p2p) colours_[*why.device] = "red";
    }
  }

  auto text() const -> std::string {
    std::string graph =
        "graph dmabridge {\n"
        "  node [shape=box, fontname=\"sans-serif\", fontsize=10];\n"
        "  edge [color=gray40];\n";
    graph += title();
    for (const auto& root : roots_) graph += node(root);
    if (roots_.size() > 1) {
      graph += "  \"system\" [label=\"CPUs\", shape=ellipse];\n";
      for (const auto& root : roots_) {
        graph += edge("system", node_of(root), leaves_its_root() && is_end(root));
      }
    }
    for (const auto& address : taken_) graph += node(address);
    return graph + "}\n";
  }

 private:
  void take_with_bridges(const pci_address& address) {
    const auto* function = machine_.find(address);
    while (function != nullptr) {
      taken_.insert(function->address);
      if (!function->parent) {
        roots_.insert(root_bus_of(*function));
        return;
      }
      function = machine_.find(*function->parent);
    }
  }

  auto root_of(const pci_address& address) const -> root_bus {
    const auto* function = machine_.find(address);
    while (function != nullptr && function->parent) function = machine_.find(*function->parent);
    return function != nullptr ? root_bus_of(*function) : root_bus{};
  }

  auto is_end(const root_bus& root) const -> bool {
    return root == root_of(marked_->memory) || root == root_of(marked_->importer);
  }

  // Whether the marked path goes as high as a host bridge.
  auto reaches_root() const -> bool { return marked_ && marked_->path.answer != path_answer::bus; }
  auto leaves_its_root() const -> bool {
    return reaches_root() && root_of(marked_->memory) != root_of(marked_->importer);
  }

  auto title() const -> std::string {
    if (!marked_) return {};
    auto line = fmt::format("memory of {}, DMA by {}: {}", to_string(marked_->memory),
                            to_string(marked_->importer), to_string(marked_->path.answer));
    if (!marked_->word.word.reasons.empty()) {
      line += ": " + marked_->word.word.reasons.front().text();
    }
    return fmt::format("  label={}; labelloc=t; fontname=\"sans-serif\";\n", in_quotes(line));
  }

  // The host bridge itself is a function on its root bus, as a rule.
  auto host_bridge(const root_bus& root) const -> const pci_function* {
    const auto found = std::ranges::find_if(machine_.functions, [&](const pci_function& each) {
      return each.address.domain == root.domain && each.address.bus == root.bus &&
             each.class_code >> 8 == host_bridge_class;
    });
    return found != machine_.functions.end() ? &*found : nullptr;
  }

  auto node(const root_bus& root) const -> std::string {
    const auto* bridge = host_bridge(root);
    const auto lines = {std::string("host bridge"), node_of(root),
                        bridge != nullptr
                            ? fmt::format("{:04x}:{:04x}", bridge->vendor, bridge->device)
                            : std::string()};
    std::string style;
    if (bridge != nullptr) style = colour(bridge->address);
    return fmt::format("  {} [label={}, style=rounded{}];\n", in_quotes(node_of(root)),
                       label_of(std::vector<std::string>(lines)), style);
  }

  auto node(const pci_address& address) const -> std::string {
    const auto* function = machine_.find(address);
    const auto known = by_function_.find(address);
    std::vector<std::string> lines;
    if (known != by_function_.end()) {
      lines.push_back(known->second->label);
      std::string names;
      for (const auto& name : known->second->names) {
        if (name != known->second->label) names += (names.empty() ? "" : ", ") + name;
      }
      lines.push_back(names);
    } else {
      lines.push_back(port_name(function->port));
    }
    lines.push_back(to_string(address));
    lines.push_back(function->driver);
    const auto id = to_string(address);
    const auto fill = known != by_function_.end() ? ", style=filled, fillcolor=lightblue1" : "";
    const auto above =
        function->parent ? to_string(*function->parent) : node_of(root_bus_of(*function));
    const auto up_marked = way_.contains(address) &&
                           (function->parent ? way_.contains(*function->parent) : reaches_root());
    return fmt::format("  {} [label={}{}{}];\n", in_quotes(id), label_of(lines), fill,
                       colour(address)) +
           edge(above, id, up_marked);
  }

  auto colour(const pci_address& address) const -> std::string {
    const auto found = colours_.find(address);
    return found != colours_.end()
               ? fmt::format(", color={0}, fontcolor={0}, penwidth=3", found->second)
               : "";
  }

  static auto edge(const std::string& above, const std::string& below, bool is_marked)
      -> std::string {
    return fmt::format("  {} -- {}{};\n", in_quotes(above), in_quotes(below),
                       is_marked ? " [color=blue, penwidth=3]" : "");
  }

  const topology& machine_;
  const std::optional<marked_path>& marked_;
  std::map<pci_address, const device*> by_function_;
  std::set<pci_address> taken_;
  std::set<root_bus> roots_;
  std::set<pci_address> way_;
  std::map<pci_address, const char*> colours_;
};

}  // namespace

auto to_dot(const topology& machine, std::span<const device> devices,
            const std::optional<marked_path>& marked) -> std::string {
  return drawing(machine, devices, marked).text();
}

}  // namespace dmabridge::command

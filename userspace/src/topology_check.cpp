// SPDX-License-Identifier: MIT
#include "topology_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <limits>
#include <set>
#include <string_view>
#include <unordered_map>

namespace dmabridge {
namespace {

constexpr unsigned bridge_class = 0x06;

// A function that can have others below it: a port, or any other bridge, CardBus among them.
auto is_bridge(const pci_function& function) -> bool {
  if (function.port == pci_port::endpoint) return false;
  return function.port != pci_port::unknown || function.class_code >> 16 == bridge_class;
}

// What a path element and what is wrong with it are found by. Stops at the first.
class checker {
 public:
  explicit checker(const topology& machine) : machine_(machine) {}

  auto run() -> std::optional<inconsistency> {
    check_order();
    for (std::size_t at = 0; at < machine_.functions.size() && !found_; ++at) check_function(at);
    check_circles_of_bridges();
    check_names("blocks", machine_.blocks, &block_node::name);
    check_names("rdma", machine_.rdma, &rdma_node::name);
    check_names("nets", machine_.nets, &net_node::name);
    check_drm();
    for (std::size_t at = 0; at < machine_.blocks.size() && !found_; ++at) check_block(at);
    check_circles_of_blocks();
    check_references("rdma", machine_.rdma);
    check_references("drm", machine_.drm);
    check_references("nets", machine_.nets);
    return std::move(found_);
  }

 private:
  template <typename... Arguments>
  void report(std::string path, fmt::format_string<Arguments...> wrong, Arguments&&... arguments) {
    if (found_) return;
    found_ = {.path = std::move(path),
              .wrong = fmt::format(wrong, std::forward<Arguments>(arguments)...)};
  }

  void check_order() {
    for (std::size_t at = 1; at < machine_.functions.size(); ++at) {
      const auto& before = machine_.functions[at - 1].address;
      const auto& address = machine_.functions[at].address;
      if (before == address)
        report(fmt::format("functions[{}].address", at), "{} is there twice", to_string(address));
      if (address < before) {
        report(fmt::format("functions[{}].address", at), "{} comes after {}", to_string(address),
               to_string(before));
      }
    }
  }

  void check_function(std::size_t at) {
    const auto& function = machine_.functions[at];
    const auto path = fmt::format("functions[{}].", at);
    if (function.parent) check_parent(path + "parent", function);
    if (function.physical) {
      const auto* physical = machine_.find(*function.physical);
      if (physical == nullptr)
        report(path + "physical", "{} is not among the functions", to_string(*function.physical));
      else if (physical == &function || physical->physical)
        report(path + "physical", "{} is no physical function", to_string(*function.physical));
    }
    if (function.class_code > 0xffffff)
      report(path + "class", "{:#x} has more than 24 bits", function.class_code);
    if (function.numa_node && *function.numa_node < 0)
      report(path + "numa_node", "{} is no NUMA node", *function.numa_node);
    if (function.iommu_group && !machine_.iommu_groups.contains(*function.iommu_group))
      report(path + "iommu_group", "there is no IOMMU group {}", *function.iommu_group);
    if (function.dma_mask_bits && (*function.dma_mask_bits == 0 || *function.dma_mask_bits > 64))
      report(path + "dma_mask_bits", "{} is not from 1 to 64", *function.dma_mask_bits);
    for (std::size_t bar = 0; bar < function.bars.size(); ++bar)
      check_bar(fmt::format("{}bars[{}].", path, bar), function, bar);
  }

  void check_parent(const std::string& path, const pci_function& function) {
    const auto* parent = machine_.find(*function.parent);
    if (parent == nullptr)
      report(path, "{} is not among the functions", to_string(*function.parent));
    else if (!is_bridge(*parent))
      report(path, "{} is no bridge to another bus", to_string(*function.parent));
    else if (parent->address.domain != function.address.domain)
      report(path, "{} is in another PCI domain", to_string(*function.parent));
  }

  void check_bar(const std::string& path, const pci_function& function, std::size_t at) {
    const auto& bar = function.bars[at];
    if (bar.number > 5) report(path + "number", "{} is not from 0 to 5", bar.number);
    if (at > 0 && bar.number <= function.bars[at - 1].number)
      report(path + "number", "{} comes after {}", bar.number, function.bars[at - 1].number);
    if (bar.size == 0) report(path + "size", "a BAR of no size");
    if (bar.start > std::numeric_limits<std::uint64_t>::max() - bar.size)
      report(path + "size", "{:#x} bytes at {:#x} are past the end of all addresses", bar.size,
             bar.start);
  }

  // Parents all exist by now. Every chain that ends is walked once.
  void check_circles_of_bridges() {
    enum class state : std::uint8_t { fresh, walking, ends };
    std::vector<state> states(machine_.functions.size(), state::fresh);
    std::vector<std::size_t> chain;
    for (std::size_t at = 0; at < states.size() && !found_; ++at) {
      chain.clear();
      auto current = at;
      while (states[current] == state::fresh) {
        states[current] = state::walking;
        chain.push_back(current);
        const auto& parent = machine_.functions[current].parent;
        if (!parent) break;
        current = static_cast<std::size_t>(machine_.find(*parent) - machine_.functions.data());
        if (states[current] == state::walking) {
          report(fmt::format("functions[{}].parent", current), "{} is above itself",
                 to_string(machine_.functions[current].address));
          return;
        }
      }
      for (const auto index : chain) states[index] = state::ends;
    }
  }

  void check_name(const std::string& path, std::string_view name) {
    if (name.empty() || name.size() > 255 || name == "." || name == ".." ||
        name.find_first_of(" /") != std::string_view::npos)
      report(path, "\"{}\" is no name of a device", name.substr(0, 80));
  }

  template <typename Node>
  void check_names(const std::string& list, const std::vector<Node>& nodes,
                   std::string Node::* name) {
    std::set<std::string_view> seen;
    for (std::size_t at = 0; at < nodes.size() && !found_; ++at) {
      const auto path = fmt::format("{}[{}].name", list, at);
      check_name(path, nodes[at].*name);
      if (!seen.insert(nodes[at].*name).second)
        report(path, "{} is there twice", (nodes[at].*name).substr(0, 80));
    }
  }

  void check_drm() {
    std::set<std::string_view> seen;
    for (std::size_t at = 0; at < machine_.drm.size() && !found_; ++at) {
      const auto& node = machine_.drm[at];
      const auto path = fmt::format("drm[{}].", at);
      if (node.card.empty() && node.render.empty())
        report(path + "card", "neither a card nor a render node");
      for (const auto& [member, name] : {std::pair{"card", &node.card}, {"render", &node.render}}) {
        if (name->empty()) continue;
        check_name(path + member, *name);
        if (!seen.insert(*name).second)
          report(path + member, "{} is there twice", name->substr(0, 80));
      }
    }
  }

  template <typename Node>
  void check_references(const std::string& list, const std::vector<Node>& nodes) {
    for (std::size_t at = 0; at < nodes.size() && !found_; ++at)
      check_reference(fmt::format("{}[{}].function", list, at), nodes[at].function);
  }

  void check_reference(const std::string& path, const std::optional<pci_address>& function) {
    if (function && machine_.find(*function) == nullptr)
      report(path, "{} is not among the functions", to_string(*function));
  }

  void check_block(std::size_t at) {
    const auto& block = machine_.blocks[at];
    const auto path = fmt::format("blocks[{}].", at);
    check_reference(path + "function", block.function);
    if ((block.kind == block_kind::partition) != !block.disk.empty())
      report(path + "disk", "a partition is of a disk, and nothing else is");
    if (!block.disk.empty() && index_of(block.disk) == none)
      report(path + "disk", "{} is not among the block devices", block.disk.substr(0, 80));
    for (std::size_t leg = 0; leg < block.legs.size(); ++leg) {
      if (index_of(block.legs[leg]) == none) {
        report(fmt::format("{}legs[{}]", path, leg), "{} is not among the block devices",
               block.legs[leg].substr(0, 80));
      }
    }
  }

  static constexpr auto none = static_cast<std::size_t>(-1);

  auto index_of(const std::string& name) -> std::size_t {
    if (blocks_.empty()) {
      for (std::size_t at = 0; at < machine_.blocks.size(); ++at)
        blocks_.emplace(machine_.blocks[at].name, at);
    }
    const auto found = blocks_.find(name);
    return found != blocks_.end() ? found->second : none;
  }

  // Disks and legs all exist by now: what has nothing under it that is still there goes, until
  // nothing is left, or a circle.
  void check_circles_of_blocks() {
    if (found_) return;
    const auto& blocks = machine_.blocks;
    std::vector<std::size_t> below(blocks.size());
    std::vector<std::vector<std::size_t>> above(blocks.size());
    const auto stand_on = [&](std::size_t at, const std::string& name) {
      ++below[at];
      above[index_of(name)].push_back(at);
    };
    std::vector<std::size_t> ready;
    for (std::size_t at = 0; at < blocks.size(); ++at) {
      if (!blocks[at].disk.empty()) stand_on(at, blocks[at].disk);
      for (const auto& leg : blocks[at].legs) stand_on(at, leg);
      if (below[at] == 0) ready.push_back(at);
    }
    while (!ready.empty()) {
      const auto at = ready.back();
      ready.pop_back();
      for (const auto upper : above[at])
        if (--below[upper] == 0) ready.push_back(upper);
    }
    const auto rest = std::ranges::find_if(below, [](auto count) { return count != 0; });
    if (rest == below.end()) return;
    const auto at = static_cast<std::size_t>(rest - below.begin());
    report(fmt::format("blocks[{}].name", at), "{} stands on itself, or on what does",
           blocks[at].name.substr(0, 80));
  }

  const topology& machine_;
  std::unordered_map<std::string_view, std::size_t> blocks_{};
  std::optional<inconsistency> found_{};
};

// The list and the number in "blocks[3].legs[0]".
struct culprit {
  std::string_view list;
  std::size_t index = 0;
};

auto culprit_of(std::string_view path) -> culprit {
  const auto bracket = path.find('[');
  return {.list = path.substr(0, bracket),
          .index = static_cast<std::size_t>(std::stoul(std::string(path.substr(bracket + 1))))};
}

template <typename Node>
void take_out(std::vector<Node>& nodes, std::size_t index) {
  nodes.erase(nodes.begin() + static_cast<std::ptrdiff_t>(index));
}

}  // namespace

auto find_inconsistency(const topology& machine) -> std::optional<inconsistency> {
  return checker(machine).run();
}

void drop_dangling(topology& machine) {
  // Each turn takes a whole node out, so that this ends.
  while (const auto found = find_inconsistency(machine)) {
    const auto [list, index] = culprit_of(found->path);
    std::string what;
    if (list == "functions") {
      what = to_string(machine.functions[index].address);
      take_out(machine.functions, index);
    } else if (list == "blocks") {
      what = machine.blocks[index].name;
      take_out(machine.blocks, index);
    } else if (list == "rdma") {
      what = machine.rdma[index].name;
      take_out(machine.rdma, index);
    } else if (list == "drm") {
      what = machine.drm[index].card + machine.drm[index].render;
      take_out(machine.drm, index);
    } else {
      what = machine.nets[index].name;
      take_out(machine.nets, index);
    }
    machine.unread.push_back(
        {.what = what,
         .why = fmt::format("what was read of it does not fit the rest ({}), as when devices come "
                            "and go meanwhile",
                            found->wrong),
         .remedy = "read again"});
  }
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// What `lspci -D -nn -vvv` prints. A function begins with its address at the start of a line; what
// is told of it is indented below. Lines of no interest are passed over, so that new versions and
// stray text do no harm; what is of interest has to be whole.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "dmabridge/error.hpp"
#include "dmabridge/recording.hpp"
#include "topology_check.hpp"

namespace dmabridge {
namespace {

constexpr std::size_t longest_text = std::size_t{64} << 20;
constexpr std::size_t most_functions = 16'384;

class misread : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The buses below a bridge.
struct bus_range {
  unsigned secondary = 0;
  unsigned subordinate = 0;
};

// A function and what of it is known only between its lines.
struct parsed_function {
  pci_function made{};
  std::size_t line = 0;
  std::optional<bus_range> buses{};
  bool header_seen = false;       // any detail at all: more than the first line was printed
  bool has_capabilities = false;  // Status: Cap+
  bool capabilities_seen = false;
  bool denied = false;  // Capabilities: <access denied>
  bool express = false;
  bool acs_control_seen = false;
  std::optional<unsigned> vf_offset{};
  unsigned vf_stride = 0;
  unsigned vf_count = 0;
};

auto trim(std::string_view text) -> std::string_view {
  const auto from = text.find_first_not_of(" \t\r");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

template <typename Number>
auto to_number(std::string_view text, int base) -> std::optional<Number> {
  Number value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (ec != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

// What follows `name` up to the next of `ends`; nothing: there is no `name`.
auto after(std::string_view line, std::string_view name, std::string_view ends)
    -> std::optional<std::string_view> {
  const auto found = line.find(name);
  if (found == std::string_view::npos) return {};
  const auto rest = line.substr(found + name.size());
  return rest.substr(0, std::min(rest.find_first_of(ends), rest.size()));
}

// "64M" as in [size=64M]
auto to_size(std::string_view text) -> std::optional<std::uint64_t> {
  constexpr std::string_view units = "KMGTPE";
  if (text.empty()) return {};
  unsigned shift = 0;
  if (const auto unit = units.find(text.back()); unit != std::string_view::npos) {
    shift = 10 * (static_cast<unsigned>(unit) + 1);
    text.remove_suffix(1);
  }
  const auto number = to_number<std::uint64_t>(text, 10);
  if (!number || *number == 0 || *number > UINT64_MAX >> shift) return {};
  return *number << shift;
}

// "ReqRedir+ CmpltRedir-": the bits of ACS in the order of their names.
auto to_acs_bits(std::string_view words) -> std::optional<std::uint16_t> {
  constexpr auto names =
      std::to_array<std::string_view>({"SrcValid", "TransBlk", "ReqRedir", "CmpltRedir",
                                       "UpstreamFwd", "EgressCtrl", "DirectTrans"});
  unsigned bits = 0;
  for (std::size_t bit = 0; bit < names.size(); ++bit) {
    const auto found = words.find(names[bit]);
    if (found == std::string_view::npos) return {};
    const auto sign = words.substr(std::min(found + names[bit].size(), words.size())).substr(0, 1);
    if (sign != "+" && sign != "-") return {};
    if (sign == "+") bits |= 1U << bit;
  }
  return static_cast<std::uint16_t>(bits);
}

auto to_port(std::string_view words) -> pci_port {
  if (words.starts_with("Root Port")) return pci_port::root;
  if (words.starts_with("Upstream Port")) return pci_port::upstream;
  if (words.starts_with("Downstream Port")) return pci_port::downstream;
  if (words.starts_with("PCI-Express to PCI") || words.starts_with("PCI/PCI-X to PCI-Express"))
    return pci_port::bridge;
  if (words.starts_with("Endpoint") || words.starts_with("Legacy Endpoint") ||
      words.starts_with("Root Complex"))
    return pci_port::endpoint;
  return pci_port::unknown;
}

class lspci_parser {
 public:
  explicit lspci_parser(std::string_view text) : text_(text) {}

  auto run() -> topology {
    while (!text_.empty()) {
      const auto end = std::min(text_.find('\n'), text_.size());
      ++line_;
      read_line(text_.substr(0, end));
      // The last line may have been cut off.
      text_.remove_prefix(std::min(end + 1, text_.size()));
    }
    if (functions_.empty()) fail("no function in it: this is not what lspci prints");
    return build();
  }

 private:
  [[noreturn]] void fail(std::string_view wrong, std::size_t column = 1) const {
    throw misread(fmt::format("line {}, column {}: {}", line_, column, wrong));
  }

  void read_line(std::string_view line);
  void read_first(std::string_view line);
  void read_detail(std::string_view line);
  void read_region(std::string_view line);
  void read_capability(std::string_view line);
  void read_acs(std::string_view line);
  void read_sriov(std::string_view line);

  void settle(parsed_function& function, topology& machine) const;
  auto bridge_above(const pci_address& address) const -> std::optional<pci_address>;
  auto physical_of(const pci_address& address) const -> const parsed_function*;
  auto build() -> topology;

  std::string_view text_;
  std::size_t line_ = 0;
  std::vector<parsed_function> functions_{};
};

void lspci_parser::read_line(std::string_view line) {
  const auto words = trim(line);
  if (words.empty()) return;
  if (line.front() != ' ' && line.front() != '\t') {
    read_first(words);
    return;
  }
  if (!functions_.empty()) read_detail(words);
}

// "0000:03:00.0 Non-Volatile memory controller [0108]: Vendor Device [144d:a808] (rev 01)"
void lspci_parser::read_first(std::string_view line) {
  const auto space = std::min(line.find(' '), line.size());
  const auto address = pci_address::parse(line.substr(0, space));
  // A prompt, a heading.
  if (!address) return;
  const auto class_end = line.find("]: ");
  const auto class_start =
      class_end == std::string_view::npos ? class_end : line.rfind('[', class_end);
  const auto ids = line.rfind('[') == class_start ? std::string_view::npos : [&] {
    // The last bracket with two numbers of four digits; "[Normal decode]" may follow it.
    auto at = line.rfind(']');
    while (at != std::string_view::npos) {
      const auto open = line.rfind('[', at);
      if (open == std::string_view::npos || open <= class_end) break;
      if (at - open == 10 && line[open + 5] == ':') return open;
      at = open == 0 ? std::string_view::npos : line.rfind(']', open);
    }
    return std::string_view::npos;
  }();
  if (class_start == std::string_view::npos || ids == std::string_view::npos)
    fail("a function without the numbers of its class and device: lspci has to be run with -nn");
  const auto class_code =
      to_number<std::uint32_t>(line.substr(class_start + 1, class_end - class_start - 1), 16);
  const auto vendor = to_number<std::uint16_t>(line.substr(ids + 1, 4), 16);
  const auto device = to_number<std::uint16_t>(line.substr(ids + 6, 4), 16);
  if (!class_code || *class_code > 0xffff || !vendor || !device)
    fail("the numbers of class and device are none", class_start + 1);
  if (functions_.size() == most_functions) fail("more functions than there can be");
  const auto interface = after(line, "(prog-if ", " )");
  functions_.push_back(
      {.made = {.address = *address,
                .vendor = *vendor,
                .device = *device,
                .class_code =
                    *class_code << 8 |
                    (interface ? to_number<std::uint8_t>(*interface, 16).value_or(0) : 0)},
       .line = line_});
}

void lspci_parser::read_detail(std::string_view line) {
  auto& function = functions_.back();
  if (line.starts_with("Control:")) {
    function.header_seen = true;
    if (line.find(" Mem+") != std::string_view::npos) function.made.memory_enabled = true;
    if (line.find(" Mem-") != std::string_view::npos) function.made.memory_enabled = false;
  } else if (line.starts_with("Status:") && !function.capabilities_seen) {
    function.has_capabilities = line.find(" Cap+") != std::string_view::npos;
  } else if (const auto node = after(line, "NUMA node: ", ""); node) {
    function.made.numa_node = to_number<int>(*node, 10);
    if (function.made.numa_node && *function.made.numa_node < 0) function.made.numa_node.reset();
  } else if (const auto group = after(line, "IOMMU group: ", ""); group) {
    function.made.iommu_group = to_number<std::uint32_t>(*group, 10);
  } else if (line.starts_with("Bus: primary=")) {
    const auto bus = [&](std::string_view label) -> unsigned {
      const auto text = after(line, label, ", ");
      const auto number = text ? to_number<std::uint8_t>(*text, 16) : std::nullopt;
      if (!number) fail("a bridge without its buses");
      return *number;
    };
    function.buses = bus_range{.secondary = bus("secondary="), .subordinate = bus("subordinate=")};
  } else if (line.starts_with("Region ")) {
    read_region(line);
  } else if (line.starts_with("Capabilities:")) {
    read_capability(line);
  } else if (line.starts_with("ACSC")) {
    read_acs(line);
  } else if (const auto driver = after(line, "Kernel driver in use: ", " "); driver) {
    // It goes to terminals.
    if (!std::ranges::all_of(*driver, [](char letter) { return letter > ' ' && letter <= '~'; }))
      fail("a driver of no printable name");
    function.made.driver = *driver;
  } else if (function.capabilities_seen) {
    read_sriov(line);
  }
}

// "Region 2: Memory at 383ff0000000 (64-bit, prefetchable) [disabled] [size=64M]"
void lspci_parser::read_region(std::string_view line) {
  auto& function = functions_.back();
  // Those of virtual functions stand in their capability, and are not this function's.
  if (function.capabilities_seen) return;
  const auto number = to_number<unsigned>(line.substr(7, 1), 10);
  const auto address = after(line, "Memory at ", " ");
  const auto size = after(line, "[size=", "]");
  if (!number || *number > 5 || !address) return;
  const auto bytes = size ? to_size(*size) : std::nullopt;
  // Without a size it is one that is not assigned, or cut off.
  if (!bytes) return;
  auto start = to_number<std::uint64_t>(*address, 16).value_or(0);
  if (start > UINT64_MAX - *bytes) fail("a region past the end of all addresses");
  auto& bars = function.made.bars;
  if (!bars.empty() && bars.back().number >= *number) fail("regions out of order");
  bars.push_back({.number = *number,
                  .start = start,
                  .size = *bytes,
                  .prefetchable = line.find("non-prefetchable") == std::string_view::npos});
}

void lspci_parser::read_capability(std::string_view line) {
  auto& function = functions_.back();
  if (line.find("<access denied>") != std::string_view::npos) {
    function.denied = true;
    return;
  }
  function.capabilities_seen = true;
  const auto name = after(line, "] ", "");
  if (!name) return;
  if (name->starts_with("Express ")) {
    function.express = true;
    const auto version = name->find(") ");
    function.made.port =
        to_port(version == std::string_view::npos ? name->substr(8) : name->substr(version + 2));
  }
  // Its bits follow; without them it is there, and not known.
  if (name->starts_with("Access Control Services")) function.made.acs = pci_acs{.present = true};
}

void lspci_parser::read_acs(std::string_view line) {
  auto& acs = functions_.back().made.acs;
  if (!acs) return;
  const auto bits = to_acs_bits(line);
  if (!bits) fail("the bits of ACS are not whole");
  if (line.starts_with("ACSCap:")) acs->capabilities = *bits;
  if (!line.starts_with("ACSCtl:")) return;
  acs->control = *bits;
  functions_.back().acs_control_seen = true;
}

// "Initial VFs: 8, Total VFs: 8, Number of VFs: 4, Function Dependency Link: 00" and
// "VF offset: 2, stride: 1, Device ID: 101e"
void lspci_parser::read_sriov(std::string_view line) {
  auto& function = functions_.back();
  if (const auto count = after(line, "Number of VFs: ", ", "); count)
    function.vf_count = to_number<unsigned>(*count, 10).value_or(0);
  if (const auto offset = after(line, "VF offset: ", ", "); offset) {
    function.vf_offset = to_number<unsigned>(*offset, 10);
    function.vf_stride =
        to_number<unsigned>(after(line, "stride: ", ", ").value_or(""), 10).value_or(0);
  }
}

// The bridge with the fewest buses below it that has this one among them.
auto lspci_parser::bridge_above(const pci_address& address) const -> std::optional<pci_address> {
  const parsed_function* found = nullptr;
  for (const auto& bridge : functions_) {
    if (!bridge.buses || bridge.made.address.domain != address.domain) continue;
    const auto [secondary, subordinate] = *bridge.buses;
    // Buses count upwards from the root. A bridge that has its own among those below it has not
    // been set up.
    if (secondary <= bridge.made.address.bus) continue;
    if (address.bus < secondary || address.bus > subordinate) continue;
    if (found == nullptr || secondary > found->buses->secondary) found = &bridge;
  }
  return found != nullptr ? std::optional(found->made.address) : std::nullopt;
}

auto routing_id(const pci_address& address) -> unsigned {
  return unsigned{address.bus} << 8 | unsigned{address.device} << 3 | address.function;
}

auto lspci_parser::physical_of(const pci_address& address) const -> const parsed_function* {
  const auto id = routing_id(address);
  for (const auto& physical : functions_) {
    if (!physical.vf_offset || physical.made.address.domain != address.domain) continue;
    const auto first = routing_id(physical.made.address) + *physical.vf_offset;
    const auto stride = std::max(physical.vf_stride, 1U);
    if (id >= first && (id - first) % stride == 0 && (id - first) / stride < physical.vf_count)
      return &physical;
  }
  return nullptr;
}

// What the lines about a function come to in the end, and what they leave open.
void lspci_parser::settle(parsed_function& function, topology& machine) const {
  auto& made = function.made;
  const auto name = to_string(made.address);
  const auto miss = [&](const std::string& what) {
    machine.unread.push_back(
        {.what = what + " of " + name,
         .why = function.denied ? "lspci was not run as root" : "it is not in what lspci printed",
         .remedy = "run as root: lspci -D -nn -vvv"});
  };
  const auto whole = !function.denied && function.header_seen &&
                     (function.capabilities_seen || !function.has_capabilities);
  const auto bridge = function.buses || made.class_code >> 8 == 0x0604;
  if (!function.express) {
    if (bridge)
      made.port = whole ? pci_port::bridge : pci_port::unknown;
    else
      made.port = made.class_code >> 8 == 0x0600 ? pci_port::bridge : pci_port::endpoint;
  }
  if (made.port == pci_port::unknown) miss("port type");

  // An ACS capability without its control bits is as good as one that was not read.
  if (made.acs && !function.acs_control_seen)
    made.acs.reset();
  else if (!made.acs && whole)
    made.acs = pci_acs{};
  if (bridge && !made.acs) miss("ACS");
}

auto lspci_parser::build() -> topology {
  topology machine;
  for (const auto* what : {"kernel version", "kernel command line", "kernel configuration", "CPU",
                           "hypervisor", "memory encryption", "Secure Boot", "lockdown"}) {
    machine.unread.push_back({.what = what,
                              .why = "lspci does not tell",
                              .remedy = "record the machine: dmabridge topo --record FILE"});
  }
  for (auto& function : functions_) {
    settle(function, machine);
    auto& made = function.made;
    if (const auto* physical = physical_of(made.address); physical != nullptr) {
      made.physical = physical->made.address;
      // A virtual function's own bit says nothing.
      made.memory_enabled.reset();
    }
    made.parent = bridge_above(made.physical.value_or(made.address));
  }
  std::ranges::sort(functions_, {}, [](const auto& function) { return function.made.address; });
  for (std::size_t at = 0; at < functions_.size(); ++at) {
    auto& made = functions_[at].made;
    if (at > 0 && made.address == machine.functions.back().address) {
      line_ = std::max(functions_[at].line, functions_[at - 1].line);
      fail(to_string(made.address) + " is there twice");
    }
    if (made.iommu_group) machine.iommu_groups[*made.iommu_group] = iommu_domain::unknown;
    machine.functions.push_back(std::move(made));
  }
  for (const auto& [group, domain] : machine.iommu_groups) {
    machine.unread.push_back({.what = fmt::format("IOMMU group {}'s domain type", group),
                              .why = "lspci does not tell",
                              .remedy = "record the machine: dmabridge topo --record FILE"});
  }
  if (const auto found = find_inconsistency(machine)) throw misread(found->wrong);
  return machine;
}

}  // namespace

auto read_lspci(std::string_view text) -> topology {
  const auto fail = [](const std::string& wrong) -> error {
    return error({.kind = error_kind::usage,
                  .attempted = "read what lspci printed",
                  .detail = wrong,
                  .remedies = {"run as root, on the machine in question: lspci -D -nn -vvv"}});
  };
  if (text.size() > longest_text) throw fail(fmt::format("more than {} bytes", longest_text));
  try {
    return lspci_parser(text).run();
  } catch (const misread& wrong) {
    throw fail(wrong.what());
  }
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/path.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <string_view>
#include <utility>

#include "append.hpp"
#include "paths_from.hpp"

namespace dmabridge {
namespace {

// --- what each kernel's drivers/pci/p2pdma.c says ---------------------------------

// A release as one number: 7.2 is 7002.
using release = unsigned;

// Host bridges that the kernel lists, by the function that stands for them, and from which release
// on; `until`: the first one without. The releases are those of the commits, by their subjects:
//
//   4.20  p2pdma; nothing goes through a host bridge
//   5.2   "Allow P2P DMA between any devices under AMD ZEN Root Complex"
//   5.4   "Whitelist some Intel host bridges"; also "Apply host bridge whitelist for ACS": until
//         then a redirect is a refusal, whatever the host bridge
//   5.6   "Add Intel SkyLake-E to the whitelist"
//   5.7   "Add Intel Sky Lake-E Root Ports B, C, D to the whitelist"
//   5.8   "Add AMD Zen Raven and Renoir Root Ports to whitelist"
//   5.9   "Allow P2PDMA on AMD Zen and newer CPUs", in place of AMD's bridges
//   5.18  "Add Intel 3rd Gen Intel Xeon Scalable Processors to whitelist"
//   5.19  "Whitelist Intel Skylake-E Root Ports at any devfn"
//   7.1   "Add Google SoCs to the P2P DMA host bridge list"
//   7.2   "Add Intel QAT, DSA, IAA devices to whitelist", which stable releases took over
//   7.3   four of NVIDIA's CPUs
//
// Distributions take entries over into older kernels. So what only a later list has is not known
// of an earlier kernel.
struct listed_bridge {
  std::uint16_t vendor;
  std::uint16_t device;
  release since;
  release until = ~0U;
  bool same_only = false;  // both functions have to be below it
};

constexpr std::uint16_t any_device = 0xffff;
constexpr release oldest_known = 4020;
constexpr release newest_known = 7003;
constexpr release redirects_through_host_bridge = 5004;
constexpr release trusts_amd_cpus = 5009;
constexpr release takes_any_root_port = 5019;

constexpr auto listed_bridges = std::to_array<listed_bridge>({
    {0x1022, 0x1450, 5002, 5009},
    {0x1022, 0x15d0, 5008, 5009},
    {0x1022, 0x1630, 5008, 5009},
    {0x8086, 0x3c00, 5004, ~0U, true},
    {0x8086, 0x3c01, 5004, ~0U, true},
    {0x8086, 0x2f00, 5004, ~0U, true},
    {0x8086, 0x2f01, 5004, ~0U, true},
    {0x8086, 0x2030, 5006},
    {0x8086, 0x2031, 5007},
    {0x8086, 0x2032, 5007},
    {0x8086, 0x2033, 5007},
    {0x8086, 0x2020, 5006},
    {0x8086, 0x09a2, 5018},
    {0x8086, 0x0b25, 7002},
    {0x8086, 0x0cfe, 7002},
    {0x8086, 0x11fb, 7002},
    {0x8086, 0x1212, 7002},
    {0x8086, 0x1216, 7002},
    {0x8086, 0x4940, 7002},
    {0x8086, 0x4942, 7002},
    {0x8086, 0x4944, 7002},
    {0x8086, 0x4946, 7002},
    {0x8086, 0x4948, 7002},
    {0x1ae0, any_device, 7001},
    {0x10de, 0x2f95, 7003},
    {0x10de, 0x2f96, 7003},
    {0x10de, 0x2f97, 7003},
    {0x10de, 0x2f98, 7003},
});

// "7.2.12+deb13-amd64" is 7.2.
auto rules_of(std::string_view kernel) -> kernel_rules {
  const auto* const end = kernel.data() + kernel.size();
  unsigned major = 0, minor = 0;
  const auto [dot, ec] = std::from_chars(kernel.data(), end, major);
  if (ec != std::errc{} || dot == end || *dot != '.' ||
      std::from_chars(dot + 1, end, minor).ec != std::errc{} || major > 1000 || minor > 999) {
    return {};
  }
  const auto version = major * 1000 + minor;
  return {.known = true,
          .version = std::clamp(version, oldest_known, newest_known),
          .exact = version >= oldest_known && version <= newest_known};
}

// --- the tree --------------------------------------------------------------------------

// Not deeper than there are buses, also if the parents go round in a circle.
constexpr std::size_t max_depth = 256;
constexpr std::size_t usual_depth = 8;  // two switches, one below the other

// By a function on it. A virtual one has a bus number of its own; the physical one tells.
auto root_bus(const pci_function& function) -> pci_address {
  const auto& real = function.physical ? *function.physical : function.address;
  return {.domain = real.domain, .bus = real.bus};
}

// All functions at one address but for the function number; functions are ascending by address.
auto is_multi_function(const topology& machine, const pci_function& function) -> bool {
  const auto is_sibling = [&](const pci_function& other) {
    return other.address.domain == function.address.domain &&
           other.address.bus == function.address.bus &&
           other.address.device == function.address.device;
  };
  const auto* const first = machine.functions.data();
  const auto* const last = first + machine.functions.size();
  return function.address.function != 0 || (&function != first && is_sibling(*(&function - 1))) ||
         (&function + 1 != last && is_sibling(*(&function + 1)));
}

auto is_bridge(const pci_function& function) -> bool {
  return function.class_code >> 8 == 0x0604 || function.port == pci_port::root ||
         function.port == pci_port::upstream || function.port == pci_port::downstream ||
         function.port == pci_port::bridge;
}

// PCI_ACS_RR, PCI_ACS_CR and PCI_ACS_EC, as p2pdma.c looks at.
constexpr std::uint16_t acs_redirect = 0x04 | 0x08 | 0x20;

auto redirects(const topology& machine, const pci_function& function) -> std::optional<bool> {
  if (function.acs) return function.acs->present && (function.acs->control & acs_redirect) != 0;
  // A device of one function must not have ACS (PCIe 6.12.1.3).
  if (!is_bridge(function) && !is_multi_function(machine, function)) return false;
  return {};
}

template <typename Element>
void add_once(Element one, std::vector<Element>& list) {
  if (std::ranges::find(list, one) == list.end()) list.push_back(std::move(one));
}

// --- the host bridge ---------------------------------------------------------------------

struct allowance {
  std::optional<bool> given{};
  bool by_list = false;
  std::vector<reason> refusals{};
  std::vector<unread_fact> missing{};
};

auto is_x86(std::string_view architecture) -> bool {
  return architecture == "x86_64" || (architecture.size() == 4 && architecture.starts_with('i') &&
                                      architecture.ends_with("86"));
}

// Nothing: it is not known what CPU or what release it is.
auto cpu_forwards(const machine_facts& machine, const kernel_rules& rules) -> std::optional<bool> {
  if (rules.known && rules.version < trusts_amd_cpus) return false;
  if (!machine.architecture.empty() && !is_x86(machine.architecture)) return false;
  if (machine.cpu_vendor.empty() && !machine.cpu_family) return {};
  if (!machine.cpu_vendor.empty() && machine.cpu_vendor != "AuthenticAMD") return false;
  if (machine.cpu_family && *machine.cpu_family < 0x17) return false;
  if (machine.architecture.empty() || machine.cpu_vendor.empty() || !machine.cpu_family) return {};
  if (!rules.known) return {};
  return true;
}

auto first_on_root_bus(const topology& machine, const pci_function& function)
    -> const pci_function* {
  const auto root = root_bus(function);
  const auto first = std::ranges::lower_bound(machine.functions, root, {}, &pci_function::address);
  const auto found = first != machine.functions.end() && first->address.domain == root.domain &&
                     first->address.bus == root.bus;
  return found ? &*first : nullptr;
}

enum class listing : std::uint8_t { yes, no, unknown };

auto look_up(const pci_function& bridge, const kernel_rules& rules, bool same) -> listing {
  auto answer = listing::no;
  for (const auto& entry : listed_bridges) {
    if (entry.vendor != bridge.vendor ||
        (entry.device != any_device && entry.device != bridge.device) ||
        (entry.same_only && !same) || (rules.known && rules.version >= entry.until)) {
      continue;
    }
    if (rules.known && rules.version >= entry.since) return listing::yes;
    answer = listing::unknown;
  }
  return answer;
}

constexpr auto ask_kernel =
    "load dmabridge, and ask the kernel: explain does if the module is there";
constexpr auto ask_machine = "record the machine again, on itself";

auto no_release() -> unread_fact {
  return {"the kernel's release", "it is not in this topology", ask_machine};
}

auto unlisted(const pci_function& bridge) -> reason {
  return {.code = DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED,
          .blocks_p2p = true,
          .device = bridge.address,
          .value = std::uint64_t{bridge.vendor} << 16 | bridge.device,
          .name = to_string(bridge.address)};
}

// A host bridge is known by the first function on its root bus, if that is 00.0 or a root port.
void judge_host_bridge(const topology& machine, const pci_function& on_root_bus,
                       const kernel_rules& rules, bool same, allowance& result) {
  const auto* const stands = first_on_root_bus(machine, on_root_bus);
  if (stands == nullptr) {
    result.missing.push_back({fmt::format("the host bridge of {}", to_string(on_root_bus.address)),
                              "nothing on its root bus is in this topology", ""});
    return;
  }
  const auto& first = *stands;
  const auto found = look_up(first, rules, same);
  const auto is_first_slot = first.address.device == 0 && first.address.function == 0;
  const auto any_slot = !rules.known || rules.version >= takes_any_root_port;
  const auto may_be_port = any_slot && is_bridge(first);

  if (!is_first_slot && found != listing::no && may_be_port && first.port == pci_port::unknown) {
    result.missing.push_back({fmt::format("port type of {}", to_string(first.address)),
                              "its PCI Express capability could not be read", "run this as root"});
  } else if (!is_first_slot && !(may_be_port && first.port == pci_port::root)) {
    add_once(
        reason{.code = DMABRIDGE_REASON_NO_PATH, .blocks_p2p = true, .value = ~std::uint64_t{0}},
        result.refusals);
  } else if (found == listing::no) {
    result.refusals.push_back(unlisted(first));
  } else if (found == listing::unknown) {
    // Two host bridges may be of one kind.
    add_once(
        rules.known
            ? unread_fact{fmt::format("whether Linux {} lists host bridge {:04x}:{:04x}",
                                      machine.machine.kernel, first.vendor, first.device),
                          "later releases do, and distributions take entries over into older ones",
                          ask_kernel}
            : no_release(),
        result.missing);
  }
}

// Whether the kernel lets traffic between the two go through their host bridges.
auto judge_host_bridges(const topology& machine, const pci_function& provider_root,
                        const pci_function& client_root, const kernel_rules& rules,
                        std::optional<bool> cpu) -> allowance {
  allowance result;
  if (cpu.value_or(false)) {
    result.given = true;
    return result;
  }

  result.by_list = true;
  const auto same = root_bus(provider_root) == root_bus(client_root);
  result.refusals.reserve(same ? 1 : 2);
  judge_host_bridge(machine, provider_root, rules, same, result);
  if (!same) judge_host_bridge(machine, client_root, rules, same, result);
  if (result.refusals.empty() && result.missing.empty()) {
    result.given = true;
  } else if (!cpu) {
    if (rules.known) {
      result.missing.insert(result.missing.begin(), {"the CPU's vendor and family",
                                                     "it is not in this topology", ask_machine});
    } else {
      add_once(no_release(), result.missing);
    }
  } else if (!result.refusals.empty()) {
    // One that refuses is enough.
    result.given = false;
    result.missing.clear();
  }
  return result;
}

// --- the answer -----------------------------------------------------------------------------

auto unknown(const unread_fact& fact) -> reason {
  return {.code = DMABRIDGE_REASON_PATH_UNKNOWN, .blocks_p2p = true, .name = fact.what};
}

void add_unknown(pci_path& path, unread_fact fact) {
  path.reasons.push_back(unknown(fact));
  path.missing.push_back(std::move(fact));
}

void add_unknown(pci_path& path, std::vector<unread_fact> facts) {
  path.reasons.reserve(path.reasons.size() + facts.size());
  for (const auto& fact : facts) path.reasons.push_back(unknown(fact));
  append(std::move(facts), path.missing);
}

// nvidia-smi's words. PIX is one switch, although that shows as three bridges: two ports down, and
// the port up in which both meet. With more than one port between the meeting point and either
// device there are several.
auto class_below(std::size_t provider_up, std::size_t client_up) -> proximity {
  if (provider_up == 0 && client_up == 0) return proximity::self;
  return provider_up <= 2 && client_up <= 2 ? proximity::pix : proximity::pxb;
}

// Of two that meet in no bridge.
auto class_across(const topology& machine, const pci_function& provider,
                  const pci_function& provider_root, const pci_function& client,
                  const pci_function& client_root) -> proximity {
  if (root_bus(provider_root) == root_bus(client_root)) return proximity::phb;
  const auto& a = provider.numa_node;
  const auto& b = client.numa_node;
  if (a && b) return *a == *b ? proximity::node : proximity::sys;
  // A machine that has no NUMA nodes is one.
  const auto has_node = [](const pci_function& function) { return function.numa_node.has_value(); };
  return std::ranges::none_of(machine.functions, has_node) ? proximity::node : proximity::unknown;
}

// If the list is another release's.
void note_list(const topology& machine, const kernel_rules& rules, pci_path& path) {
  if (rules.exact || !rules.known) return;
  path.missing.push_back(
      {fmt::format("which host bridges Linux {} lists", machine.machine.kernel),
       fmt::format("judged by the list of Linux {}.{}", rules.version / 1000, rules.version % 1000),
       ask_kernel});
}

auto above(const pci_function& function) -> unread_fact {
  return {fmt::format("what is above {}", to_string(function.address)),
          "its bridge is not in this topology", ""};
}

auto absent(const pci_address& address) -> unread_fact {
  return {fmt::format("PCI function {}", to_string(address)), "it is not in this topology",
          "name one that is there: dmabridge topo lists them"};
}

}  // namespace

auto to_string(proximity value) -> std::string {
  switch (value) {
    case proximity::self:
      return "X";
    case proximity::pix:
      return "PIX";
    case proximity::pxb:
      return "PXB";
    case proximity::phb:
      return "PHB";
    case proximity::node:
      return "NODE";
    case proximity::sys:
      return "SYS";
    case proximity::unknown:
      break;
  }
  return "?";
}

auto to_string(path_answer value) -> std::string {
  switch (value) {
    case path_answer::bus:
      return "bus";
    case path_answer::host_bridge:
      return "host_bridge";
    case path_answer::no:
      return "no";
    case path_answer::unknown:
      break;
  }
  return "unknown";
}

// From a client up to where it meets the provider's line, else to the root.
struct paths_from::way_down {
  std::array<const pci_function*, max_depth> functions;  // from the client up
  std::size_t size = 0;
  bool whole = false;                // it meets, or ends on a root bus
  std::optional<std::size_t> meets;  // at which of the provider's line

  void trace(const topology& machine, const pci_function& client,
             std::span<const pci_function* const> provider) {
    for (const auto* at = &client; at != nullptr && size < max_depth;) {
      const auto met = std::ranges::find(provider, at);
      if (met != provider.end()) meets = static_cast<std::size_t>(met - provider.begin());
      whole = meets.has_value() || !at->parent;
      if (!meets) functions[size++] = at;
      if (whole) return;
      at = machine.find(*at->parent);
    }
  }
  auto root() const -> const pci_function& { return *functions[size - 1]; }
};

paths_from::paths_from(const topology& machine, const pci_address& provider)
    : machine_(machine),
      provider_(provider),
      rules_(rules_of(machine.machine.kernel)),
      cpu_forwards_(cpu_forwards(machine.machine, rules_)) {
  line_.reserve(usual_depth);
  for (const auto* at = machine.find(provider); at != nullptr && line_.size() < max_depth;) {
    line_.push_back(at);
    whole_ = !at->parent;
    at = whole_ ? nullptr : machine.find(*at->parent);
  }
  steps_.reserve(line_.size());
  for (const auto* function : line_) steps_.push_back(step_of(*function));
}

auto paths_from::step_of(const pci_function& function) const -> step {
  const auto redirecting = redirects(machine_, function);
  if (!redirecting) {
    return {.unread = unread_fact{"ACS of " + to_string(function.address),
                                  "its extended configuration space could not be read",
                                  "run this as root"}};
  }
  if (!*redirecting) return {};
  return {.redirects = reason{.code = DMABRIDGE_REASON_ACS_REDIRECT,
                              .blocks_p2p = true,
                              .device = function.address,
                              .value = function.acs->control,
                              .name = to_string(function.address)}};
}

// Everything that does not stay below one bridge. `redirecting`, `unread`: why it does not, or may
// not.
void paths_from::go_through_host_bridge(const pci_function& client_root,
                                        std::vector<reason> redirecting,
                                        std::vector<unread_fact> unread, pci_path& path) const {
  const auto by_redirect = !redirecting.empty() || !unread.empty();
  // Whether it goes there at all is open.
  const auto perhaps = by_redirect && redirecting.empty();

  auto allowed =
      by_redirect && rules_.known && rules_.version < redirects_through_host_bridge
          ? allowance{.given = false}
          : judge_host_bridges(machine_, *line_.back(), client_root, rules_, cpu_forwards_);
  if (allowed.given.value_or(false)) {
    // Peer to peer either way. Where ACS was not readable the route may be the shorter one.
    path.answer = path_answer::host_bridge;
    path.missing = std::move(unread);
    if (allowed.by_list) note_list(machine_, rules_, path);
    return;
  }

  path.reasons = std::move(redirecting);
  if (perhaps) {
    path.answer = path_answer::unknown;
    add_unknown(path, std::move(unread));
    add_unknown(path, std::move(allowed.missing));
    return;
  }
  append(std::move(allowed.refusals), path.reasons);
  if (allowed.given) {
    path.answer = path_answer::no;
    note_list(machine_, rules_, path);
    return;
  }
  path.answer = path_answer::unknown;
  // They do if what is not known turns out badly.
  for (auto& why : path.reasons) why.blocks_p2p = false;
  add_unknown(path, std::move(allowed.missing));
}

auto paths_from::judge(const pci_address& client, way_down& way) const -> pci_path {
  pci_path path;
  const auto* const to = machine_.find(client);
  if (line_.empty()) add_unknown(path, absent(provider_));
  if (to == nullptr && client != provider_) add_unknown(path, absent(client));
  if (!path.missing.empty()) return path;

  way.trace(machine_, *to, line_);
  if (!whole_) add_unknown(path, above(*line_.back()));
  if (!way.whole) add_unknown(path, above(way.root()));
  if (!path.missing.empty()) return path;

  if (!way.meets) {
    path.distance = static_cast<int>(line_.size() + way.size);
    go_through_host_bridge(way.root(), {}, {}, path);
    return path;
  }

  // As p2pdma counts: the devices' own ACS too, and the common bridge's.
  path.distance = static_cast<int>(*way.meets + way.size);
  std::vector<reason> redirecting;
  std::vector<unread_fact> unread;
  const auto look = [&](step seen) {
    if (seen.redirects) redirecting.push_back(std::move(*seen.redirects));
    if (seen.unread) unread.push_back(std::move(*seen.unread));
  };
  for (std::size_t up = 0; up <= *way.meets; ++up) look(steps_[up]);
  for (std::size_t up = 0; up < way.size; ++up) look(step_of(*way.functions[up]));
  for (const auto& why : redirecting) path.redirecting.push_back(*why.device);
  if (redirecting.empty() && unread.empty()) {
    path.answer = path_answer::bus;
  } else {
    go_through_host_bridge(*line_.back(), std::move(redirecting), std::move(unread), path);
  }
  return path;
}

auto paths_from::judge(const pci_address& client) const -> pci_path {
  way_down way;
  return judge(client, way);
}

auto paths_from::find(const pci_address& client) const -> pci_path {
  way_down way;
  auto path = judge(client, way);
  if (!path.distance) return path;

  // The bridges between the two. The common one is the client itself if that is a bridge.
  const auto up = way.meets ? *way.meets + (way.size != 0 ? 1 : 0) : line_.size();
  path.bridges.reserve(up + way.size);
  for (std::size_t i = 1; i < up; ++i) path.bridges.push_back(line_[i]->address);
  for (auto i = way.size; i > 1; --i) path.bridges.push_back(way.functions[i - 1]->address);

  path.distance_class = way.meets ? class_below(*way.meets, way.size)
                                  : class_across(machine_, *line_.front(), *line_.back(),
                                                 *way.functions.front(), way.root());
  return path;
}

auto find_path(const topology& machine, const pci_address& provider, const pci_address& client)
    -> pci_path {
  return paths_from(machine, provider).find(client);
}

}  // namespace dmabridge

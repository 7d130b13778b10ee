// SPDX-License-Identifier: MIT
#include "dmabridge/path.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <string_view>

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

struct kernel_rules {
  bool known = false;   // whether the release is; else what releases differ in is unknown
  release version = 0;  // the nearest that is known
  bool exact = false;   // it is that very one
};

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

// From a function up to the root bus. Not deeper than there are buses, also if the parents go round
// in a circle.
struct lineage {
  static constexpr std::size_t max_depth = 256;

  std::array<const pci_function*, max_depth> up;
  std::size_t size = 0;
  bool whole = false;  // it ends on a root bus

  auto functions() const -> std::span<const pci_function* const> { return {up.data(), size}; }
  auto root() const -> const pci_function& { return *up[size - 1]; }
};

void trace_up(const topology& machine, const pci_function& from, lineage& line) {
  for (const auto* at = &from; at != nullptr && line.size < lineage::max_depth;) {
    line.up[line.size++] = at;
    if (!at->parent) {
      line.whole = true;
      return;
    }
    at = machine.find(*at->parent);
  }
}

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
    result.refusals.push_back(
        {.code = DMABRIDGE_REASON_NO_PATH, .blocks_p2p = true, .value = ~std::uint64_t{0}});
  } else if (found == listing::no) {
    result.refusals.push_back(unlisted(first));
  } else if (found == listing::unknown) {
    result.missing.push_back(
        rules.known
            ? unread_fact{fmt::format("whether Linux {} lists host bridge {:04x}:{:04x}",
                                      machine.machine.kernel, first.vendor, first.device),
                          "later releases do, and distributions take entries over into older ones",
                          ask_kernel}
            : no_release());
  }
}

// Whether the kernel lets traffic between the two go through their host bridges.
auto judge_host_bridges(const topology& machine, const pci_function& provider_root,
                        const pci_function& client_root, const kernel_rules& rules) -> allowance {
  allowance result;
  const auto cpu = cpu_forwards(machine.machine, rules);
  if (cpu.value_or(false)) {
    result.given = true;
    return result;
  }

  result.by_list = true;
  const auto same = root_bus(provider_root) == root_bus(client_root);
  judge_host_bridge(machine, provider_root, rules, same, result);
  if (!same) judge_host_bridge(machine, client_root, rules, same, result);
  if (result.refusals.empty() && result.missing.empty()) {
    result.given = true;
  } else if (!cpu) {
    result.missing.insert(result.missing.begin(),
                          !rules.known ? no_release()
                                       : unread_fact{"the CPU's vendor and family",
                                                     "it is not in this topology", ask_machine});
  } else if (!result.refusals.empty()) {
    // One that refuses is enough.
    result.given = false;
    result.missing.clear();
  }
  return result;
}

// --- the answer -----------------------------------------------------------------------------

void add_unknown(pci_path& path, unread_fact fact) {
  path.reasons.push_back(
      {.code = DMABRIDGE_REASON_PATH_UNKNOWN, .blocks_p2p = true, .name = fact.what});
  path.missing.push_back(std::move(fact));
}

// The common bridge is in the provider's line at `provider_up` and in the client's at `client_up`.
struct meeting {
  std::size_t provider_up;
  std::size_t client_up;
};

auto find_meeting(const lineage& provider, const lineage& client) -> std::optional<meeting> {
  for (std::size_t up = 0; up < provider.size; ++up) {
    const auto found = std::ranges::find(client.functions(), provider.up[up]);
    if (found != client.functions().end()) {
      return meeting{up, static_cast<std::size_t>(found - client.functions().begin())};
    }
  }
  return {};
}

// Bridges, from the provider up and down to the client.
void list_bridges(const lineage& provider, const lineage& client,
                  const std::optional<meeting>& common, pci_path& path) {
  // The common one is the client itself if that is a bridge.
  const auto up = common ? common->provider_up + (common->client_up != 0 ? 1 : 0) : provider.size;
  const auto down = common ? common->client_up : client.size;
  path.bridges.reserve(up + down);
  for (std::size_t i = 1; i < up; ++i) path.bridges.push_back(provider.up[i]->address);
  for (auto i = down; i > 1; --i) path.bridges.push_back(client.up[i - 1]->address);
}

// nvidia-smi's words. PIX is one switch, although that shows as three bridges: two ports down, and
// the port up in which both meet. With more than one port between the meeting point and either
// device there are several.
auto class_of(const topology& machine, const lineage& provider, const lineage& client,
              const std::optional<meeting>& common) -> proximity {
  if (common) {
    if (common->provider_up == 0 && common->client_up == 0) return proximity::self;
    return common->provider_up <= 2 && common->client_up <= 2 ? proximity::pix : proximity::pxb;
  }
  if (root_bus(provider.root()) == root_bus(client.root())) return proximity::phb;
  const auto& a = provider.up[0]->numa_node;
  const auto& b = client.up[0]->numa_node;
  if (a && b) return *a == *b ? proximity::node : proximity::sys;
  // A machine that has no NUMA nodes is one.
  const auto has_node = [](const pci_function& function) { return function.numa_node.has_value(); };
  return std::ranges::none_of(machine.functions, has_node) ? proximity::node : proximity::unknown;
}

struct redirect_search {
  std::vector<reason> found{};
  std::vector<unread_fact> missing{};
};

// As p2pdma counts: the devices' own ACS too, and the common bridge's, which is in the provider's
// line.
void search_redirects(const topology& machine, std::span<const pci_function* const> line,
                      redirect_search& result) {
  for (const auto* function : line) {
    const auto redirecting = redirects(machine, *function);
    if (!redirecting) {
      result.missing.push_back({fmt::format("ACS of {}", to_string(function->address)),
                                "its extended configuration space could not be read",
                                "run this as root"});
    } else if (*redirecting) {
      result.found.push_back({.code = DMABRIDGE_REASON_ACS_REDIRECT,
                              .blocks_p2p = true,
                              .device = function->address,
                              .value = function->acs->control,
                              .name = to_string(function->address)});
    }
  }
}

void refuse(pci_path& path, std::vector<reason> reasons) {
  path.answer = path_answer::no;
  if (path.reasons.empty()) {
    path.reasons = std::move(reasons);
  } else {
    std::ranges::move(reasons, std::back_inserter(path.reasons));
  }
}

// If the list is another release's.
void note_list(const topology& machine, const kernel_rules& rules, pci_path& path) {
  if (rules.exact || !rules.known) return;
  path.missing.push_back(
      {fmt::format("which host bridges Linux {} lists", machine.machine.kernel),
       fmt::format("judged by the list of Linux {}.{}", rules.version / 1000, rules.version % 1000),
       ask_kernel});
}

// Everything that does not stay below one bridge.
void go_through_host_bridge(const topology& machine, const lineage& provider, const lineage& client,
                            redirect_search redirected, pci_path& path) {
  const auto rules = rules_of(machine.machine.kernel);
  const auto by_redirect = !redirected.found.empty() || !redirected.missing.empty();
  // Whether it goes there at all is open.
  const auto perhaps = by_redirect && redirected.found.empty();

  auto allowed = by_redirect && rules.known && rules.version < redirects_through_host_bridge
                     ? allowance{.given = false}
                     : judge_host_bridges(machine, provider.root(), client.root(), rules);
  if (allowed.given.value_or(false)) {
    // Peer to peer either way. Where ACS was not readable the route may be the shorter one.
    path.answer = path_answer::host_bridge;
    path.missing = std::move(redirected.missing);
    if (allowed.by_list) note_list(machine, rules, path);
    return;
  }

  path.reasons = std::move(redirected.found);
  if (perhaps) {
    path.answer = path_answer::unknown;
    for (auto& fact : redirected.missing) add_unknown(path, std::move(fact));
    for (auto& fact : allowed.missing) add_unknown(path, std::move(fact));
    return;
  }
  if (allowed.given) {
    refuse(path, std::move(allowed.refusals));
    note_list(machine, rules, path);
    return;
  }
  path.answer = path_answer::unknown;
  std::ranges::move(allowed.refusals, std::back_inserter(path.reasons));
  // They do if what is not known turns out badly.
  for (auto& why : path.reasons) why.blocks_p2p = false;
  for (auto& fact : allowed.missing) add_unknown(path, std::move(fact));
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

auto find_path(const topology& machine, const pci_address& provider, const pci_address& client)
    -> pci_path {
  pci_path path;
  const auto* const from = machine.find(provider);
  const auto* const to = machine.find(client);
  if (from == nullptr) add_unknown(path, absent(provider));
  if (to == nullptr && client != provider) add_unknown(path, absent(client));
  if (from == nullptr || to == nullptr) return path;

  lineage above_provider, above_client;
  trace_up(machine, *from, above_provider);
  trace_up(machine, *to, above_client);
  for (const auto* line : {&above_provider, &above_client}) {
    if (line->whole) continue;
    add_unknown(path, {fmt::format("what is above {}", to_string(line->root().address)),
                       "its bridge is not in this topology", ""});
  }
  if (!path.missing.empty()) return path;

  const auto common = find_meeting(above_provider, above_client);
  list_bridges(above_provider, above_client, common, path);
  path.distance_class = class_of(machine, above_provider, above_client, common);
  if (!common) {
    path.distance = static_cast<int>(above_provider.size + above_client.size);
    go_through_host_bridge(machine, above_provider, above_client, {}, path);
    return path;
  }

  path.distance = static_cast<int>(common->provider_up + common->client_up);
  redirect_search redirected;
  search_redirects(machine, above_provider.functions().first(common->provider_up + 1), redirected);
  search_redirects(machine, above_client.functions().first(common->client_up), redirected);
  for (const auto& why : redirected.found) path.redirecting.push_back(*why.device);
  if (redirected.found.empty() && redirected.missing.empty()) {
    path.answer = path_answer::bus;
  } else {
    go_through_host_bridge(machine, above_provider, above_client, std::move(redirected), path);
  }
  return path;
}

}  // namespace dmabridge

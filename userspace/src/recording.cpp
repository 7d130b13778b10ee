// SPDX-License-Identifier: MIT
#include "dmabridge/recording.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "hardware_address.hpp"
#include "located_json.hpp"
#include "topology_check.hpp"

namespace dmabridge {
namespace {

using json = nlohmann::ordered_json;

constexpr std::string_view format_name = "dmabridge topology";
constexpr std::uint64_t format_version = 1;

// Ten times what the largest machine takes.
constexpr json_limits limits{.bytes = std::size_t{16} << 20,
                             .values = 500'000,
                             .depth = 8,
                             .members = 64,
                             .string_bytes = 16'384};

template <typename Enum>
struct named {
  Enum value;
  std::string_view name;
};

constexpr auto names_of(pci_port) {
  return std::to_array<named<pci_port>>({{pci_port::unknown, "unknown"},
                                         {pci_port::endpoint, "endpoint"},
                                         {pci_port::root, "root"},
                                         {pci_port::upstream, "upstream"},
                                         {pci_port::downstream, "downstream"},
                                         {pci_port::bridge, "bridge"}});
}

constexpr auto names_of(iommu_domain) {
  return std::to_array<named<iommu_domain>>({{iommu_domain::unknown, "unknown"},
                                             {iommu_domain::identity, "identity"},
                                             {iommu_domain::strict, "strict"},
                                             {iommu_domain::lazy, "lazy"},
                                             {iommu_domain::blocked, "blocked"},
                                             {iommu_domain::unmanaged, "unmanaged"}});
}

constexpr auto names_of(block_kind) {
  return std::to_array<named<block_kind>>({{block_kind::disk, "disk"},
                                           {block_kind::partition, "partition"},
                                           {block_kind::md, "md"},
                                           {block_kind::dm, "dm"},
                                           {block_kind::loop, "loop"},
                                           {block_kind::multipath, "multipath"},
                                           {block_kind::other, "other"}});
}

// A number that people know in hexadecimal; it is a string in JSON, which has none.
template <typename Number>
struct hexadecimal {
  Number& number;
};
template <typename Number>
hexadecimal(Number&) -> hexadecimal<Number>;

// An entry of topology::iommu_groups.
struct iommu_group {
  std::uint32_t number = 0;
  iommu_domain domain = iommu_domain::unknown;

  auto operator==(const iommu_group&) const -> bool = default;
};

// The members of every object, named once, for writing and reading alike. `must`: it is always
// there. `may`: it is left out where it has its initial value.
template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, pci_acs>
{
  archive.must("present", node.present);
  archive.may("capabilities", hexadecimal{node.capabilities});
  archive.may("control", hexadecimal{node.control});
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, pci_bar>
{
  archive.must("number", node.number);
  archive.may("start", hexadecimal{node.start});
  archive.must("size", hexadecimal{node.size});
  archive.may("prefetchable", node.prefetchable);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, pci_function>
{
  archive.must("address", node.address);
  archive.may("parent", node.parent);
  archive.may("physical", node.physical);
  archive.must("vendor", hexadecimal{node.vendor});
  archive.must("device", hexadecimal{node.device});
  archive.must("class", hexadecimal{node.class_code});
  archive.may("port", node.port);
  archive.may("acs", node.acs);
  archive.may("driver", node.driver);
  archive.may("numa_node", node.numa_node);
  archive.may("iommu_group", node.iommu_group);
  archive.may("dma_mask_bits", node.dma_mask_bits);
  archive.may("memory_enabled", node.memory_enabled);
  archive.may("bars", node.bars);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, iommu_group>
{
  archive.must("number", node.number);
  archive.must("domain", node.domain);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, block_node>
{
  archive.must("name", node.name);
  archive.must("kind", node.kind);
  archive.may("disk", node.disk);
  archive.may("legs", node.legs);
  archive.may("level", node.level);
  archive.may("function", node.function);
  archive.may("driver", node.driver);
  archive.may("stable_writes", node.stable_writes);
  archive.may("integrity", node.integrity);
  archive.may("size", node.size);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, rdma_node>
{
  archive.must("name", node.name);
  archive.may("function", node.function);
  archive.may("driver", node.driver);
  archive.may("software", node.software);
  archive.may("netdevs", node.netdevs);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, drm_node>
{
  archive.may("card", node.card);
  archive.may("render", node.render);
  archive.may("function", node.function);
  archive.may("driver", node.driver);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, net_node>
{
  archive.must("name", node.name);
  archive.may("function", node.function);
  archive.may("driver", node.driver);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, machine_facts>
{
  archive.may("kernel", node.kernel);
  archive.may("architecture", node.architecture);
  archive.may("command_line", node.command_line);
  archive.may("cpu_vendor", node.cpu_vendor);
  archive.may("cpu_family", node.cpu_family);
  archive.may("config_p2pdma", node.config_p2pdma);
  archive.may("hypervisor", node.hypervisor);
  archive.may("memory_encryption", node.memory_encryption);
  archive.may("secure_boot", node.secure_boot);
  archive.may("lockdown", node.lockdown);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, denied_pair>
{
  archive.must("one", node.one);
  archive.may("other", node.other);
}

template <typename Archive, typename Node>
void describe(Archive& archive, Node& node)
  requires std::same_as<std::remove_const_t<Node>, unread_fact>
{
  archive.must("what", node.what);
  archive.may("why", node.why);
  archive.may("remedy", node.remedy);
}

// All but the groups, which are a map.
template <typename Archive, typename Node>
void describe(Archive& archive, Node& node, auto& groups) {
  archive.must("machine", node.machine);
  archive.must("functions", node.functions);
  archive.may("iommu_groups", groups);
  archive.may("blocks", node.blocks);
  archive.may("rdma", node.rdma);
  archive.may("drm", node.drm);
  archive.may("nets", node.nets);
  archive.may("denied", node.denied);
  archive.may("unread", node.unread);
}

// With a question mark for every control character, which no recording may have: U+0000 to U+001F,
// and U+007F to U+009F, of which the latter are two bytes.
auto without_control_characters(std::string text) -> std::string {
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const auto next = at + 1 < text.size() ? static_cast<unsigned char>(text[at + 1]) : 0U;
    if (byte == 0xc2 && next >= 0x80 && next < 0xa0) text.erase(at, 1);
    if (byte < 0x20 || byte == 0x7f || (byte == 0xc2 && next >= 0x80 && next < 0xa0))
      text[at] = '?';
  }
  return text;
}

class writer {
 public:
  explicit writer(address_hider& hider) : hider_(hider) {}

  template <typename Value>
  void must(const char* name, const Value& value) {
    object_[name] = write(value);
  }
  template <typename Value>
  void may(const char* name, const Value& value) {
    if (value != Value{}) must(name, value);
  }
  template <typename Number>
  void may(const char* name, const hexadecimal<Number>& value) {
    if (value.number != 0) must(name, value);
  }

  auto take() -> json { return std::move(object_); }

 private:
  auto write(bool value) -> json { return value; }
  auto write(std::integral auto value) -> json { return value; }
  auto write(const std::string& value) -> json {
    return without_control_characters(hider_.hide(value));
  }
  auto write(const pci_address& value) -> json { return to_string(value); }
  template <typename Number>
  auto write(const hexadecimal<Number>& value) -> json {
    return fmt::format("{:#x}", value.number);
  }
  template <typename Enum>
  auto write(Enum value) -> json
    requires std::is_enum_v<Enum>
  {
    for (const auto& [known, name] : names_of(value))
      if (known == value) return std::string(name);
    throw std::logic_error("a value of no name in a topology");
  }
  template <typename Value>
  auto write(const std::optional<Value>& value) -> json {
    return write(*value);
  }
  template <typename Value>
  auto write(const std::vector<Value>& values) -> json {
    auto list = json::array();
    for (const auto& value : values) list.push_back(write(value));
    return list;
  }
  template <typename Node>
  auto write(const Node& node) -> json
    requires std::is_class_v<Node>
  {
    writer inner(hider_);
    describe(inner, node);
    return inner.take();
  }

  address_hider& hider_;
  json object_ = json::object();
};

// What is wrong with a value's meaning.
class misfit : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const located_json& at, const std::string& path,
                         const std::string& wrong) {
  throw misfit(describe_place(at.place, path, wrong));
}

class reader {
 public:
  reader(const located_json& from, std::string path) : from_(from), path_(std::move(path)) {
    if (!std::holds_alternative<located_json::object>(from.value))
      refuse(from, path_, "an object in braces has to be here");
  }

  template <typename Value>
  void must(const char* name, Value&& value) {
    if (from_.member(name) == nullptr)
      refuse(from_, path_, fmt::format("there is no \"{}\"", name));
    may(name, value);
  }
  template <typename Value>
  void may(const char* name, Value&& value) {
    const auto* found = from_.member(name);
    known_.emplace_back(name);
    if (found != nullptr) read(*found, path_.empty() ? name : path_ + "." + name, value);
  }

  // To be called when all has been asked for.
  void end() const {
    for (const auto& [name, value] : std::get<located_json::object>(from_.value)) {
      if (std::ranges::find(known_, name) == known_.end())
        refuse(value, path_,
               fmt::format("\"{}\" is nothing that belongs here", name.substr(0, 80)));
    }
  }

 private:
  template <typename Value>
  static auto take(const located_json& from, const std::string& path, const char* expected)
      -> const Value& {
    const auto* value = std::get_if<Value>(&from.value);
    if (value == nullptr) refuse(from, path, fmt::format("{} has to be here", expected));
    return *value;
  }

  static void read(const located_json& from, const std::string& path, bool& value) {
    value = take<bool>(from, path, "true or false");
  }
  template <std::integral Number>
  static void read(const located_json& from, const std::string& path, Number& value) {
    const auto given = take<std::uint64_t>(from, path, "a number without sign and fraction");
    if (!std::in_range<Number>(given)) refuse(from, path, fmt::format("{} is too large", given));
    value = static_cast<Number>(given);
  }
  static void read(const located_json& from, const std::string& path, std::string& value) {
    value = take<std::string>(from, path, "a string");
  }
  static void read(const located_json& from, const std::string& path, pci_address& value) {
    const auto& text = take<std::string>(from, path, "a PCI address in quotes");
    const auto address = pci_address::parse(text);
    // One spelling only: what is compared as text later is the same as what is the same.
    if (!address || to_string(*address) != text) {
      refuse(from, path,
             fmt::format("\"{}\" is no PCI address such as \"0000:03:00.0\"", text.substr(0, 80)));
    }
    value = *address;
  }
  template <typename Number>
  static void read(const located_json& from, const std::string& path, hexadecimal<Number>& value) {
    const std::string_view text =
        take<std::string>(from, path, "a hexadecimal number in quotes, \"0x10\",");
    const auto* end = text.data() + text.size();
    Number number = 0;
    const auto [stopped, ec] =
        text.starts_with("0x") ? std::from_chars(text.data() + 2, end, number, 16)
                               : std::from_chars_result{text.data(), std::errc::invalid_argument};
    if (ec != std::errc{} || stopped != end) {
      refuse(from, path,
             fmt::format("\"{}\" is no hexadecimal number of at most {} bits", text.substr(0, 80),
                         std::numeric_limits<Number>::digits));
    }
    value.number = number;
  }
  template <typename Enum>
  static void read(const located_json& from, const std::string& path, Enum& value)
    requires std::is_enum_v<Enum>
  {
    const auto& text = take<std::string>(from, path, "a word in quotes");
    std::string choice;
    for (const auto& [known, name] : names_of(Enum{})) {
      if (name == text) {
        value = known;
        return;
      }
      choice += choice.empty() ? "" : ", ";
      choice += name;
    }
    refuse(from, path, fmt::format("\"{}\" is none of: {}", text.substr(0, 80), choice));
  }
  template <typename Value>
  static void read(const located_json& from, const std::string& path, std::optional<Value>& value) {
    read(from, path, value.emplace());
  }
  template <typename Value>
  static void read(const located_json& from, const std::string& path, std::vector<Value>& values) {
    const auto& items = take<located_json::array>(from, path, "a list in brackets");
    values.reserve(items.size());
    for (std::size_t at = 0; at < items.size(); ++at)
      read(items[at], fmt::format("{}[{}]", path, at), values.emplace_back());
  }
  template <typename Node>
  static void read(const located_json& from, const std::string& path, Node& node)
    requires std::is_class_v<Node>
  {
    reader inner(from, path);
    describe(inner, node);
    inner.end();
  }

  const located_json& from_;
  std::string path_;
  std::vector<std::string_view> known_{};
};

void check_format(reader& document, const located_json& root) {
  std::string format;
  std::uint64_t version = 0;
  document.must("format", format);
  document.must("version", version);
  if (format != format_name)
    refuse(locate(root, "format"), "format",
           fmt::format("\"{}\" is not \"{}\"", format.substr(0, 80), format_name));
  if (version != format_version)
    refuse(locate(root, "version"), "version",
           fmt::format("version {}; this library reads version {}", version, format_version));
}

auto to_map(const std::vector<iommu_group>& groups, const located_json& root)
    -> std::map<std::uint32_t, iommu_domain> {
  std::map<std::uint32_t, iommu_domain> made;
  for (std::size_t at = 0; at < groups.size(); ++at) {
    if (!made.emplace(groups[at].number, groups[at].domain).second) {
      const auto path = fmt::format("iommu_groups[{}].number", at);
      refuse(locate(root, path), path, fmt::format("{} is there twice", groups[at].number));
    }
  }
  return made;
}

auto read_document(std::string_view text) -> topology {
  const auto root = parse_located(text, limits);
  reader document(root, {});
  check_format(document, root);
  topology machine;
  std::vector<iommu_group> groups;
  describe(document, machine, groups);
  document.end();
  machine.iommu_groups = to_map(groups, root);
  if (const auto found = find_inconsistency(machine))
    refuse(locate(root, found->path), found->path, found->wrong);
  return machine;
}

}  // namespace

auto record(const topology& machine) -> std::string {
  std::vector<iommu_group> groups;
  for (const auto& [number, domain] : machine.iommu_groups)
    groups.push_back({.number = number, .domain = domain});
  address_hider hider;
  writer document(hider);
  document.must("format", std::string(format_name));
  document.must("version", format_version);
  describe(document, machine, groups);
  // What is no UTF-8, as a file's name may be, does not stop a recording.
  return document.take().dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

auto read_recording(std::string_view text) -> topology {
  const auto fail = [](const std::string& wrong) -> error {
    return error({.kind = error_kind::usage,
                  .attempted = "read the recording",
                  .detail = wrong,
                  .remedies = {"make a new one, on the machine in question: dmabridge topo "
                               "--record FILE"}});
  };
  try {
    return read_document(text);
  } catch (const std::invalid_argument& damage) {
    throw fail(damage.what());
  } catch (const misfit& wrong) {
    throw fail(wrong.what());
  }
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "random_topology.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace dmabridge::test {
namespace {

class dice {
 public:
  explicit dice(std::uint32_t seed) : engine_(seed) {}

  // 0 to `sides` - 1. Not a distribution of the library's, which is not the same everywhere.
  auto roll(std::uint64_t sides) -> std::uint64_t { return engine_() % sides; }
  auto wide() -> std::uint64_t { return std::uint64_t{engine_()} << 32 | engine_(); }
  auto coin() -> bool { return roll(2) == 1; }

  template <typename Value>
  auto maybe(Value value) -> std::optional<Value> {
    return coin() ? std::optional(value) : std::nullopt;
  }

  // Anything that may stand in a string.
  auto text() -> std::string {
    static constexpr auto pieces = std::to_array<const char*>(
        {"a", "Z", "0", " ", "\"", "\\", "/", ":", "{", "]", "\u00e4", "\u20ac", "\U0001f600"});
    std::string made;
    for (auto length = roll(12); length > 0; --length) made += pieces[roll(pieces.size())];
    return made;
  }

 private:
  std::mt19937 engine_;
};

void add_functions(dice& die, topology& machine) {
  std::vector<pci_address> bridges;
  for (auto count = die.roll(40); count > 0; --count) {
    pci_function made{.address = {.domain = static_cast<std::uint32_t>(die.roll(2) * 0x10000),
                                  .bus = static_cast<std::uint8_t>(die.roll(256)),
                                  .device = static_cast<std::uint8_t>(die.roll(32)),
                                  .function = static_cast<std::uint8_t>(die.roll(8))},
                      .vendor = static_cast<std::uint16_t>(die.wide()),
                      .device = static_cast<std::uint16_t>(die.wide()),
                      .class_code = static_cast<std::uint32_t>(die.roll(0x1000000)),
                      .driver = die.text(),
                      .numa_node = die.maybe(static_cast<int>(die.roll(8))),
                      .dma_mask_bits = die.maybe(static_cast<unsigned>(1 + die.roll(64))),
                      .memory_enabled = die.maybe(die.coin())};
    if (die.coin()) {
      made.class_code = 0x060400;
      made.port = static_cast<pci_port>(std::to_array({0, 2, 3, 4, 5})[die.roll(5)]);
      made.acs = die.maybe(pci_acs{die.coin(), static_cast<std::uint16_t>(die.wide()),
                                   static_cast<std::uint16_t>(die.wide())});
    }
    // Only those that are there before it can be above it: no circle.
    if (!bridges.empty() && die.coin()) {
      const auto& above = bridges[die.roll(bridges.size())];
      if (above.domain == made.address.domain) made.parent = above;
    }
    if (die.coin()) {
      made.iommu_group = static_cast<std::uint32_t>(die.roll(5));
      machine.iommu_groups[*made.iommu_group] = static_cast<iommu_domain>(die.roll(6));
    }
    for (unsigned bar = 0; bar < 6; ++bar) {
      if (die.coin()) continue;
      made.bars.push_back({.number = bar,
                           .start = die.wide() >> 1,
                           .size = 1 + (die.wide() >> 2),
                           .prefetchable = die.coin()});
    }
    const auto same = [&](const auto& other) { return other.address == made.address; };
    if (std::ranges::any_of(machine.functions, same)) continue;
    if (made.class_code == 0x060400) bridges.push_back(made.address);
    machine.functions.push_back(std::move(made));
  }
  std::ranges::sort(machine.functions, {}, &pci_function::address);
}

auto any_function(dice& die, const topology& machine) -> std::optional<pci_address> {
  if (machine.functions.empty() || die.coin()) return {};
  return machine.functions[die.roll(machine.functions.size())].address;
}

void add_devices(dice& die, topology& machine) {
  for (std::size_t at = 0; at < die.roll(12); ++at) {
    block_node made{.name = fmt::format("block{}", at),
                    .kind = static_cast<block_kind>(std::to_array({0, 2, 3, 4, 5, 6})[die.roll(6)]),
                    .level = die.text(),
                    .function = any_function(die, machine),
                    .driver = die.text(),
                    .stable_writes = die.maybe(die.coin()),
                    .integrity = die.maybe(die.coin()),
                    .size = die.maybe(die.wide())};
    for (auto legs = machine.blocks.empty() ? 0 : die.roll(4); legs > 0; --legs)
      made.legs.push_back(machine.blocks[die.roll(machine.blocks.size())].name);
    if (!machine.blocks.empty() && die.roll(4) == 0) {
      made.kind = block_kind::partition;
      made.disk = machine.blocks[die.roll(machine.blocks.size())].name;
    }
    machine.blocks.push_back(std::move(made));
  }
  for (std::size_t at = 0; at < die.roll(4); ++at) {
    machine.rdma.push_back({.name = fmt::format("rdma{}", at),
                            .function = any_function(die, machine),
                            .driver = die.text(),
                            .software = die.coin(),
                            .netdevs = {die.text(), die.text()}});
    machine.drm.push_back({.card = fmt::format("card{}", at),
                           .render = die.coin() ? fmt::format("renderD{}", at) : "",
                           .function = any_function(die, machine),
                           .driver = die.text()});
    machine.nets.push_back({.name = fmt::format("net{}", at),
                            .function = any_function(die, machine),
                            .driver = die.text()});
  }
}

void add_facts(dice& die, topology& machine) {
  machine.machine = {.kernel = die.text(),
                     .architecture = die.text(),
                     .command_line = die.text(),
                     .cpu_vendor = die.text(),
                     .cpu_family = die.maybe(static_cast<unsigned>(die.roll(256))),
                     .config_p2pdma = die.maybe(die.coin()),
                     .hypervisor = die.maybe(die.text()),
                     .memory_encryption = die.maybe(die.coin()),
                     .secure_boot = die.maybe(die.coin()),
                     .lockdown = die.maybe(die.text())};
  for (auto count = die.roll(3); count > 0; --count) {
    machine.denied.push_back({.one = {.bus = static_cast<std::uint8_t>(die.roll(256))},
                              .other = die.maybe(pci_address{.domain = 7, .function = 3})});
    machine.unread.push_back({.what = die.text(), .why = die.text(), .remedy = die.text()});
  }
}

}  // namespace

auto random_topology(std::uint32_t seed) -> topology {
  dice die(seed);
  topology machine;
  add_functions(die, machine);
  add_devices(die, machine);
  add_facts(die, machine);
  return machine;
}

}  // namespace dmabridge::test

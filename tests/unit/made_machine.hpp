// SPDX-License-Identifier: MIT
// Machines made up for tests: small ones by hand, and random ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "dmabridge/topology.hpp"

namespace dmabridge::test {

inline auto at(const char* text) -> pci_address {
  return pci_address::parse(text).value();
}

constexpr std::uint16_t acs_off = 0;
constexpr std::uint16_t acs_redirects = 0x1d;

// A kernel and a CPU of which everything is known.
inline auto known_facts() -> machine_facts {
  return {.kernel = "7.2.12+deb13-amd64",
          .architecture = "x86_64",
          .cpu_vendor = "GenuineIntel",
          .cpu_family = 6,
          .config_p2pdma = true,
          .hypervisor = "",
          .memory_encryption = false,
          .secure_boot = false,
          .lockdown = "none"};
}

// Everything about it is known, and nothing speaks against P2P below one bridge. Its host bridge is
// not on the kernel's list, and its CPU is not AMD's.
class made_machine {
 public:
  made_machine() { made.machine = known_facts(); }

  auto host_bridge(const char* address, std::uint16_t vendor = 0x8086,
                   std::uint16_t device = 0x29c0) -> made_machine& {
    auto function = basic(at(address), {}, pci_port::endpoint);
    function.vendor = vendor;
    function.device = device;
    function.class_code = 0x060000;
    return add(std::move(function));
  }

  // A root port without a parent; else a port of a switch below it.
  auto bridge(const char* address, pci_port port, const char* parent = nullptr,
              std::uint16_t acs_control = acs_off) -> made_machine& {
    std::optional<pci_address> above;
    if (parent != nullptr) above = at(parent);
    auto function = basic(at(address), above, port);
    function.class_code = 0x060400;
    function.acs = pci_acs{.present = true, .capabilities = 0x5f, .control = acs_control};
    return add(std::move(function));
  }

  // With a BAR of 256 MiB, and an address mask of 64 bits.
  auto device(const char* address, const char* parent = nullptr) -> made_machine& {
    std::optional<pci_address> above;
    if (parent != nullptr) above = at(parent);
    auto function = basic(at(address), above, pci_port::endpoint);
    function.class_code = 0x010802;
    function.driver = "nvme";
    return add(std::move(function));
  }

  auto operator[](const char* address) -> pci_function& {
    return *std::ranges::find(made.functions, at(address), &pci_function::address);
  }

  topology made{};

 private:
  static auto basic(const pci_address& address, const std::optional<pci_address>& parent,
                    pci_port port) -> pci_function {
    return {.address = address,
            .parent = parent,
            .vendor = 0x1b36,
            .device = 0x0010,
            .port = port,
            .acs = pci_acs{},
            .numa_node = 0,
            .dma_mask_bits = 64,
            .memory_enabled = true,
            .bars = {{.number = 2, .start = 0x38'0000'0000, .size = 256 << 20}}};
  }

  auto add(pci_function function) -> made_machine& {
    const auto place =
        std::ranges::lower_bound(made.functions, function.address, {}, &pci_function::address);
    made.functions.insert(place, std::move(function));
    return *this;
  }
};

// A switch with two devices, of which the first has memory; one more below another root port; and a
// device of two functions below a third.
inline auto usual_machine() -> made_machine {
  made_machine machine;
  machine.host_bridge("00:00.0")
      .bridge("00:01.0", pci_port::root)
      .bridge("01:00.0", pci_port::upstream, "00:01.0")
      .bridge("02:00.0", pci_port::downstream, "01:00.0")
      .bridge("02:01.0", pci_port::downstream, "01:00.0")
      .device("03:00.0", "02:00.0")
      .device("04:00.0", "02:01.0")
      .bridge("00:02.0", pci_port::root)
      .device("05:00.0", "00:02.0")
      .bridge("00:03.0", pci_port::root)
      .device("06:00.0", "00:03.0")
      .device("06:00.1", "00:03.0");
  return machine;
}

// Trees of random depth below some host bridges, which may be listed, with random ACS.
class random_machine {
 public:
  explicit random_machine(std::mt19937& source) : random_(source) {
    made.machine = made_machine().made.machine;
    if (one_of(3) == 0) {
      made.machine.cpu_vendor = "AuthenticAMD";
      made.machine.cpu_family = one_of(2) == 0 ? 0x17 : 0x15;
    }
    constexpr const char* kernels[] = {"7.2.12", "7.3.0", "5.19", "5.3.1", "5.8.18", "9.1", "4.19"};
    if (one_of(2) == 0) made.machine.kernel = kernels[one_of(std::size(kernels))];
    const auto bridges = 1 + one_of(3);
    for (unsigned i = 0; i < bridges; ++i) grow_root(i);
    std::ranges::sort(made.functions, {}, &pci_function::address);
  }

  topology made{};
  std::vector<pci_address> devices{};

 private:
  auto one_of(std::size_t count) -> unsigned { return static_cast<unsigned>(random_() % count); }

  void grow_root(unsigned which) {
    constexpr std::uint16_t ids[] = {0x29c0, 0x3c00, 0x2030, 0x09a2, 0x0b25};
    const auto domain = one_of(3) == 0 ? which : 0;
    const auto root = static_cast<std::uint8_t>(which * 64);
    next_bus_ = root;
    pci_function bridge{.address = {.domain = domain, .bus = root},
                        .vendor = 0x8086,
                        .device = ids[one_of(std::size(ids))],
                        .class_code = 0x060000,
                        .port = pci_port::endpoint,
                        .acs = pci_acs{},
                        .numa_node = static_cast<int>(which / 2)};
    if (one_of(6) != 0) made.functions.push_back(bridge);
    const auto ports = 1 + one_of(3);
    for (unsigned i = 0; i < ports; ++i) {
      grow({.domain = domain, .bus = root, .device = static_cast<std::uint8_t>(i + 1)}, {},
           pci_port::root, 0, static_cast<int>(which / 2));
    }
  }

  void grow(const pci_address& address, std::optional<pci_address> parent, pci_port port,
            unsigned depth, int node) {
    pci_function bridge{.address = address,
                        .parent = parent,
                        .vendor = 0x8086,
                        .device = static_cast<std::uint16_t>(one_of(4) == 0 ? 0x2031 : 0x1234),
                        .class_code = 0x060400,
                        .port = port,
                        .acs = pci_acs{},
                        .numa_node = node};
    if (one_of(2) == 0) {
      bridge.acs = pci_acs{.present = true,
                           .capabilities = 0x5f,
                           .control = one_of(3) == 0 ? acs_redirects : acs_off};
    }
    made.functions.push_back(bridge);
    const auto bus = ++next_bus_;
    const auto below = [&](unsigned slot) {
      return pci_address{
          .domain = address.domain, .bus = bus, .device = static_cast<std::uint8_t>(slot)};
    };
    if (port == pci_port::upstream || (depth < 3 && one_of(3) == 0)) {
      const auto down = port == pci_port::upstream;
      const auto count = down ? 1 + one_of(3) : 1;
      for (unsigned i = 0; i < count; ++i) {
        grow(below(i), address, down ? pci_port::downstream : pci_port::upstream, depth + 1, node);
      }
      return;
    }
    const auto functions = one_of(4) == 0 ? 2U : 1U;
    for (unsigned i = 0; i < functions; ++i) {
      auto where = below(0);
      where.function = static_cast<std::uint8_t>(i);
      pci_function device{.address = where,
                          .parent = address,
                          .vendor = 0x144d,
                          .device = 0xa808,
                          .class_code = 0x010802,
                          .port = pci_port::endpoint,
                          .acs = pci_acs{},
                          .numa_node = node,
                          .dma_mask_bits = one_of(8) == 0 ? 32 : 64,
                          .memory_enabled = true,
                          .bars = {{.number = 2, .start = 0x38'0000'0000, .size = 256 << 20}}};
      if (functions == 2 && one_of(4) == 0) {
        device.acs = pci_acs{.present = true, .capabilities = 0x5f, .control = acs_redirects};
      }
      if (one_of(3) == 0) {
        device.iommu_group = static_cast<std::uint32_t>(devices.size());
        made.iommu_groups[*device.iommu_group] =
            one_of(2) == 0 ? iommu_domain::lazy : iommu_domain::identity;
      }
      made.functions.push_back(device);
      devices.push_back(where);
    }
  }

  std::mt19937& random_;
  std::uint8_t next_bus_ = 0;
};

}  // namespace dmabridge::test

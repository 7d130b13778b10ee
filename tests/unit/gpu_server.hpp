// SPDX-License-Identifier: MIT
// A server with two GPUs below one switch with a drive and a NIC, and a drive on another root port
// of a host bridge that the kernel does not list.
#pragma once

#include <cstdint>

#include "made_machine.hpp"

namespace dmabridge::test {

constexpr std::uint64_t gib = std::uint64_t{1} << 30;

// PCI classes.
constexpr std::uint32_t gpu_class = 0x030200;
constexpr std::uint32_t nvme_class = 0x010802;
constexpr std::uint32_t infiniband_class = 0x020700;

inline auto function_of(topology& machine, const char* address) -> pci_function& {
  return *std::ranges::find(machine.functions, at(address), &pci_function::address);
}

inline void redirect(topology& machine, const char* bridge) {
  function_of(machine, bridge).acs->control = acs_redirects;
}

inline auto disk(const char* name, const char* function, const char* driver) -> block_node {
  return {.name = name,
          .kind = block_kind::disk,
          .function = at(function),
          .driver = driver,
          .stable_writes = false,
          .integrity = false,
          .size = 4 * gib};
}

// GPU0 at 0000:04:00.0 has no driver, GPU1 at 0000:05:00.0 has amdgpu's; nvme0n1 and mlx5_0 are
// beside them, nvme1n1 is elsewhere.
inline auto gpu_server() -> topology {
  made_machine server;
  server.host_bridge("00:00.0")
      .bridge("00:01.0", pci_port::root)
      .bridge("00:02.0", pci_port::root)
      .bridge("01:00.0", pci_port::upstream, "00:01.0")
      .bridge("02:00.0", pci_port::downstream, "01:00.0")
      .bridge("02:01.0", pci_port::downstream, "01:00.0")
      .bridge("02:02.0", pci_port::downstream, "01:00.0")
      .bridge("02:03.0", pci_port::downstream, "01:00.0")
      .device("03:00.0", "02:00.0")
      .device("04:00.0", "02:01.0")
      .device("05:00.0", "02:02.0")
      .device("06:00.0", "02:03.0")
      .device("07:00.0", "00:02.0");
  server.made.machine.kernel = "7.2.12-test";
  server["04:00.0"].class_code = gpu_class;
  server["04:00.0"].driver.clear();
  server["04:00.0"].bars = {
      {.number = 2, .start = 64 * gib, .size = 16 * gib, .prefetchable = true}};
  server["05:00.0"].class_code = gpu_class;
  server["05:00.0"].driver = "amdgpu";
  server["05:00.0"].bars = {
      {.number = 0, .start = 96 * gib, .size = 16 * gib, .prefetchable = true}};
  server["06:00.0"].class_code = infiniband_class;
  server["06:00.0"].driver = "mlx5_core";
  server.made.blocks = {disk("nvme0n1", "03:00.0", "nvme"), disk("nvme1n1", "07:00.0", "nvme")};
  server.made.rdma = {{.name = "mlx5_0",
                       .function = at("06:00.0"),
                       .driver = "mlx5_core",
                       .netdevs = {"ens1f0np0"}}};
  server.made.nets = {{.name = "ens1f0np0", .function = at("06:00.0"), .driver = "mlx5_core"}};
  server.made.drm = {
      {.card = "card1", .render = "renderD128", .function = at("05:00.0"), .driver = "amdgpu"}};
  return server.made;
}

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// What a plan costs on a made-up server: 4 PCIe switches on 2 sockets, and at each of these 2 GPUs,
// 8 NVMe drives and 2 NICs. Needs no guest. The floor: a plan for all 48 in less than 50 us.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "dmabridge/path.hpp"
#include "dmabridge/plan.hpp"
#include "made_machine.hpp"

namespace {

using namespace dmabridge;

struct server {
  topology machine{};
  std::vector<pci_address> gpus{};
  std::vector<importer_facts> importers{};
};

auto add(topology& machine, const pci_address& address, std::optional<pci_address> parent,
         pci_port port, std::uint32_t class_code) -> pci_function& {
  machine.functions.push_back(
      {.address = address,
       .parent = parent,
       .vendor = 0x8086,
       .device = 0x1234,
       .class_code = class_code,
       .port = port,
       .acs = pci_acs{.present = port != pci_port::endpoint, .capabilities = 0x5f, .control = 0},
       .numa_node = address.bus / 128,
       .dma_mask_bits = 64,
       .memory_enabled = true,
       .bars = {{.number = 0, .start = std::uint64_t{address.bus} << 40, .size = 1ULL << 36}}});
  return machine.functions.back();
}

void add_device(server& whole, const pci_address& port, std::uint8_t bus, unsigned slot) {
  const pci_address address{.domain = 0, .bus = bus};
  const auto gpu = slot < 2;
  add(whole.machine, address, port, pci_port::endpoint, gpu ? 0x030200 : 0x010802);
  if (gpu) whole.gpus.push_back(address);
  importer_facts importer{.name = to_string(address), .functions = {address}};
  if (slot >= 2 && slot < 10) {
    importer.kind = importer_kind::block;
    importer.needs_pages = true;
    importer.can_bounce = true;
  }
  whole.importers.push_back(std::move(importer));
}

// Below the root port 01.0 of a root bus of its own.
void add_switch(server& whole, std::uint8_t root) {
  auto& machine = whole.machine;
  const auto next = [&](unsigned buses) { return static_cast<std::uint8_t>(root + buses); };
  add(machine, {.domain = 0, .bus = root}, {}, pci_port::endpoint, 0x060000).device = 0x29c0;
  const pci_address port{.domain = 0, .bus = root, .device = 1};
  const pci_address up{.domain = 0, .bus = next(1)};
  add(machine, port, {}, pci_port::root, 0x060400);
  add(machine, up, port, pci_port::upstream, 0x060400);
  for (unsigned slot = 0; slot < 12; ++slot) {
    const pci_address down{.domain = 0, .bus = next(2), .device = static_cast<std::uint8_t>(slot)};
    add(machine, down, up, pci_port::downstream, 0x060400);
    add_device(whole, down, next(3 + slot), slot);
  }
}

auto make_server() -> server {
  server whole;
  whole.machine.machine = test::known_facts();
  for (unsigned i = 0; i < 4; ++i) add_switch(whole, static_cast<std::uint8_t>(i * 64));
  std::ranges::sort(whole.machine.functions, {}, &pci_function::address);
  return whole;
}

auto memory_of(const server& whole) -> buffer_facts {
  return {.name = "region vram0", .device = whole.gpus.front(), .bar = 0, .size = 1 << 30};
}

void run(benchmark::State& state, const server& whole) {
  const auto buffer = memory_of(whole);
  for (auto _ : state) {
    benchmark::DoNotOptimize(negotiate(whole.machine, buffer, whole.importers));
  }
  state.counters["importers"] = static_cast<double>(whole.importers.size());
}

// 36 of them are behind host bridges that are not listed.
void negotiate_with_refusals(benchmark::State& state) {
  run(state, make_server());
}
BENCHMARK(negotiate_with_refusals)->Unit(benchmark::kMicrosecond);

void negotiate_all_p2p(benchmark::State& state) {
  auto whole = make_server();
  whole.machine.machine.cpu_vendor = "AuthenticAMD";
  whole.machine.machine.cpu_family = 0x19;
  run(state, whole);
}
BENCHMARK(negotiate_all_p2p)->Unit(benchmark::kMicrosecond);

// As an ordinary user reads it.
void negotiate_without_acs(benchmark::State& state) {
  auto whole = make_server();
  for (auto& function : whole.machine.functions) function.acs.reset();
  run(state, whole);
}
BENCHMARK(negotiate_without_acs)->Unit(benchmark::kMicrosecond);

// The matrix of dmabridge topo.
void paths_of_all_pairs(benchmark::State& state) {
  const auto whole = make_server();
  for (auto _ : state) {
    for (const auto& a : whole.importers) {
      for (const auto& b : whole.importers) {
        benchmark::DoNotOptimize(
            find_path(whole.machine, a.functions.front(), b.functions.front()));
      }
    }
  }
}
BENCHMARK(paths_of_all_pairs)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();

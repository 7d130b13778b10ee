// SPDX-License-Identifier: MIT
//
// What a registration costs: of ordinary memory, of a buffer, and of a buffer whose registration is
// in the cache. Runs in a guest (tests/bench/registrations) with rxe; only ratios mean anything
// there.
//
// The machine is noisy, so the contenders take turns, a ratio is taken within one turn, and the
// median of all turns is shown.
#include <fmt/format.h>
#include <dmabridge/control.hpp>
#include <dmabridge/rdma_importer.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/registration_cache.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/mapping.hpp"
#include "support/soft_rdma.hpp"

using namespace dmabridge;

namespace {

constexpr std::uint64_t KiB = 1 << 10, MiB = 1 << 20;
// DESIGN: a cached registration is at least this much cheaper.
constexpr double floor_of_hit = 100;

struct options {
  unsigned turns = 15;
  unsigned rounds = 10;
};

// Nanoseconds of one.
auto cost(unsigned rounds, const auto& action) -> double {
  const auto begin = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < rounds; ++i) action();
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - begin;
  return taken.count() / rounds;
}

auto median(std::vector<double> values) -> double {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

auto measure(const test::OpenRdma& device, const rdma_importer& importer, const buffer& memory,
             std::uint64_t size, const options& asked) -> bool {
  const registration_request wanted{.length = size,
                                    .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ};
  const auto ordinary = test::Mapping::anonymous(size);
  registration_cache cache(importer);
  // The buffer stays in its placement, as it does in a program that works with it: a registration
  // is not to be charged with moving bytes.
  const auto first = cache.get(memory, wanted);
  constexpr unsigned hits_per_round = 100;
  std::vector<double> plain, miss, hit, ratio, against_plain;
  for (unsigned turn = 0; turn < asked.turns; ++turn) {
    plain.push_back(cost(asked.rounds, [&] {
      auto* const region = ibv_reg_mr(device.domain(), ordinary.data(), size, wanted.access);
      if (region == nullptr) throw std::runtime_error("ordinary memory cannot be registered");
      ibv_dereg_mr(region);
    }));
    miss.push_back(
        cost(asked.rounds, [&] { importer.register_memory(memory, wanted).deregister(); }));
    hit.push_back(cost(asked.rounds * hits_per_round, [&] { cache.get(memory, wanted); }));
    ratio.push_back(miss.back() / hit.back());
    against_plain.push_back(miss.back() / plain.back());
  }
  fmt::print("{:>8} {:>14.1f} {:>12.1f} {:>10.2f} {:>12.2f} {:>14.0f}   {} {}\n",
             size >= MiB ? fmt::format("{} MiB", size / MiB) : fmt::format("{} KiB", size / KiB),
             median(plain) / 1000, median(miss) / 1000, median(against_plain), median(hit) / 1000,
             median(ratio), to_string(first->verdict().route), to_string(first->method()));
  return median(ratio) >= floor_of_hit;
}

auto run(const options& asked) -> int {
  const test::SoftRdma link("rxe0");
  const test::OpenRdma device("rxe0");
  const control module;
  const rdma_importer importer(device.domain(), &module);
  const auto regions = module.regions();
  const auto memory = allocate(find_region(regions, {}), 16 * MiB, policy::prefer);
  fmt::print("median of {} turns; us of one\n\n", asked.turns);
  fmt::print("{:>8} {:>14} {:>12} {:>10} {:>12} {:>14}   {}\n", "", "ordinary", "buffer", "ratio",
             "cached", "buffer/cached", "route");
  bool good = true;
  for (const auto size : {4 * KiB, 64 * KiB, 1 * MiB, 16 * MiB}) {
    good = measure(device, importer, memory, size, asked) && good;
  }
  if (!good)
    fmt::print("\nbelow the floor: a cached registration is to be {} times cheaper\n",
               floor_of_hit);
  return good ? 0 : 1;
}

}  // namespace

auto main(int count, char** arguments) -> int {
  options asked;
  CLI::App app("What a registration costs, cached and not");
  app.add_option("--turns", asked.turns, "of which the median is shown")
      ->check(CLI::Range(1, 1000));
  app.add_option("--rounds", asked.rounds, "registrations in a turn")->check(CLI::Range(1, 10000));
  CLI11_PARSE(app, count, arguments);
  try {
    return run(asked);
  } catch (const std::exception& failure) {
    fmt::print(stderr, "registration_bench: {}\n", failure.what());
    return 1;
  }
}

// SPDX-License-Identifier: MIT
#include <ostream>
#include <utility>

#include "dmabridge/control.hpp"
#include "dmabridge/rdma_importer.hpp"
#include "dmabridge/region.hpp"
#include "rdma_bench.hpp"
#include "report.hpp"
#include "subcommands.hpp"

namespace dmabridge::command {

auto bench_rdma(const bench_rdma_arguments& wanted, surroundings& around) -> int {
  const open_rdma_device device(wanted.device);
  const control module;
  const rdma_importer importer(device.domain(), &module);
  const auto regions = module.regions();
  const auto memory = allocate(find_region(regions, wanted.region), wanted.size, wanted.policy);
  const auto report =
      measure(device, importer, memory,
              {.turns = wanted.turns, .wanted = wanted.policy, .stop = around.interrupted()});
  if (wanted.json) {
    around.out() << dump(to_json(report));
  } else {
    around.out() << to_text(report);
  }
  return exit_ok;
}

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// One function per subcommand. Each returns the exit status or throws dmabridge::error.
#pragma once

#include "arguments.hpp"
#include "command.hpp"

namespace dmabridge::command {

auto bench_rdma(const bench_rdma_arguments& wanted, surroundings& around) -> int;
auto explain(const explain_arguments& wanted, surroundings& around) -> int;
auto info(const info_arguments& wanted, surroundings& around) -> int;
auto load(const load_arguments& wanted, surroundings& around) -> int;
auto save(const save_arguments& wanted, surroundings& around) -> int;
auto topo(const topo_arguments& wanted, surroundings& around) -> int;

}  // namespace dmabridge::command

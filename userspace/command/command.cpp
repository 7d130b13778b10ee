// SPDX-License-Identifier: MIT
#include "command.hpp"

#include <algorithm>
#include <cerrno>
#include <ostream>
#include <system_error>

#include "arguments.hpp"
#include "dmabridge/error.hpp"
#include "json.hpp"
#include "subcommands.hpp"

namespace dmabridge::command {
namespace {

auto status_of(const error& failure) -> int {
  if (failure.code() == ECANCELED) return exit_interrupted;
  switch (failure.kind()) {
    case error_kind::system:
      return exit_system;
    case error_kind::refused:
      return exit_refused;
    case error_kind::io:
      return exit_io;
    case error_kind::usage:
      return exit_usage;
  }
  return exit_system;
}

// How a failure is told. Looked for in the command line by hand, as one that cannot be parsed is
// told so too.
struct telling {
  explicit telling(const std::vector<std::string>& command_line) {
    const auto own_end = std::ranges::find(command_line, "--");
    as_json = std::find(command_line.begin(), own_end, "--json") != own_end;
    explains = command_line.size() > 1 && command_line[1] == "explain";
  }

  bool as_json = false;
  bool explains = false;
};

auto report(const error& failure, const telling& how, surroundings& around) -> int {
  if (how.as_json) {
    around.out() << dump({{"error", to_json(failure)}});
  } else {
    around.err() << "dmabridge: " << failure.what() << '\n';
  }
  const auto status = status_of(failure);
  return how.explains && status != exit_usage ? static_cast<int>(exit_unknown) : status;
}

struct dispatcher {
  surroundings& around;

  auto operator()(const bench_rdma_arguments& wanted) const -> int {
    return bench_rdma(wanted, around);
  }
  auto operator()(const explain_arguments& wanted) const -> int { return explain(wanted, around); }
  auto operator()(const info_arguments& wanted) const -> int { return info(wanted, around); }
  auto operator()(const load_arguments& wanted) const -> int { return load(wanted, around); }
  auto operator()(const save_arguments& wanted) const -> int { return save(wanted, around); }
  auto operator()(const topo_arguments& wanted) const -> int { return topo(wanted, around); }
  auto operator()(const message& said) const -> int {
    if (!said.is_error) {
      around.out() << said.text;
      return exit_ok;
    }
    throw error({.kind = error_kind::usage,
                 .attempted = "understand the command line",
                 .detail = said.text,
                 .remedies = {"see dmabridge --help, or dmabridge SUBCOMMAND --help"}});
  }
};

auto carry_out(const std::vector<std::string>& command_line, const telling& how,
               surroundings& around) -> int {
  try {
    return std::visit(dispatcher{around}, parse(command_line));
  } catch (const error& failure) {
    return report(failure, how, around);
  } catch (const std::system_error& failure) {
    return report(error({.kind = error_kind::system,
                         .attempted = "go on",
                         .code = failure.code().value(),
                         .detail = failure.what()}),
                  how, around);
  }
}

}  // namespace

auto run(const std::vector<std::string>& command_line, surroundings& around) -> int {
  const telling how(command_line);
  const auto status = carry_out(command_line, how, around);
  // A report that nobody got must not look like one that says all is well.
  if (around.out().flush()) return status;
  around.err() << "dmabridge: cannot write the report to the standard output; what it is about was "
                  "done\n";
  return how.explains ? static_cast<int>(exit_unknown) : static_cast<int>(exit_system);
}

}  // namespace dmabridge::command

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

auto report(const error& failure, bool as_json, surroundings& around) -> int {
  if (as_json) {
    around.out() << json{{"error", to_json(failure)}}.dump(2) << '\n';
  } else {
    around.err() << "dmabridge: " << failure.what() << '\n';
  }
  return status_of(failure);
}

struct dispatcher {
  surroundings& around;

  auto operator()(const info_arguments& wanted) const -> int { return info(wanted, around); }
  auto operator()(const load_arguments& wanted) const -> int { return load(wanted, around); }
  auto operator()(const save_arguments& wanted) const -> int { return save(wanted, around); }
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

}  // namespace

auto run(const std::vector<std::string>& command_line, surroundings& around) -> int {
  // Looked for by hand, as a command line that cannot be parsed is reported in JSON too.
  const auto own_end = std::ranges::find(command_line, "--");
  const auto as_json = std::find(command_line.begin(), own_end, "--json") != own_end;
  try {
    return std::visit(dispatcher{around}, parse(command_line));
  } catch (const error& failure) {
    return report(failure, as_json, around);
  } catch (const std::system_error& failure) {
    return report(error({.kind = error_kind::system,
                         .attempted = "go on",
                         .code = failure.code().value(),
                         .detail = failure.what()}),
                  as_json, around);
  }
}

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
//
// exporter-conformance: what a dma-buf exporter does, and whether that is what its users may
// expect. See exporter-conformance(1).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "fdinfo.hpp"
#include "report.hpp"
#include "run.hpp"
#include "support/patience.hpp"
#include "support/test_importer.hpp"

namespace {

using namespace dmabridge::test;
using namespace dmabridge::test::conformance;

constexpr int exit_violation = 1, exit_setup = 2;

struct Options {
  std::vector<std::string> exporters;
  bool all = false;
  int fd = -1;
  std::vector<std::string> command;
  Hooks hooks;
  std::vector<std::string> only;
  std::string function;
  Wish wish{(1 << 20) + (12 << 10), ""};
  unsigned limit = 30;
  bool json = false;
  bool list = false;
};

void add_options(CLI::App* app, Options* options) {
  app->add_option("--exporter", options->exporters, "exporters that are built in")
      ->check(CLI::IsMember(built_in_names()))
      ->delimiter(',');
  app->add_flag("--all", options->all, "all that are built in");
  app->add_option("--fd", options->fd, "an inherited fd of a dma-buf")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--move", options->hooks.move,
                  "shell command that makes the exporter move its buffers (with --fd or COMMAND)");
  app->add_option("--revoke", options->hooks.revoke,
                  "shell command that makes it revoke them (with COMMAND)");
  app->add_option("--restore", options->hooks.restore,
                  "shell command after each check, to undo what --revoke did (with COMMAND)");
  app->add_option("--check", options->only, "only checks whose \"group: name\" contains this text");
  app->add_option("--function", options->function,
                  "PCI function that importers are (default: the first NVMe drive)");
  app->add_option("--vfio", options->wish.vfio_function,
                  "PCI function that vfio-pci gets (default: that of dmabridge's first region)");
  app->add_option("--size", options->wish.size, "bytes of a buffer of a built-in exporter")
      ->check(CLI::PositiveNumber);
  app->add_option("--timeout", options->limit, "seconds that a check may take")
      ->check(CLI::PositiveNumber);
  app->add_flag("--json", options->json, "print JSON");
  app->add_flag("--list", options->list, "print the checks, with the rule of each, and end");
  app->add_option("COMMAND", options->command,
                  "program, behind --, that sends a dma-buf over the Unix socket at fd 3");
}

// Throws std::runtime_error if that is none.
std::vector<Check> chosen_checks(const Options& options) {
  std::vector<Check> checks = all_checks();
  if (options.only.empty()) return checks;
  std::erase_if(checks, [&](const Check& check) {
    const std::string name = check.group + ": " + check.name;
    return std::ranges::none_of(options.only, [&](const std::string& text) {
      return name.find(text) != std::string::npos;
    });
  });
  if (checks.empty()) throw std::runtime_error("no check has such a name (see --list)");
  return checks;
}

// Empty: all good.
std::string complaint(const Options& options) {
  const int ways =
      !options.exporters.empty() + options.all + (options.fd >= 0) + !options.command.empty();
  if (ways != 1) return "give one of --exporter, --all, --fd N, or a COMMAND behind --";
  const bool foreign = options.fd >= 0 || !options.command.empty();
  const Hooks& hooks = options.hooks;
  if (!foreign && !(hooks.move + hooks.revoke + hooks.restore).empty())
    return "--move, --revoke and --restore are for --fd and COMMAND: built-in exporters know how";
  if (options.fd >= 0 && !(hooks.revoke + hooks.restore).empty())
    return "--revoke would end the only buffer that --fd gives; use a COMMAND, which is run for "
           "each check";
  return "";
}

std::chrono::seconds limit_of(const Options& options) {
  return std::chrono::duration_cast<std::chrono::seconds>(
      patience(std::chrono::seconds(options.limit)));
}

// Its node is opened, for all the checks' processes to share.
void need_test_importer() {
  try {
    begin_cpu_access(-1);
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format(
        "{}\nThe checks import buffers through the module dmabridge_test_importer, as root: load "
        "it, or run this in a guest (tests/vm -- exporter-conformance ...).",
        error.what()));
  }
}

std::vector<Column> run_built_in(const Options& options, const std::vector<Check>& checks,
                                 const std::optional<Function>& function) {
  std::vector<Column> columns;
  for (const std::string& name : options.all ? built_in_names() : options.exporters) {
    try {
      const auto exporter = built_in(name, options.wish);
      columns.push_back(run(*exporter, checks, function, limit_of(options)));
    } catch (const Unavailable& reason) {
      columns.push_back(untried_column(name, checks, reason.what()));
    }
  }
  return columns;
}

std::vector<Column> run_foreign(const Options& options, const std::vector<Check>& checks,
                                const std::optional<Function>& function) {
  const auto exporter = options.fd >= 0 ? given(options.fd, options.hooks)
                                        : from_command(options.command, options.hooks);
  // So that what is wrong with the request is told once, and not by every check.
  if (const Fd buffer = exporter->make(); Fdinfo(buffer.get()).text("exp_name").empty())
    throw std::runtime_error(exporter->name() + " is no dma-buf");
  return {run(*exporter, checks, function, limit_of(options))};
}

int run_all(const Options& options) {
  const std::vector<Check> checks = chosen_checks(options);
  if (options.list) {
    fmt::print("{}", as_list(checks));
    return 0;
  }
  if (const std::string wrong = complaint(options); !wrong.empty()) {
    fmt::print(stderr, "exporter-conformance: {} (see --help)\n", wrong);
    return exit_setup;
  }
  need_test_importer();
  const auto function = find_function(options.function);
  const bool foreign = options.fd >= 0 || !options.command.empty();
  const auto columns =
      foreign ? run_foreign(options, checks, function) : run_built_in(options, checks, function);
  fmt::print("{}", options.json ? as_json(checks, columns) : as_table(checks, columns));
  return has_violation(checks, columns) ? exit_violation : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("What a dma-buf exporter does, and whether that is what its users may expect.",
               "exporter-conformance");
  add_options(&app, &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return exit_setup;
  }
  try {
    return run_all(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "exporter-conformance: {}\n", error.what());
    return exit_setup;
  }
}

// SPDX-License-Identifier: MIT
#include "run.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <system_error>

#include "kernel_log.hpp"

namespace dmabridge::test::conformance {
namespace {

Result run_here(const Check& check, Exporter& exporter, const std::optional<Function>& function) {
  try {
    Context context(exporter, function);
    return check.run(context);
  } catch (const Verdict& verdict) {
    return verdict.result;
  } catch (const std::exception& error) {
    return {Outcome::fail, error.what()};
  }
}

// In the child: the result as one byte for the outcome, and the detail.
[[noreturn]] void report(int pipe, const Result& result) {
  std::string text(1, static_cast<char>(result.outcome));
  text += result.detail;
  const bool told = write(pipe, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  // Without the destructors of what the parent also has.
  _exit(told ? 0 : 1);
}

// Until the end of the pipe; false: not in time.
bool read_all(int pipe, std::chrono::steady_clock::time_point end, std::string* text) {
  std::array<char, 4096> piece;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd entry{pipe, POLLIN, 0};
    if (left.count() <= 0 || poll(&entry, 1, static_cast<int>(left.count())) == 0) return false;
    const ssize_t got = read(pipe, piece.data(), piece.size());
    if (got <= 0) return true;
    text->append(piece.data(), static_cast<std::size_t>(got));
  }
}

// Ends a process that does not end by itself: false if it cannot be ended, as it hangs in the
// kernel.
bool end_process(pid_t child, int* status) {
  kill(child, SIGKILL);
  for (int turn = 0; turn < 200; turn++) {
    if (waitpid(child, status, WNOHANG) == child) return true;
    usleep(10'000);
  }
  return false;
}

Result run_apart(const Check& check, Exporter& exporter, const std::optional<Function>& function,
                 std::chrono::seconds limit) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  const Fd reading(ends[0]);
  Fd writing(ends[1]);
  const pid_t child = fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    report(writing.get(), run_here(check, exporter, function));
  }
  writing.reset();

  std::string text;
  int status = 0;
  if (!read_all(reading.get(), std::chrono::steady_clock::now() + limit, &text)) {
    const bool ended = end_process(child, &status);
    return {Outcome::fail, fmt::format("did not end within {} s{}", limit.count(),
                                       ended ? "" : ", and cannot be killed")};
  }
  // Nobody else writes to the pipe, so it is about to end.
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status))
    return {Outcome::fail, fmt::format("killed by {}", strsignal(WTERMSIG(status)))};
  if (text.empty()) return {Outcome::fail, "ended without a result"};
  return {static_cast<Outcome>(text.front()), text.substr(1)};
}

}  // namespace

Column run(Exporter& exporter, const std::vector<Check>& checks,
           const std::optional<Function>& function, std::chrono::seconds limit) {
  Column column{exporter.name(), {}};
  KernelLog log;
  for (const Check& check : checks) {
    Result result = run_apart(check, exporter, function, limit);
    if (const std::string fault = log.fault(); !fault.empty())
      result = {Outcome::fail, fmt::format("the kernel reports: {}{}{}", fault,
                                           result.detail.empty() ? "" : "; ", result.detail)};
    column.results.push_back(std::move(result));
    exporter.restore();
  }
  return column;
}

Column untried_column(const std::string& exporter, const std::vector<Check>& checks,
                      const std::string& reason) {
  return {exporter, std::vector<Result>(checks.size(), {Outcome::untried, reason})};
}

}  // namespace dmabridge::test::conformance

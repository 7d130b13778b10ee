// SPDX-License-Identifier: MIT
#include "process.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iostream>

namespace dmabridge::command {
namespace {

std::atomic<bool> signalled = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

void note_signal(int /*number*/) {
  signalled = true;
}

auto columns_of(int terminal) -> std::optional<unsigned> {
  if (::isatty(terminal) != 1) return {};
  winsize size{};
  // A serial line, for one, does not know its size: then what nearly every terminal has at least.
  const auto known = ::ioctl(terminal, TIOCGWINSZ, &size) == 0 && size.ws_col != 0;
  return known ? size.ws_col : 80;
}

}  // namespace

process::process() {
  // No SA_RESTART: a wait for completions returns, and the transfer looks at the flag.
  struct sigaction action{};
  action.sa_handler = note_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

auto process::out() -> std::ostream& {
  return std::cout;
}
auto process::err() -> std::ostream& {
  return std::cerr;
}
auto process::err_columns() const -> std::optional<unsigned> {
  return columns_of(STDERR_FILENO);
}
auto process::out_columns() const -> std::optional<unsigned> {
  return columns_of(STDOUT_FILENO);
}

auto process::variable(const std::string& name) const -> std::optional<std::string> {
  const auto* value = std::getenv(name.c_str());
  if (value == nullptr) return {};
  return value;
}

auto process::process_id() const -> int {
  return ::getpid();
}
auto process::machine() -> topology {
  return read_topology();
}
auto process::held_buffers() -> census {
  return find_held_buffers("/proc");
}
auto process::interrupted() const -> const std::atomic<bool>& {
  return signalled;
}

void process::wait_until_interrupted() {
  // Blocked while the flag is looked at, so that no signal comes between that and the waiting.
  sigset_t ends;
  sigset_t before;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGINT);
  ::sigaddset(&ends, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &ends, &before);
  while (!signalled) ::sigsuspend(&before);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

auto process::become(const successor& next) -> int {
  if (::fcntl(next.buffer, F_SETFD, 0) < 0) return errno;
  ::setenv("DMABRIDGE_BUFFER_FD", std::to_string(next.buffer).c_str(), 1);
  ::setenv("DMABRIDGE_BUFFER_LENGTH", std::to_string(next.length).c_str(), 1);
  std::vector<char*> arguments;
  for (const auto& argument : next.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));  // execvp does not write to it
  }
  arguments.push_back(nullptr);
  ::execvp(arguments.front(), arguments.data());
  return errno;
}

}  // namespace dmabridge::command

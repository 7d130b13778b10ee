// SPDX-License-Identifier: MIT
// The command's surroundings as a real process has them, on a real terminal.
#include "process.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "dmabridge/fd.hpp"
#include "progress.hpp"

namespace dmabridge::command {
namespace {

constexpr auto longer_than_a_redraw = std::chrono::milliseconds(120);
constexpr unsigned narrow = 30;  // columns: less than the line wants

struct channel {
  fd ours;
  fd theirs;
};

// A terminal; without columns one that does not know its size.
auto make_terminal(unsigned columns) -> channel {
  winsize size{};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(columns);
  int ours = -1;
  int theirs = -1;
  EXPECT_EQ(::openpty(&ours, &theirs, nullptr, nullptr, &size), 0);
  return {.ours = fd(ours), .theirs = fd(theirs)};
}

auto make_pipe() -> channel {
  std::array<int, 2> ends{-1, -1};
  EXPECT_EQ(::pipe(ends.data()), 0);
  return {.ours = fd(ends[0]), .theirs = fd(ends[1])};
}

// Runs `child` in a process of its own, whose standard error is the channel's other end.
template <typename Child>
auto start(channel& err, Child child) -> pid_t {
  const auto pid = ::fork();
  if (pid == 0) {
    ::dup2(err.theirs.get(), STDERR_FILENO);
    ::_exit(child());
  }
  err.theirs.close();
  return pid;
}

// Until the other end is closed, of which a terminal tells by an error.
auto read_all(const fd& from) -> std::string {
  std::string text;
  std::array<char, 4096> part;
  for (;;) {
    const auto count = ::read(from.get(), part.data(), part.size());
    if (count <= 0) return text;
    text.append(part.data(), static_cast<std::size_t>(count));
  }
}

auto exit_status_of(pid_t pid) -> int {
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

auto show_progress() -> int {
  process here;
  {
    progress_line line(here.err(), here.err_columns(), "loading", 1 << 30);
    for (unsigned quarter = 1; quarter <= 3; ++quarter) {
      std::this_thread::sleep_for(longer_than_a_redraw);
      line.update(std::uint64_t{quarter} << 28);
    }
  }
  here.err() << "done\n";
  return 0;
}

// What a terminal makes of `bytes`.
class screen {
 public:
  explicit screen(std::string_view bytes) {
    for (; !bytes.empty(); bytes.remove_prefix(1)) {
      if (bytes.starts_with("\033[K")) {
        rows.back().resize(column_);
        bytes.remove_prefix(2);
      } else if (bytes.front() == '\r') {
        column_ = 0;
      } else if (bytes.front() == '\n') {
        rows.emplace_back().resize(column_, ' ');
      } else {
        put(bytes.front());
      }
    }
  }

  std::vector<std::string> rows{""};

 private:
  void put(char letter) {
    if (column_ == narrow) {
      rows.emplace_back();
      column_ = 0;
    }
    rows.back().resize(std::max(rows.back().size(), column_ + 1), ' ');
    rows.back()[column_++] = letter;
  }

  std::size_t column_ = 0;
};

TEST(process, progress_has_one_line_of_a_terminal_and_leaves_nothing_there) {
  auto terminal = make_terminal(narrow);
  const auto pid = start(terminal, show_progress);
  const auto bytes = read_all(terminal.ours);
  EXPECT_EQ(exit_status_of(pid), 0);
  EXPECT_THAT(bytes, testing::HasSubstr("\r\033[Kloading  25%"));
  EXPECT_THAT(bytes, testing::HasSubstr("\r\033[Kloading  75%"));
  EXPECT_THAT(screen(bytes).rows, testing::ElementsAre("done", ""));
  // While it is drawn it is alone on one row.
  const auto last = bytes.rfind("\r\033[K");
  EXPECT_THAT(screen(bytes.substr(0, last)).rows,
              testing::ElementsAre(testing::StartsWith("loading  75%")));
}

TEST(process, no_progress_where_there_is_no_terminal) {
  auto pipe = make_pipe();
  const auto pid = start(pipe, show_progress);
  EXPECT_EQ(read_all(pipe.ours), "done\n");
  EXPECT_EQ(exit_status_of(pid), 0);
}

TEST(process, terminal_that_does_not_know_its_size) {
  auto terminal = make_terminal(0);
  const auto pid = start(terminal, [] { return static_cast<int>(*process().err_columns()); });
  EXPECT_EQ(exit_status_of(pid), 80);
}

// What load --keep does: neither signal kills it, and it goes on to end with status 0.
TEST(process, waits_for_either_signal_and_survives_it) {
  for (const auto signal : {SIGINT, SIGTERM}) {
    auto pipe = make_pipe();
    const auto pid = start(pipe, [] {
      process here;
      here.err() << "ready" << std::flush;
      here.wait_until_interrupted();
      return here.interrupted() ? 0 : 1;
    });
    char first = 0;
    ASSERT_EQ(::read(pipe.ours.get(), &first, 1), 1);
    ::kill(pid, signal);
    EXPECT_EQ(exit_status_of(pid), 0) << signal;
  }
}

}  // namespace
}  // namespace dmabridge::command

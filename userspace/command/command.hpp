// SPDX-License-Identifier: MIT
// The dmabridge command without its main(), so that tests can run it.
#pragma once

#include <atomic>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/topology.hpp"
#include "held_buffers.hpp"

namespace dmabridge::command {

// Exit statuses; the manual page documents them.
enum exit_status : int {
  exit_ok = 0,
  exit_system = 1,
  exit_refused = 2,
  exit_io = 3,
  exit_usage = 4,
  exit_cannot_execute = 126,
  exit_not_found = 127,
  exit_interrupted = 130,
};

// What explain exits with instead, once it has an answer; exit_refused and exit_usage are the same.
// Whatever keeps it from an answer is exit_unknown.
enum explain_status : int {
  exit_p2p = 0,
  exit_not_p2p = 1,
  exit_unknown = 3,
};

// A program that gets a buffer from this one.
struct successor {
  std::vector<std::string> arguments;  // the program's name first
  int buffer = -1;                     // the fd it inherits
  std::uint64_t length = 0;            // bytes loaded
};

// What a process has around it.
class surroundings {
 public:
  virtual ~surroundings() = default;

  virtual auto out() -> std::ostream& = 0;
  virtual auto err() -> std::ostream& = 0;
  // Columns of the terminal that err() goes to; nothing if it goes elsewhere.
  virtual auto err_columns() const -> std::optional<unsigned> = 0;
  // Of the terminal that out() goes to.
  virtual auto out_columns() const -> std::optional<unsigned> = 0;
  virtual auto variable(const std::string& name) const -> std::optional<std::string> = 0;
  virtual auto process_id() const -> int = 0;

  virtual auto machine() -> topology = 0;
  virtual auto held_buffers() -> census = 0;

  // Set by SIGINT and SIGTERM.
  virtual auto interrupted() const -> const std::atomic<bool>& = 0;
  virtual void wait_until_interrupted() = 0;

  // Becomes that program. Returns an errno if that fails, and not at all otherwise.
  virtual auto become(const successor& next) -> int = 0;
};

// Runs the command line, whose first element is the program's name. Returns the exit status.
auto run(const std::vector<std::string>& command_line, surroundings& around) -> int;

}  // namespace dmabridge::command

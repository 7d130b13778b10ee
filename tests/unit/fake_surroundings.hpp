// SPDX-License-Identifier: MIT
// What the command has around it, as a test wants it.
#pragma once

#include <atomic>
#include <cerrno>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "command.hpp"
#include "dmabridge/error.hpp"

namespace dmabridge::command {

class fake_surroundings final : public surroundings {
 public:
  auto out() -> std::ostream& override { return out_; }
  auto err() -> std::ostream& override { return err_; }
  auto err_columns() const -> std::optional<unsigned> override { return {}; }
  auto out_columns() const -> std::optional<unsigned> override { return columns; }
  auto variable(const std::string& name) const -> std::optional<std::string> override {
    const auto found = variables.find(name);
    return found != variables.end() ? std::optional(found->second) : std::nullopt;
  }
  auto process_id() const -> int override { return 4711; }
  auto machine() -> topology override {
    if (unreadable) throw error({.attempted = "look at this machine", .detail = "no sysfs"});
    return facts;
  }
  auto held_buffers() -> census override { return held; }
  auto interrupted() const -> const std::atomic<bool>& override { return interrupted_; }
  void wait_until_interrupted() override { ++waits; }
  auto become(const successor& next) -> int override {
    successors.push_back(next);
    return ENOENT;
  }

  std::ostringstream out_;
  std::ostringstream err_;
  std::atomic<bool> interrupted_ = false;
  std::map<std::string, std::string> variables;
  std::optional<unsigned> columns;
  topology facts;
  bool unreadable = false;  // the machine
  census held;
  int waits = 0;
  std::vector<successor> successors;
};

}  // namespace dmabridge::command

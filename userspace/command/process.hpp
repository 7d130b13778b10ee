// SPDX-License-Identifier: MIT
// This process as the command's surroundings.
#pragma once

#include "command.hpp"

namespace dmabridge::command {

// Installs handlers for SIGINT and SIGTERM. One per process.
class process final : public surroundings {
 public:
  process();

  auto out() -> std::ostream& override;
  auto err() -> std::ostream& override;
  auto err_columns() const -> std::optional<unsigned> override;
  auto out_columns() const -> std::optional<unsigned> override;
  auto variable(const std::string& name) const -> std::optional<std::string> override;
  auto process_id() const -> int override;
  auto machine() -> topology override;
  auto held_buffers() -> census override;
  auto interrupted() const -> const std::atomic<bool>& override;
  void wait_until_interrupted() override;
  auto become(const successor& next) -> int override;
};

}  // namespace dmabridge::command

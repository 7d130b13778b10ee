// SPDX-License-Identifier: MIT
// The facts about kernel, CPU and firmware.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "machine_roots.hpp"

namespace dmabridge {

void read_machine(const machine_roots& roots, topology& machine);

// The value of CONFIG_... in the running kernel's configuration, "" if it says that it is not set;
// nothing: the configuration is nowhere to be read.
class kernel_config {
 public:
  explicit kernel_config(const machine_roots& roots, const std::string& release);

  auto known() const -> bool { return text_.has_value(); }
  auto value(std::string_view option) const -> std::string;

 private:
  std::optional<std::string> text_{};
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// The machine that topo and explain tell about: this one, or one in a file.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "command.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/topology.hpp"

namespace dmabridge::command {

struct machine_view {
  topology facts{};
  std::string file{};               // it is from there; empty: this machine
  std::optional<control> module{};  // to be asked; nothing: why_no_module
  std::string why_no_module{};
  std::string how_to_get_module{};     // empty: there is no way
  std::vector<region_info> regions{};  // with the module only

  auto is_here() const noexcept -> bool { return file.empty(); }
};

// `from`: a recording, or what lspci printed, told apart by the content; "-" is the standard input,
// and an empty one is this machine. Throws dmabridge::error.
auto view_machine(const std::string& from, surroundings& around) -> machine_view;

// Names and texts out of a file come from anybody: control characters become '?'.
auto printable(std::string_view text) -> std::string;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// A machine's PCI tree as a Graphviz graph.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "devices.hpp"
#include "dmabridge/path.hpp"
#include "dmabridge/plan.hpp"

namespace dmabridge::command {

// A pair whose path is marked.
struct marked_path {
  pci_address memory{};
  pci_address importer{};
  pci_path path{};
  planned_verdict word{};  // its reasons say which bridge blocks
};

// The devices and all bridges above them; of a marked pair also where it is none of these. Bridges
// that block the pair are red, those that make its way longer orange.
auto to_dot(const topology& machine, std::span<const device> devices,
            const std::optional<marked_path>& marked) -> std::string;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// How far the devices of a machine are apart, and who reaches whose memory peer to peer.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices.hpp"
#include "dmabridge/path.hpp"
#include "dmabridge/plan.hpp"

namespace dmabridge::command {

struct matrix_row {
  std::size_t device = 0;            // index
  std::vector<std::string> cells{};  // one for each device
};

// By the words of `nvidia-smi topo -m`.
auto proximity_rows(const topology& machine, std::span<const device> devices)
    -> std::vector<matrix_row>;

// Whether a device's memory has a row of its own among the peer-to-peer cells.
auto has_p2p_row(const device& of) noexcept -> bool;

// Memory of the row, DMA by the column: "yes", "hb" (through a host bridge), "ram" (the RAM behind
// the BAR), "no", "?", and "X" for itself. A star behind it: so far the path goes; something else
// that decides could not be read.
auto p2p_rows(const topology& machine, std::span<const device> devices) -> std::vector<matrix_row>;

// What one such cell is made of.
struct p2p_answer {
  std::string cell{};
  planned_verdict word{};
  pci_path path{};
};
auto p2p_between(const topology& machine, const device& memory, const device& importer)
    -> p2p_answer;

// Lines of at most `columns` characters, if there is such a limit: a wide matrix is then cut into
// parts, one below the other. `corner` stands above the row labels.
auto to_text(std::span<const matrix_row> rows, std::span<const device> devices,
             const std::string& corner, std::optional<unsigned> columns) -> std::string;

}  // namespace dmabridge::command

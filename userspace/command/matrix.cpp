// SPDX-License-Identifier: MIT
#include "matrix.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "memory.hpp"

namespace dmabridge::command {
namespace {

constexpr std::size_t gap = 2;

auto width_of(const std::string& head, std::span<const matrix_row> rows, std::size_t column)
    -> std::size_t {
  auto width = head.size();
  for (const auto& row : rows) width = std::max(width, row.cells[column].size());
  return width + gap;
}

auto importer_of(const topology& machine, const device& column) -> importer_facts {
  // Of GPUs the path alone: their drivers reach each other by other ways than dma-bufs, too.
  const auto name = column.kind == device_kind::gpu ? to_string(column.function) : column.importer;
  return importer_named(machine, name, policy::prefer);
}

auto memory_of(const device& row) -> buffer_facts {
  return row.region != nullptr ? dmabridge::facts_of(*row.region, 0, policy::prefer)
                               : facts_of(row, true);
}

auto cell_of(const pci_path& path) -> std::string {
  switch (path.answer) {
    case path_answer::bus:
      return "yes";
    case path_answer::host_bridge:
      return "hb";
    case path_answer::no:
      return "no";
    case path_answer::unknown:
      break;
  }
  return "?";
}

auto cell_of(route by) -> std::string {
  switch (by) {
    case route::p2p_bus:
      return "yes";
    case route::p2p_host_bridge:
      return "hb";
    case route::stolen:
      return "ram";
    default:
      return "no";
  }
}

auto cell_of(const planned_verdict& word, const pci_path& path) -> std::string {
  if (!word.unknown) return cell_of(word.word.route);
  const auto by_path = cell_of(path);
  return by_path == "?" ? by_path : by_path + "*";
}

auto judge(const topology& machine, const buffer_facts& memory, const importer_facts& importer,
           const pci_address& by) -> p2p_answer {
  auto joint = negotiate(machine, memory, std::array{importer});
  p2p_answer answer{.word = std::move(joint.importers.front())};
  if (memory.device) answer.path = find_path(machine, *memory.device, by);
  answer.cell = cell_of(answer.word, answer.path);
  return answer;
}

}  // namespace

auto proximity_rows(const topology& machine, std::span<const device> devices)
    -> std::vector<matrix_row> {
  std::vector<matrix_row> rows;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    rows.push_back({.device = i, .cells = std::vector<std::string>(devices.size())});
  }
  // How far is the same from either side.
  for (std::size_t i = 0; i < devices.size(); ++i) {
    for (std::size_t j = i; j < devices.size(); ++j) {
      const auto path = find_path(machine, devices[i].function, devices[j].function);
      rows[i].cells[j] = rows[j].cells[i] = to_string(path.distance_class);
    }
  }
  return rows;
}

auto has_p2p_row(const device& of) noexcept -> bool {
  return of.kind == device_kind::gpu || of.kind == device_kind::region;
}

auto p2p_between(const topology& machine, const device& memory, const device& importer)
    -> p2p_answer {
  return judge(machine, memory_of(memory), importer_of(machine, importer), importer.function);
}

auto p2p_rows(const topology& machine, std::span<const device> devices) -> std::vector<matrix_row> {
  std::vector<importer_facts> importers;
  for (const auto& column : devices) importers.push_back(importer_of(machine, column));
  std::vector<matrix_row> rows;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (!has_p2p_row(devices[i])) continue;
    const auto memory = memory_of(devices[i]);
    matrix_row row{.device = i};
    for (std::size_t j = 0; j < devices.size(); ++j) {
      row.cells.push_back(i == j ? "X"
                                 : judge(machine, memory, importers[j], devices[j].function).cell);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

auto to_text(std::span<const matrix_row> rows, std::span<const device> devices,
             const std::string& corner, std::optional<unsigned> columns) -> std::string {
  auto label_width = corner.size();
  for (const auto& row : rows) {
    label_width = std::max(label_width, devices[row.device].label.size());
  }
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    widths.push_back(width_of(devices[i].label, rows, i));
  }

  std::string text;
  for (std::size_t begin = 0; begin < devices.size();) {
    // One column at least, however narrow the terminal.
    auto end = begin;
    auto used = label_width;
    while (end < devices.size() && (end == begin || !columns || used + widths[end] <= *columns)) {
      used += widths[end++];
    }
    if (begin != 0) text += '\n';
    const auto line = [&](const std::string& label, auto cell) {
      text += fmt::format("{:<{}}", label, label_width);
      for (auto i = begin; i < end; ++i) text += fmt::format("{:>{}}", cell(i), widths[i]);
      text += '\n';
    };
    line(corner, [&](std::size_t i) { return devices[i].label; });
    for (const auto& row : rows) {
      line(devices[row.device].label, [&](std::size_t i) { return row.cells[i]; });
    }
    begin = end;
  }
  return text;
}

}  // namespace dmabridge::command

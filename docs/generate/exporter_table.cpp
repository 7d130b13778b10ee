// SPDX-License-Identifier: MIT
#include "exporter_table.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

namespace dmabridge::docs {
namespace {

constexpr std::string_view before_reasons = ": ";
constexpr std::string_view between_reasons = ", ";

using json = nlohmann::ordered_json;

auto read_row(const json& from, const std::vector<importer_column>& importers) -> exporter_row {
  exporter_row row{.id = from.at("id"), .title = from.at("title"), .made_by = from.at("made_by")};
  for (const auto& importer : importers)
    row.cells[importer.id] = parse_cell(from.at("cells").at(importer.id).get<std::string>());
  return row;
}

auto write_row(const exporter_row& row, const std::vector<importer_column>& importers) -> json {
  json cells;
  for (const auto& importer : importers) cells[importer.id] = to_text(row.cells.at(importer.id));
  return {{"id", row.id}, {"title", row.title}, {"made_by", row.made_by}, {"cells", cells}};
}

}  // namespace

auto to_text(const table_cell& cell) -> std::string {
  if (cell.reasons.empty()) return cell.outcome;
  return fmt::format("{}{}{}", cell.outcome, before_reasons,
                     fmt::join(cell.reasons, between_reasons));
}

auto parse_cell(std::string_view text) -> table_cell {
  const auto end = text.find(before_reasons);
  table_cell cell{.outcome = std::string(text.substr(0, end))};
  if (end == std::string_view::npos) return cell;
  text.remove_prefix(end + before_reasons.size());
  for (;;) {
    const auto comma = text.find(between_reasons);
    cell.reasons.emplace_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return cell;
    text.remove_prefix(comma + between_reasons.size());
  }
}

auto parse_exporter_table(std::string_view text) -> exporter_table {
  const auto from = json::parse(text);
  exporter_table table;
  for (const auto& importer : from.at("importers"))
    table.importers.push_back({importer.at("id"), importer.at("title")});
  for (const auto& row : from.at("exporters"))
    table.exporters.push_back(read_row(row, table.importers));
  return table;
}

auto to_text(const exporter_table& table) -> std::string {
  json importers = json::array(), exporters = json::array();
  for (const auto& importer : table.importers)
    importers.push_back({{"id", importer.id}, {"title", importer.title}});
  for (const auto& row : table.exporters) exporters.push_back(write_row(row, table.importers));
  return json{{"importers", importers}, {"exporters", exporters}}.dump(2) + "\n";
}

}  // namespace dmabridge::docs

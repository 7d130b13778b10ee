// SPDX-License-Identifier: MIT
// What every exporter's memory gets from every importer. It is kept in
// docs/exporters-and-importers.json; a guest test fills it and compares it with what happens, and
// the page is made of it.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace dmabridge::docs {

// In the table: "binding, system: foreign_buffer".
struct table_cell {
  std::string outcome{};               // "binding, system"; "not run"
  std::vector<std::string> reasons{};  // ids of reasons, or else what there was to be learnt

  auto operator==(const table_cell&) const -> bool = default;
};
auto to_text(const table_cell& cell) -> std::string;
auto parse_cell(std::string_view text) -> table_cell;

struct importer_column {
  std::string id{};
  std::string title{};
};

struct exporter_row {
  std::string id{};
  std::string title{};
  std::string made_by{};                      // the library's call
  std::map<std::string, table_cell> cells{};  // by importer_column::id
};

struct exporter_table {
  std::vector<importer_column> importers{};
  std::vector<exporter_row> exporters{};
};
// Throws std::exception if that is not such a table, and whole: there is a cell for each pair.
auto parse_exporter_table(std::string_view text) -> exporter_table;
auto to_text(const exporter_table& table) -> std::string;

}  // namespace dmabridge::docs

// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "known.hpp"

namespace dmabridge::test::conformance {
namespace {

const Known* known(const Check& check, const Column& column) {
  return known_failure(column.exporter, check.group, check.name);
}

std::string cell(const Check& check, const Column& column, const Result& result) {
  switch (result.outcome) {
    case Outcome::pass:
      return "pass";
    case Outcome::fail:
      return known(check, column) != nullptr ? "known" : "FAIL";
    case Outcome::yes:
      return "yes";
    case Outcome::no:
      return "no";
    case Outcome::lacks:
      return "n/a";
    case Outcome::untried:
      return "-";
  }
  return "?";
}

const char* word(Outcome outcome) {
  switch (outcome) {
    case Outcome::pass:
      return "pass";
    case Outcome::fail:
      return "fail";
    case Outcome::yes:
      return "yes";
    case Outcome::no:
      return "no";
    case Outcome::lacks:
      return "lacks";
    case Outcome::untried:
      return "untried";
  }
  return "?";
}

std::string title(const Check& check) {
  return check.group + ": " + check.name;
}

// Results that have the same to say stand in one line.
std::string notes(const std::vector<Check>& checks, const Column& column) {
  std::string text;
  std::vector<std::pair<std::string, std::vector<std::string>>> reasons;
  const auto add = [&](const std::string& reason, const std::string& check) {
    auto found = std::ranges::find(reasons, reason, &decltype(reasons)::value_type::first);
    if (found == reasons.end()) found = reasons.insert(found, {reason, {}});
    found->second.push_back(check);
  };
  for (std::size_t i = 0; i < checks.size(); i++) {
    const Result& result = column.results[i];
    switch (result.outcome) {
      case Outcome::fail:
        text += fmt::format("  {} {}: {}\n        rule: {} ({})\n", cell(checks[i], column, result),
                            title(checks[i]), result.detail, checks[i].rule, checks[i].source);
        if (const Known* why = known(checks[i], column))
          text += fmt::format("        known: {}\n", why->why);
        break;
      case Outcome::untried:
        add("not tried: " + result.detail, title(checks[i]));
        break;
      case Outcome::lacks:
        add("does not have it: " + result.detail, title(checks[i]));
        break;
      case Outcome::no:
        add("no: " + result.detail, title(checks[i]));
        break;
      case Outcome::pass:
      case Outcome::yes:
        break;
    }
  }
  for (const auto& [reason, which] : reasons) {
    if (which.size() == checks.size())
      text += fmt::format("  {}\n", reason);
    else
      text += fmt::format("  {}\n        {}\n", reason, fmt::join(which, "; "));
  }
  return text;
}

}  // namespace

std::string as_table(const std::vector<Check>& checks, const std::vector<Column>& columns) {
  std::size_t width = 0;
  for (const Check& check : checks) width = std::max(width, title(check).size());
  std::string text = fmt::format("{:{}}", "", width + 3);
  for (const Column& column : columns) text += fmt::format("  {:<9}", column.exporter);
  text.erase(text.find_last_not_of(' ') + 1);
  text += "\n";
  for (std::size_t i = 0; i < checks.size(); i++) {
    text += fmt::format("{:{}}  {}", title(checks[i]), width, checks[i].contract ? "C" : " ");
    for (const Column& column : columns)
      text += fmt::format("  {:<{}}", cell(checks[i], column, column.results[i]),
                          std::max<std::size_t>(9, column.exporter.size()));
    text.erase(text.find_last_not_of(' ') + 1);
    text += "\n";
  }
  text +=
      "C: contract; FAIL is a violation, known one of the kernel's that is explained below. The "
      "others are facts.\nn/a: the exporter does not have it. -: not tried.\n";
  for (const Column& column : columns)
    if (const std::string about = notes(checks, column); !about.empty())
      text += fmt::format("\n{}:\n{}", column.exporter, about);
  return text;
}

std::string as_json(const std::vector<Check>& checks, const std::vector<Column>& columns) {
  nlohmann::ordered_json document;
  document["exporters"] = nlohmann::ordered_json::array();
  for (const Column& column : columns) {
    nlohmann::ordered_json exporter;
    exporter["exporter"] = column.exporter;
    exporter["checks"] = nlohmann::ordered_json::array();
    for (std::size_t i = 0; i < checks.size(); i++) {
      nlohmann::ordered_json check = {
          {"group", checks[i].group},           {"name", checks[i].name},
          {"contract", checks[i].contract},     {"outcome", word(column.results[i].outcome)},
          {"detail", column.results[i].detail}, {"rule", checks[i].rule},
          {"source", checks[i].source}};
      const Known* why = known(checks[i], column);
      if (why != nullptr && column.results[i].outcome == Outcome::fail) check["known"] = why->why;
      exporter["checks"].push_back(std::move(check));
    }
    document["exporters"].push_back(std::move(exporter));
  }
  return document.dump(2) + "\n";
}

std::string as_list(const std::vector<Check>& checks) {
  std::string text;
  for (const Check& check : checks)
    text += fmt::format("{}{}\n    {}\n    {}\n", title(check), check.contract ? "" : " (a fact)",
                        check.rule, check.source);
  return text;
}

bool has_violation(const std::vector<Check>& checks, const std::vector<Column>& columns) {
  for (const Column& column : columns)
    for (std::size_t i = 0; i < checks.size(); i++)
      if (column.results[i].outcome == Outcome::fail && known(checks[i], column) == nullptr)
        return true;
  return false;
}

}  // namespace dmabridge::test::conformance

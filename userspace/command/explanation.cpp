// SPDX-License-Identifier: MIT
#include "explanation.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "command.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"

namespace dmabridge::command {
namespace {

auto line(std::string_view label, const std::string& text) -> std::string {
  return fmt::format("  {:<12}{}\n", label, printable(text));
}

auto remedy_label(check_status status) -> const char* {
  switch (status) {
    case check_status::ok:
      return "better: ";
    case check_status::blocked:
      return "to fix it: ";
    case check_status::unknown:
      return "to know it: ";
  }
  return "";
}

auto check_text(const check& answer) -> std::string {
  auto text = fmt::format("  {:<8}{:<13}{}\n", to_string(answer.status), answer.subject,
                          printable(answer.evidence));
  if (!answer.remedy.empty()) {
    text += fmt::format("{:23}{}{}\n", "", remedy_label(answer.status), printable(answer.remedy));
  }
  return text;
}

auto section(const std::string& title, const std::vector<check>& checks) -> std::string {
  auto text = printable(title) + '\n';
  for (const auto& answer : checks) text += check_text(answer);
  return text + '\n';
}

auto copies_of(unsigned copies) -> std::string {
  if (copies == 0) return "no copy";
  return fmt::format("{} cop{} per byte", copies, copies == 1 ? "y" : "ies");
}

auto route_of(route value, unsigned copies) -> std::string {
  return value == route::none ? "refused"
                              : fmt::format("{}, {}", to_string(value), copies_of(copies));
}

auto name_of(const explanation& told, std::size_t importer) -> std::string {
  return told.joint.importers[importer].importer;
}

auto placement_text(const buffer_facts& memory, const plan& joint) -> std::string {
  if (joint.placement == placement::none) return "nowhere: nobody is served";
  if (!memory.foreign.empty() && memory.kind == region_kind::bar && !memory.device) {
    return "memory of which it is not known where it is";
  }
  auto text = joint.placement == placement::device ? std::string("device memory")
                                                   : std::string("system memory");
  if (joint.moved != 0) {
    text += fmt::format(", after {} have been moved there", format_size(joint.moved));
  }
  return text;
}

auto verdict_lines(const explanation& told) -> std::string {
  std::string text;
  for (const auto& importer : told.joint.importers) {
    auto word = route_of(importer.word.route, importer.copies);
    word += importer.unknown ? " (unknown: what decides could not be read)"
                             : fmt::format(" ({})", to_string(importer.word.state));
    text += line("importer", fmt::format("{}: {}", importer.importer, word));
  }
  for (const auto index : told.joint.demoting) {
    text += line("demoted by", fmt::format("{}: without it the buffer could stay on its device",
                                           name_of(told, index)));
  }
  return text;
}

auto who_is(const keeper& one) -> std::string {
  return fmt::format("{} ({}{}{}), already", one.name, to_string(one.kind),
                     one.driver.empty() ? "" : ", driver " + one.driver,
                     one.device ? ", device " + to_string(*one.device) : "");
}

// Who keeps it where it is, or its device from going: those who are there, and those who would be.
auto keeper_lines(const explanation& told) -> std::string {
  std::string text;
  const auto add = [&](const std::string& who, const claim& what) {
    text += line("kept by", fmt::format("{}: {}", who, what.text()));
  };
  for (const auto& one : told.joint.kept_by) add(who_is(one), one.claim);
  for (const auto& importer : told.joint.importers) {
    const auto& what = importer.claim;
    if (!what.blocks_moves() && !what.blocks_revoke()) continue;
    add(importer.importer + (importer.unknown ? ", at worst" : ""), what);
  }
  return text;
}

// What each policy would come to, so that the choice is an informed one.
auto option_lines(const explanation& told) -> std::string {
  std::string text;
  for (const auto& option : told.joint.options) {
    std::string routes;
    for (std::size_t i = 0; i < option.routes.size(); ++i) {
      routes += fmt::format("{}{} {}", i == 0 ? "" : "; ", name_of(told, i),
                            route_of(option.routes[i], option.copies[i]));
    }
    if (option.moved != 0) routes += fmt::format("; {} moved first", format_size(option.moved));
    text += line(
        to_string(option.policy),
        fmt::format("{}{}: {}",
                    option.placement == placement::none ? "nobody served"
                                                        : to_string(option.placement) + " memory",
                    option.policy == told.facts.policy ? ", as asked" : "", routes));
  }
  return text;
}

auto difference_lines(const explanation& told) -> std::string {
  std::string text;
  for (const auto& [importer, predicted, confirmed] : told.differences) {
    text += line("difference",
                 fmt::format("{}: predicted {}, the kernel says {}; the kernel is right", importer,
                             to_string(predicted.route), to_string(confirmed.route)));
    for (const auto& why : predicted.reasons) {
      text += fmt::format("{:14}predicted for: {}\n", "", printable(why.text()));
    }
  }
  if (!text.empty()) {
    text +=
        fmt::format("{:14}please report it, with what dmabridge topo --record FILE writes\n", "");
  }
  return text;
}

auto proof_lines(const explanation& told) -> std::string {
  std::string text;
  for (const auto& seen : told.proofs) {
    if (!seen.skipped.empty()) {
      text += line("not proved", fmt::format("{}: {}", seen.importer, seen.skipped));
    } else if (seen.different == 0) {
      text += line("proved",
                   fmt::format("{}: {} read by {} and through system memory, identical",
                               seen.importer, format_size(seen.compared), to_string(seen.claimed)));
    } else {
      text += line("disproved",
                   fmt::format("{}: {} of {} bytes that came by {} differ, from offset {} on",
                               seen.importer, seen.different, seen.compared,
                               to_string(seen.claimed), seen.first_difference.value_or(0)));
      if (seen.broken) text += format_reason(*seen.broken, "              ") + '\n';
    }
  }
  return text;
}

auto importers_with(const explanation& told, auto is_it) -> std::string {
  std::string names;
  for (const auto& importer : told.joint.importers) {
    if (is_it(importer)) names += (names.empty() ? "" : ", ") + importer.importer;
  }
  return names;
}

auto answer_of(const explanation& told) -> std::string {
  switch (outcome_of(told)) {
    case plan_outcome::p2p:
      return told.importers.size() == 1 ? "peer to peer" : "peer to peer, all of them";
    case plan_outcome::redirected:
      return "works, but not peer to peer: " +
             importers_with(told, [](const planned_verdict& importer) {
               return !satisfies_require(importer.word.route);
             });
    case plan_outcome::refused: {
      const auto names = importers_with(
          told, [](const planned_verdict& importer) { return importer.word.route == route::none; });
      return names.empty() ? "broken: bytes that were sent peer to peer did not arrive"
                           : "refused: " + names;
    }
    case plan_outcome::unknown:
      return "not known: " +
             importers_with(told, [](const planned_verdict& importer) { return importer.unknown; });
  }
  return "not known";
}

auto state_text(const explanation& told) -> std::string {
  const auto is_predicted = [](const planned_verdict& importer) {
    return importer.word.state == verdict_state::predicted;
  };
  if (!told.why_predicted.empty()) {
    return "predicted, and not confirmed by the kernel: " + told.why_predicted;
  }
  if (std::ranges::all_of(told.joint.importers, is_predicted)) {
    return "predicted, and not confirmed by the kernel: \"confirmation\" above says why it could "
           "not be asked";
  }
  const auto predicted = importers_with(told, is_predicted);
  return predicted.empty() ? "confirmed by the kernel"
                           : "confirmed by the kernel but for " + predicted;
}

auto title_of(const importer_facts& importer) -> std::string {
  auto inside = to_string(importer.kind);
  if (importer.way == direction::read) inside += " to read";
  if (importer.way == direction::write) inside += " to write";
  for (std::size_t i = 0; i < importer.functions.size(); ++i) {
    const auto function = to_string(importer.functions[i]);
    if (function == importer.name) continue;
    inside += ", " + function;
    if (i < importer.legs.size()) inside += " of " + importer.legs[i];
  }
  return fmt::format("importer {} ({})", importer.name, inside);
}

auto name_of(direction way) -> const char* {
  switch (way) {
    case direction::read:
      return "read";
    case direction::write:
      return "write";
    case direction::both:
      break;
  }
  return "both";
}

auto check_json(const check& answer) -> json {
  return {{"subject", answer.subject},
          {"status", to_string(answer.status)},
          {"evidence", answer.evidence},
          {"remedy", answer.remedy},
          {"reasons", answer.reasons}};
}

auto checks_json(const std::vector<check>& checks) -> json {
  auto array = json::array();
  for (const auto& answer : checks) array.push_back(check_json(answer));
  return array;
}

auto is_disproved(const proof& seen) -> bool {
  return seen.different != 0 || seen.broken.has_value();
}

}  // namespace

auto outcome_of(const explanation& told) -> plan_outcome {
  if (std::ranges::any_of(told.proofs, is_disproved)) return plan_outcome::refused;
  return dmabridge::outcome_of(told.joint);
}

auto to_string(plan_outcome outcome) -> std::string {
  switch (outcome) {
    case plan_outcome::p2p:
      return "p2p";
    case plan_outcome::redirected:
      return "redirected";
    case plan_outcome::refused:
      return "refused";
    case plan_outcome::unknown:
      return "unknown";
  }
  return "unknown";
}

auto exit_status_of(plan_outcome outcome) -> int {
  switch (outcome) {
    case plan_outcome::p2p:
      return exit_p2p;
    case plan_outcome::redirected:
      return exit_not_p2p;
    case plan_outcome::refused:
      return exit_refused;
    case plan_outcome::unknown:
      return exit_unknown;
  }
  return exit_unknown;
}

auto to_text(const explanation& told) -> std::string {
  auto text = section("machine", told.of_machine) +
              section(fmt::format("memory {} ({})", told.memory, told.facts.name), told.of_memory);
  for (std::size_t i = 0; i < told.importers.size(); ++i) {
    text += section(title_of(told.importers[i]), told.of_importers[i]);
  }
  text += "plan\n" + line("buffer in", placement_text(told.facts, told.joint)) +
          verdict_lines(told) + keeper_lines(told);
  text += "\nby policy\n" + option_lines(told);
  const auto seen = difference_lines(told) + proof_lines(told);
  if (!seen.empty()) text += "\nevidence\n" + seen;
  return text +
         fmt::format("\nanswer: {}\n{}\n", printable(answer_of(told)), printable(state_text(told)));
}

auto to_json(const explanation& told) -> json {
  json object = {{"memory", to_json(told.facts)},
                 {"outcome", to_string(outcome_of(told))},
                 {"state", to_string(told.joint.state)},
                 {"why_predicted", told.why_predicted},
                 {"machine_checks", checks_json(told.of_machine)},
                 {"memory_checks", checks_json(told.of_memory)},
                 {"plan", to_json(told.joint)},
                 {"differences", json::array()},
                 {"proofs", json::array()}};
  auto& importers = object["plan"]["importers"];
  for (std::size_t i = 0; i < importers.size(); ++i) {
    auto functions = json::array();
    for (const auto& address : told.importers[i].functions) functions.push_back(to_string(address));
    importers[i]["kind"] = to_string(told.importers[i].kind);
    importers[i]["for"] = name_of(told.importers[i].way);
    importers[i]["functions"] = functions;
    importers[i]["checks"] = checks_json(told.of_importers[i]);
  }
  for (const auto& each : told.differences) object["differences"].push_back(to_json(each));
  for (const auto& each : told.proofs) object["proofs"].push_back(to_json(each));
  return object;
}

}  // namespace dmabridge::command

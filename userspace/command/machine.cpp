// SPDX-License-Identifier: MIT
#include "machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/recording.hpp"
#include "dmabridge/size.hpp"

namespace dmabridge::command {
namespace {

// No machine is described by more; a device node or a disk image given by mistake is.
constexpr std::size_t most_bytes = 64U << 20;

[[noreturn]] void misuse(const std::string& path, int code, std::string detail) {
  throw error({.kind = error_kind::usage,
               .attempted = "read a machine from " + path,
               .code = code,
               .detail = std::move(detail),
               .remedies = {"give a file that dmabridge topo --record wrote, or the output of "
                            "lspci -D -nn -vvv, run as root"}});
}

auto read_text(const std::string& path) -> std::string {
  std::ifstream file(path == "-" ? "/dev/stdin" : path, std::ios::binary);
  if (!file) misuse(path, errno, {});
  std::string text;
  std::array<char, 1U << 16> part{};
  while (file.read(part.data(), part.size()), file.gcount() > 0) {
    text.append(part.data(), static_cast<std::size_t>(file.gcount()));
    if (text.size() > most_bytes) {
      misuse(path, 0, "it has more than " + format_size(most_bytes));
    }
  }
  if (file.bad()) misuse(path, errno, {});
  return text;
}

// A recording is an object of JSON, and no line of lspci's begins with a brace.
auto is_recording(std::string_view text) -> bool {
  const auto first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && text[first] == '{';
}

auto read_file(const std::string& path) -> topology {
  const auto text = read_text(path);
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) misuse(path, 0, "it is empty");
  try {
    return is_recording(text) ? read_recording(text) : read_lspci(text);
  } catch (const error& failure) {
    auto details = failure.details();
    details.attempted = fmt::format("read a machine from {}: {}", path, details.attempted);
    throw error(std::move(details));
  }
}

void ask_module(machine_view& view) {
  try {
    view.module.emplace();
    view.regions = view.module->regions();
  } catch (const error& failure) {
    const auto& details = failure.details();
    view.module.reset();
    view.why_no_module = !details.detail.empty() ? details.detail : errno_text(details.code);
    if (!details.remedies.empty()) view.how_to_get_module = details.remedies.front();
  }
}

}  // namespace

auto view_machine(const std::string& from, surroundings& around) -> machine_view {
  machine_view view;
  if (!from.empty()) {
    view.facts = read_file(from);
    view.file = from;
    view.why_no_module = "this is a file's machine, whose kernel cannot be asked";
    view.how_to_get_module = "run this on that machine";
    return view;
  }
  view.facts = around.machine();
  ask_module(view);
  return view;
}

auto printable(std::string_view text) -> std::string {
  std::string safe(text);
  std::ranges::replace_if(safe, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return safe;
}

}  // namespace dmabridge::command

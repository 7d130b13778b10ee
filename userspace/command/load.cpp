// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <ostream>
#include <utility>

#include "dmabridge/any_memory.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/region.hpp"
#include "dmabridge/size.hpp"
#include "into.hpp"
#include "report.hpp"
#include "subcommands.hpp"

namespace dmabridge::command {
namespace {

[[noreturn]] void misuse(const std::string& path, std::string detail, std::string remedy = {}) {
  error_details details{
      .kind = error_kind::usage, .attempted = "load " + path, .detail = std::move(detail)};
  if (!remedy.empty()) details.remedies.push_back(std::move(remedy));
  throw error(std::move(details));
}

// How much of the source is to be loaded.
auto wanted_length(const load_arguments& wanted, const source& from) -> std::uint64_t {
  if (wanted.offset > from.size()) {
    misuse(wanted.path, fmt::format("offset {} lies behind its end; it has {} bytes ({})",
                                    wanted.offset, from.size(), format_size(from.size())));
  }
  const auto rest = from.size() - wanted.offset;
  if (wanted.length && *wanted.length > rest) {
    misuse(wanted.path, fmt::format("it has {} bytes from offset {} on, {} were asked for", rest,
                                    wanted.offset, *wanted.length));
  }
  return wanted.length.value_or(rest);
}

void check_fits(const load_arguments& wanted, std::uint64_t length, std::uint64_t room) {
  if (wanted.at <= room && length <= room - wanted.at) return;
  misuse(wanted.path,
         fmt::format("its {} bytes ({}) do not fit the buffer of {} bytes ({}) at offset {}",
                     length, format_size(length), room, format_size(room), wanted.at),
         "use a larger buffer (--size), or load a part (--offset, --length)");
}

// A buffer has one byte at least, also for an empty file.
auto size_for(const load_arguments& wanted, std::uint64_t length) -> std::uint64_t {
  std::uint64_t needed = 0;
  if (__builtin_add_overflow(wanted.at, length, &needed)) {
    misuse(wanted.path, "--at and the length are more than any buffer has");
  }
  return wanted.size.value_or(std::max<std::uint64_t>(needed, 1));
}

// Regions give whole pages; other APIs give what they are asked for, and a drive brings whole
// units.
auto whole_units(const load_arguments& wanted, std::uint64_t length) -> std::uint64_t {
  constexpr std::uint64_t largest_unit = 64 * 1024;
  const auto size = size_for(wanted, length);
  return wanted.size ? size : (size + largest_unit - 1) / largest_unit * largest_unit;
}

// Where to load, and the module as far as that needs one.
struct destination {
  std::optional<control> module;
  exported_memory memory;
  bool is_given;
};

auto destination_of(const load_arguments& wanted, std::uint64_t length, const surroundings& around)
    -> destination {
  if (!wanted.into.empty()) {
    return {module_if_loaded(), allocate_into(wanted.into, whole_units(wanted, length)), false};
  }
  if (wanted.region.empty() && !wanted.size) {
    if (auto given = named_buffer(wanted.buffer, around)) {
      return {module_if_loaded(), any_memory(std::move(*given)), true};
    }
  }
  std::optional<control> module(std::in_place);
  const auto regions = module->regions();
  auto made =
      allocate(find_region(regions, wanted.region), size_for(wanted, length), wanted.policy);
  return {std::move(module), any_memory(std::move(made)), false};
}

auto spec_of(const buffer& memory, const surroundings& around) -> std::string {
  return fmt::format("pid:{}:{}", around.process_id(), memory.descriptor());
}

// What becomes of the buffer now.
auto fate(const load_arguments& wanted, const std::string& spec, bool given) -> std::string {
  if (!wanted.successor.empty()) {
    return fmt::format("  {:<12}handed on to {}\n", "then", wanted.successor.front());
  }
  if (wanted.keep) {
    return fmt::format("  {:<12}kept as {} until SIGINT or SIGTERM\n", "then", spec);
  }
  if (given) return {};
  return fmt::format("  {:<12}released; --keep or -- COMMAND would have kept the buffer\n", "then");
}

auto hand_over(const load_arguments& wanted, const buffer& memory, std::uint64_t length,
               surroundings& around) -> int {
  const auto code = around.become(
      {.arguments = wanted.successor, .buffer = memory.descriptor(), .length = length});
  around.err() << fmt::format("dmabridge: cannot run {}: {} ({})\n", wanted.successor.front(),
                              errno_name(code), errno_text(code));
  return code == ENOENT ? exit_not_found : exit_cannot_execute;
}

}  // namespace

auto load(const load_arguments& wanted, surroundings& around) -> int {
  const auto from = source::open(wanted.path);
  const auto length = wanted_length(wanted, from);
  const auto [module, memory, is_given] = destination_of(wanted, length, around);
  check_fits(wanted, length, memory.size());
  const auto report = transfer(wanted, direction::read, module ? &*module : nullptr, memory,
                               {.descriptor = from.descriptor(),
                                .kind = from.kind(),
                                .length = length,
                                .hole_bytes = from.hole_bytes(wanted.offset, length)},
                               around);

  const auto spec = spec_of(memory.memory(), around);
  if (wanted.json) {
    auto object = to_json(report);
    object["spec"] = wanted.keep ? json(spec) : json(nullptr);
    around.out() << object.dump(2) << '\n';
  } else {
    around.out() << to_text(report) << fate(wanted, spec, is_given);
  }
  around.out().flush();

  if (!wanted.successor.empty()) return hand_over(wanted, memory.memory(), length, around);
  if (wanted.keep) around.wait_until_interrupted();
  return exit_ok;
}

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#include "report.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <string_view>
#include <utility>

#include "disk_requests.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "progress.hpp"

namespace dmabridge::command {
namespace {

constexpr auto buffer_variable = "DMABRIDGE_BUFFER_FD";

auto attempted(const transfer_report& report) -> std::string {
  return report.way == direction::read ? fmt::format("load {} into the buffer", report.path)
                                       : fmt::format("save the buffer to {}", report.path);
}

auto io_remedy(int code) -> std::string {
  switch (code) {
    case ENODEV:
      return "the buffer's device went away; allocate a new buffer once its driver is bound again";
    case EREMOTEIO:
      return "the buffer was moved where this disk cannot reach it; dmabridge info --buffer says "
             "why, and for whom";
    case EIO:
      return "see the kernel log (dmesg) for what the disk reported";
    case ENOSPC:
      return "free space on that file system, or choose another";
    default:
      return {};
  }
}

void check_complete(const transfer_report& report) {
  const auto& result = report.result;
  error_details details{.kind = error_kind::io, .attempted = attempted(report)};
  if (result.error == -ECANCELED) {
    details.code = ECANCELED;
    details.detail =
        fmt::format("interrupted after {} of {} bytes", result.bytes, report.range.length);
    throw error(std::move(details));
  }
  if (result.error != 0) {
    details.code = -result.error;
    details.detail =
        fmt::format("failed at offset {} of {}, after {} of {} bytes", result.error_offset,
                    report.path, result.bytes, report.range.length);
    if (auto remedy = io_remedy(details.code); !remedy.empty()) {
      details.remedies.push_back(std::move(remedy));
    }
    throw error(std::move(details));
  }
  if (result.ended_early) {
    details.detail = fmt::format("the file shrank meanwhile: {} of {} bytes were still there",
                                 result.bytes, report.range.length);
    throw error(std::move(details));
  }
}

// Whether `bytes` by a route are in the spirit of the policy. Nobody can vouch for the zeros of
// holes, of which the disk has nothing to transfer; more unproved bytes than that are data.
auto allows(policy wanted, route how, std::uint64_t bytes, std::uint64_t hole_bytes) -> bool {
  if (bytes == 0 || wanted == policy::prefer) return true;
  if (wanted == policy::forbid) return !satisfies_require(how);
  return satisfies_require(how) || (how == route::unproved && bytes <= hole_bytes);
}

// The counters have the last word: a promise that was not kept is a failure, not a remark.
void check_routes(const transfer_report& report, policy wanted) {
  std::string wrong;
  for (std::size_t i = 0; i < report.result.routes.size(); ++i) {
    const auto& counted = report.result.routes[i];
    if (allows(wanted, static_cast<route>(i), counted.bytes, report.hole_bytes)) continue;
    wrong += fmt::format("{}{} bytes by route {}", wrong.empty() ? "" : ", ", counted.bytes,
                         to_string(static_cast<route>(i)));
  }
  if (wrong.empty()) return;
  throw error({.kind = error_kind::refused,
               .attempted = attempted(report),
               .detail = fmt::format("the policy is {}, but the kernel counted {}",
                                     to_string(wanted), wrong),
               .reasons = report.word.reasons,
               .unreported = report.word.unreported,
               .policy = report.word.policy});
}

auto bytes_per_second(const transfer_result& result) -> std::uint64_t {
  if (result.seconds <= 0) return 0;
  return static_cast<std::uint64_t>(static_cast<double>(result.bytes) / result.seconds);
}

void describe_buffer(transfer_report& report, const control* module,
                     const exported_memory& memory) {
  report.buffer_size = memory.size();
  if (module == nullptr) {
    report.buffer_unknown = "module dmabridge is not loaded";
    return;
  }
  try {
    report.buffer = module->query(memory.memory().descriptor());
  } catch (const error& unknown) {
    report.buffer_unknown = unknown.what();
  }
}

// The verdict's route is a promise, which nothing has kept if there was nothing to move.
auto taken_route(const transfer_report& report) -> std::string {
  const auto& word = report.word;
  const auto bound = fmt::format("{}, {}", to_string(word.route), to_string(word.state));
  return report.result.bytes == 0 ? "none taken, as there was nothing to move; bound as " + bound
                                  : bound;
}

// Whose word that is.
auto vouched_for(const transfer_report& report) -> std::string {
  switch (report.method) {
    case block_method::binding:
      return "by the kernel";
    case block_method::pinned_mapping:
      return "as io_uring on a mapping that can be pinned";
    case block_method::bounce:
      break;
  }
  return "as copies by " + report.owner;
}

auto where(const transfer_report& report) -> std::string {
  if (report.buffer) {
    return fmt::format("region {}, now in placement {}", report.buffer->region,
                       to_string(report.buffer->placement));
  }
  if (report.method != block_method::binding) return "memory of " + report.owner;
  return "placement unknown: " + report.buffer_unknown;
}

auto route_lines(const route_counters& routes) -> std::string {
  std::string lines;
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (routes[i].commands == 0) continue;
    lines += fmt::format("  {:<12}{} bytes in {} command(s)\n", to_string(static_cast<route>(i)),
                         routes[i].bytes, routes[i].commands);
  }
  return lines;
}

auto reason_lines(const verdict& word) -> std::string {
  std::string lines;
  for (const auto& why : word.reasons) lines += format_reason(why, "  ", word.policy) + "\n";
  if (word.unreported != 0) {
    lines += fmt::format("  and {} more reason(s) for which there was no room\n", word.unreported);
  }
  return lines;
}

}  // namespace

auto named_buffer(const std::string& spec, const surroundings& around) -> std::optional<buffer> {
  if (!spec.empty()) return buffer::from_spec(spec);
  const auto number = around.variable(buffer_variable);
  if (!number) return {};
  try {
    return buffer::from_spec("fd:" + *number);
  } catch (const error& failure) {
    // Nobody typed that name: say where it comes from.
    auto details = failure.details();
    details.attempted = fmt::format("use the buffer that {}=\"{}\" in the environment names",
                                    buffer_variable, *number);
    details.remedies = {
        "set it to the number of a dma-buf's fd that this process inherits, or unset "
        "it; --buffer names any buffer"};
    throw error(std::move(details));
  }
}

auto module_if_loaded() -> std::optional<control> {
  try {
    return control();
  } catch (const error& failure) {
    const auto code = failure.code();
    if (code != ENOENT && code != ENXIO && code != ENODEV) throw;
    return {};
  }
}

auto transfer(const transfer_arguments& wanted, direction way, const control* module,
              const exported_memory& memory, const transfer_target& target, surroundings& around)
    -> transfer_report {
  transfer_report report{
      .way = way,
      .path = wanted.path,
      .kind = target.kind,
      .range = {.file_offset = wanted.offset, .buffer_offset = wanted.at, .length = target.length},
      .hole_bytes = target.hole_bytes};
  const block_attachment between(module, memory, target.descriptor, wanted.path, wanted.policy,
                                 way);
  report.word = between.verdict();
  report.method = between.method();
  report.owner = memory.owner().name();

  progress_line line(around.err(), wanted.json ? std::nullopt : around.err_columns(),
                     way == direction::read ? "loading" : "saving", target.length);
  transfer_engine engine({.queue_depth = wanted.depth,
                          .block_size = wanted.block_size,
                          .progress = [&line](std::uint64_t done) { line.update(done); },
                          .stop = &around.interrupted()});
  const auto before = disk_requests(target.descriptor, way);
  report.result = way == direction::read ? engine.load(between, report.range)
                                         : engine.save(between, report.range);
  const auto after = disk_requests(target.descriptor, way);
  if (before && after) report.disk_requests = *after - *before;
  check_complete(report);
  check_routes(report, wanted.policy);
  // Asked while the binding lives, as the buffer may go back to its device with it.
  describe_buffer(report, module, memory);
  return report;
}

auto to_text(const transfer_report& report) -> std::string {
  const auto& result = report.result;
  const auto& word = report.word;
  const auto reading = report.way == direction::read;
  auto text =
      fmt::format("{} {} ({} bytes) {} {} offset {} {} the buffer {} offset {}\n",
                  reading ? "loaded" : "saved", format_size(result.bytes), result.bytes,
                  reading ? "from" : "to", report.path, report.range.file_offset,
                  reading ? "into" : "from", reading ? "at" : "from", report.range.buffer_offset);
  text += fmt::format("  {:<12}{} {} (policy {}{})\n", "route", taken_route(report),
                      vouched_for(report), word.policy ? to_string(*word.policy) : "conflict",
                      word.distance ? fmt::format(", PCI distance {}", *word.distance) : "");
  text += route_lines(result.routes);
  if (report.hole_bytes != 0) {
    text += fmt::format("  {:<12}{} bytes are holes of the file: zeros, of which no disk has any\n",
                        "holes", report.hole_bytes);
  }
  text += fmt::format("  {:<12}{} by io_uring{}\n", "commands", result.commands,
                      report.disk_requests
                          ? fmt::format("; the disk completed {} requests", *report.disk_requests)
                          : "");
  text += fmt::format("  {:<12}{:.3f} s, {}/s\n", "time", result.seconds,
                      format_size(bytes_per_second(result)));
  text += fmt::format("  {:<12}{}, {}\n", "buffer", format_size(report.buffer_size), where(report));
  return text + reason_lines(word);
}

auto to_json(const transfer_report& report) -> json {
  const auto& result = report.result;
  return {{"operation", report.way == direction::read ? "load" : "save"},
          {"path", report.path},
          {"target", report.kind == target_kind::file ? "file" : "block_device"},
          {"offset", report.range.file_offset},
          {"buffer_offset", report.range.buffer_offset},
          {"bytes", result.bytes},
          {"hole_bytes", report.hole_bytes},
          {"method", to_string(report.method)},
          {"owner", report.owner},
          {"verdict", to_json(report.word)},
          {"routes", to_json(result.routes)},
          {"commands", result.commands},
          {"disk_requests", report.disk_requests ? json(*report.disk_requests) : json(nullptr)},
          {"seconds", result.seconds},
          {"bytes_per_second", bytes_per_second(result)},
          {"buffer_size", report.buffer_size},
          {"buffer", report.buffer ? to_json(*report.buffer) : json(nullptr)}};
}

}  // namespace dmabridge::command

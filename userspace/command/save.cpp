// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <ostream>
#include <utility>

#include "dmabridge/any_memory.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "report.hpp"
#include "subcommands.hpp"

namespace dmabridge::command {
namespace {

// Space is reserved in whole units of this, so that the last write does not extend the file. A file
// system with larger ones extends it, and commit() cuts it to its length in any case.
constexpr std::uint64_t reserve_unit = 4096;

[[noreturn]] void misuse(const std::string& path, std::string detail, std::string remedy = {}) {
  error_details details{
      .kind = error_kind::usage, .attempted = "save to " + path, .detail = std::move(detail)};
  if (!remedy.empty()) details.remedies.push_back(std::move(remedy));
  throw error(std::move(details));
}

auto buffer_to_save(const save_arguments& wanted, const surroundings& around) -> buffer {
  auto named = named_buffer(wanted.buffer, around);
  if (!named) {
    misuse(wanted.path, "no buffer is named",
           "add --buffer fd:N or --buffer pid:PID:FD; dmabridge load --keep prints the latter");
  }
  return std::move(*named);
}

auto wanted_length(const save_arguments& wanted, const buffer& memory) -> std::uint64_t {
  const auto size = memory.size();
  if (wanted.at > size || wanted.length.value_or(0) > size - wanted.at) {
    misuse(wanted.path,
           fmt::format("{} bytes from offset {} on are more than the buffer's {} bytes ({})",
                       wanted.length.value_or(0), wanted.at, size, format_size(size)));
  }
  return wanted.length.value_or(size - wanted.at);
}

auto open_device(const save_arguments& wanted, std::uint64_t length) -> sink {
  if (!wanted.force) {
    misuse(wanted.path,
           fmt::format("it is a block device, and {} bytes from offset {} on would be overwritten",
                       length, wanted.offset),
           "add --force if nothing there is needed");
  }
  auto device = sink::open_block_device(wanted.path);
  if (wanted.offset > device.size() || length > device.size() - wanted.offset) {
    misuse(wanted.path,
           fmt::format("{} bytes from offset {} on are more than the device's {} bytes ({})",
                       length, wanted.offset, device.size(), format_size(device.size())));
  }
  if (const auto unit = device.unit(); length % unit != 0) {
    misuse(wanted.path,
           fmt::format("a block device is written in units of {} bytes; {} bytes would overwrite "
                       "what follows them",
                       unit, length),
           fmt::format("use --length {}, or save to a file", length / unit * unit));
  }
  return device;
}

auto open_file(const save_arguments& wanted, std::uint64_t length) -> sink {
  if (wanted.offset != 0) {
    misuse(wanted.path, "--offset is for block devices: a file is always written as a whole");
  }
  const auto reserve = (length + reserve_unit - 1) / reserve_unit * reserve_unit;
  return sink::create_file(wanted.path, reserve,
                           wanted.force ? sink::existing::replace : sink::existing::refuse);
}

}  // namespace

auto save(const save_arguments& wanted, surroundings& around) -> int {
  const auto memory = any_memory(buffer_to_save(wanted, around));
  const auto length = wanted_length(wanted, memory.memory());
  const auto module = module_if_loaded();
  auto into =
      sink::is_block_device(wanted.path) ? open_device(wanted, length) : open_file(wanted, length);
  const auto report =
      transfer(wanted, direction::write, module ? &*module : nullptr, memory,
               {.descriptor = into.descriptor(), .kind = into.kind(), .length = length}, around);
  into.commit(length);
  if (wanted.json) {
    around.out() << to_json(report).dump(2) << '\n';
  } else {
    around.out() << to_text(report);
  }
  return exit_ok;
}

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// What load and save tell about a transfer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "arguments.hpp"
#include "command.hpp"
#include "dmabridge/block_attachment.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/exported_memory.hpp"
#include "dmabridge/target.hpp"
#include "dmabridge/transfer.hpp"
#include "json.hpp"

namespace dmabridge::command {

struct transfer_report {
  direction way = direction::read;
  std::string path{};
  target_kind kind = target_kind::file;
  transfer_range range{};
  std::uint64_t hole_bytes = 0;  // of the range
  verdict word{};                // at bind
  block_method method = block_method::binding;
  std::string owner{};  // of the memory
  transfer_result result{};
  std::optional<std::uint64_t> disk_requests{};  // that the disk completed meanwhile
  std::uint64_t buffer_size = 0;
  std::optional<buffer_info> buffer{};  // afterwards; nothing: not a buffer of ours, or no module
  std::string buffer_unknown{};         // why nothing
};

// The buffer that `spec`, or without it $DMABRIDGE_BUFFER_FD, names; nothing if there is neither.
auto named_buffer(const std::string& spec, const surroundings& around) -> std::optional<buffer>;

// The other end of a transfer.
struct transfer_target {
  int descriptor = -1;  // open for the transfer's direction
  target_kind kind = target_kind::file;
  std::uint64_t length = 0;      // to be moved
  std::uint64_t hole_bytes = 0;  // of these, in holes of the file
};

// Joins, moves, checks. `module`: nullptr if there is none. Throws dmabridge::error if anything of
// the range did not arrive, or went another way than the policy allows.
auto transfer(const transfer_arguments& wanted, direction way, const control* module,
              const exported_memory& memory, const transfer_target& target, surroundings& around)
    -> transfer_report;

// The module, which memory of others does without; nothing: it is not loaded. Throws
// dmabridge::error if it cannot be used for another reason.
auto module_if_loaded() -> std::optional<control>;

auto to_text(const transfer_report& report) -> std::string;
auto to_json(const transfer_report& report) -> json;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#include "account.hpp"

#include <algorithm>

namespace dmabridge::oracle {

bool touches(const Command& command, std::span<const Extent> extents) {
  const std::uint64_t block = command.bytes / command.blocks;
  const std::uint64_t start = command.lba * block, end = start + command.bytes;
  return std::ranges::any_of(extents, [&](const Extent& extent) {
    return start < extent.offset + extent.length && extent.offset < end;
  });
}

Account account(std::span<const Command> commands, const Question& question) {
  Account result;
  for (const Command& command : commands) {
    if (command.nsid != question.nsid || command.operation != question.operation) continue;
    Traffic& traffic = touches(command, question.extents) ? result.payload : result.metadata;
    traffic.commands++;
    std::uint64_t mapped = 0;
    for (const DmaTarget& target : command.targets) {
      (question.window.holds(target) ? traffic.inside : traffic.outside) += target.length;
      mapped += target.length;
    }
    traffic.unmapped += command.bytes - std::min(mapped, command.bytes);
  }
  return result;
}

}  // namespace dmabridge::oracle

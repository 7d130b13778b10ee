// SPDX-License-Identifier: MIT
#include "dmabridge/block_attachment.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "direct_io.hpp"
#include "dmabridge/error.hpp"

namespace dmabridge {
namespace {

// As a binding has it, and for the same reason: it bounds the work of one command.
constexpr std::uint32_t most_of_a_command = 16 << 20;

auto against(std::uint32_t code, std::string name) -> reason {
  return {.code = code, .blocks_p2p = true, .name = std::move(name)};
}

// That the memory is not ours, rather than anything about the target or the policies. The module
// does not look at whose it is before it has an importer.
auto is_about_foreign_memory(const error& refusal, const buffer& memory) -> bool {
  const auto says = [&](std::uint32_t code) {
    return std::ranges::find(refusal.reasons(), code, &reason::code) != refusal.reasons().end();
  };
  if (refusal.code() == EMEDIUMTYPE || says(DMABRIDGE_REASON_FOREIGN_BUFFER)) return true;
  return says(DMABRIDGE_REASON_NO_IMPORTER) && memory.exporter() != "dmabridge";
}

}  // namespace

auto to_string(block_method value) -> std::string {
  switch (value) {
    case block_method::binding:
      return "binding";
    case block_method::pinned_mapping:
      return "pinned_mapping";
    case block_method::bounce:
      break;
  }
  return "bounce";
}

block_attachment::block_attachment(const control* module, const exported_memory& memory, int target,
                                   const std::string& name, policy wanted, direction way)
    : memory_(&memory) {
  if (module != nullptr && bind(*module, target, name, wanted, way)) return;
  verdict_.policy = wanted;
  if (verdict_.reasons.empty()) {
    verdict_.reasons = {against(DMABRIDGE_REASON_FOREIGN_BUFFER, memory.memory().exporter())};
  }
  refuse_if_required(name, wanted);
  go_direct(target, name, way);
}

// False: the memory is not ours, and verdict_ has the kernel's reasons.
auto block_attachment::bind(const control& module, int target, const std::string& name,
                            policy wanted, direction way) -> bool {
  try {
    binding_.emplace(module, memory_->memory(), target, name, wanted, way);
  } catch (const error& refusal) {
    if (wanted == policy::require || !is_about_foreign_memory(refusal, memory_->memory())) {
      throw;
    }
    verdict_.reasons = refusal.reasons();
    return false;
  }
  method_ = block_method::binding;
  verdict_ = binding_->verdict();
  return true;
}

void block_attachment::refuse_if_required(const std::string& name, policy wanted) const {
  if (wanted != policy::require) return;
  throw error({.kind = error_kind::refused,
               .attempted = fmt::format("join {} with memory of {} peer to peer", name,
                                        memory_->owner().name()),
               .reasons = verdict_.reasons,
               .policy = wanted,
               .remedies = {
                   "if the memory is a dmabridge region's: load the module (modprobe dmabridge)"}});
}

void block_attachment::go_direct(int target, const std::string& name, direction way) {
  auto file = open_direct(target, name, way);
  target_ = std::move(file.descriptor);
  offset_align_ = file.offset_align;
  memory_align_ = file.memory_align;
  if (file.direct && !memory_->owner().pinnable().empty()) {
    method_ = block_method::pinned_mapping;
    verdict_.state = verdict_state::predicted;
    verdict_.route = route::system;
    return;
  }
  method_ = block_method::bounce;
  verdict_.state = verdict_state::confirmed;
  verdict_.route = route::bounce;
  if (!file.direct) verdict_.reasons.push_back(against(DMABRIDGE_REASON_FILE_NO_DIRECT_IO, name));
}

auto block_attachment::info() const -> binding_info {
  if (!binding_) {
    return {.offset_align = offset_align_,
            // A bounce goes through memory of ours, which is aligned as well as can be.
            .memory_align = method_ == block_method::pinned_mapping ? memory_align_ : 1,
            .max_length = most_of_a_command,
            .buffer_size = memory_->size(),
            .verdict = verdict_};
  }
  auto limits = binding_->info();
  limits.buffer_size = memory_->size();
  return limits;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/block_importer.hpp"

#include <fmt/format.h>
#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "dmabridge/error.hpp"
#include "ioctl_failure.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto describe(direction way) -> const char* {
  switch (way) {
    case direction::read:
      return "reading";
    case direction::write:
      return "writing";
    case direction::both:
      break;
  }
  return "reading and writing";
}

void prepare(io_uring_sqe& sqe, int binding, std::uint32_t operation, std::uint64_t file_offset,
             std::uint64_t buffer_offset, std::uint32_t length) noexcept {
  static_assert(sizeof(dmabridge_uring_cmd) <= 16, "it has to fit a 64-byte SQE");
  const dmabridge_uring_cmd command{.file_offset = file_offset, .flags = 0, .__reserved = 0};
  // Not the whole of sqe: that of an IORING_SETUP_SQE128 ring is larger than this type.
  std::memset(&sqe, 0, 64);
  sqe.opcode = IORING_OP_URING_CMD;
  sqe.fd = binding;
  sqe.cmd_op = operation;
  sqe.addr = buffer_offset;
  sqe.len = length;
  std::memcpy(sqe.cmd, &command, sizeof(command));
}

}  // namespace

binding::binding(const control& module, const buffer& memory, int target, const std::string& name,
                 policy wanted, direction way) {
  dmabridge_bind raw{};
  raw.fd = memory.descriptor();
  raw.target_fd = target;
  raw.importer = DMABRIDGE_IMPORTER_BLOCK;
  raw.policy = static_cast<std::uint32_t>(wanted);
  raw.flags = static_cast<std::uint32_t>(way);
  raw.binding_fd = -1;
  const auto result = sys().ioctl(module.descriptor(), DMABRIDGE_IOCTL_BIND, &raw);
  if (result < 0) {
    auto details = ioctl_failure(fmt::format("bind {} to the buffer for {} under policy {}", name,
                                             describe(way), to_string(wanted)),
                                 -result, module.abi_version());
    add_verdict(details, raw.verdict);
    if (const auto held = raw.verdict.policy; held != 0 && held != raw.policy) {
      details.detail = fmt::format("together with the buffer's own policy that is {}",
                                   to_string(static_cast<policy>(held)));
    }
    throw error(std::move(details));
  }
  fd_ = fd(raw.binding_fd);
  verdict_ = verdict::from_kernel(raw.verdict);
}

auto binding::info() const -> binding_info {
  dmabridge_binding_info raw{};
  const auto result = sys().ioctl(descriptor(), DMABRIDGE_IOCTL_BINDING, &raw);
  if (result < 0) {
    throw error(ioctl_failure("ask a binding for its counters", -result, DMABRIDGE_ABI_VERSION));
  }
  binding_info info;
  info.offset_align = raw.offset_align;
  info.memory_align = raw.memory_align;
  info.max_length = raw.max_length;
  info.buffer_size = raw.buffer_size;
  info.errors = raw.errors;
  info.reissued = raw.reissued;
  info.generation = raw.generation;
  for (std::size_t i = 0; i < info.routes.size(); ++i) {
    info.routes[i] = {.commands = raw.routes[i].commands, .bytes = raw.routes[i].bytes};
  }
  info.verdict = verdict::from_kernel(raw.verdict);
  return info;
}

void binding::prepare_read(io_uring_sqe& sqe, std::uint64_t file_offset,
                           std::uint64_t buffer_offset, std::uint32_t length) const noexcept {
  prepare(sqe, descriptor(), DMABRIDGE_URING_READ, file_offset, buffer_offset, length);
}

void binding::prepare_write(io_uring_sqe& sqe, std::uint64_t file_offset,
                            std::uint64_t buffer_offset, std::uint32_t length) const noexcept {
  prepare(sqe, descriptor(), DMABRIDGE_URING_WRITE, file_offset, buffer_offset, length);
}

}  // namespace dmabridge

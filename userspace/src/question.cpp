// SPDX-License-Identifier: MIT
#include "question.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "dmabridge/error.hpp"
#include "ioctl_failure.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto function_subject(const importer_facts& importer) -> attempt<subject> {
  if (importer.functions.size() != 1) {
    return {.obstacle = obstacle_of(importer.name,
                                    "the kernel is asked about PCI functions and files, and "
                                    "this is neither",
                                    "")};
  }
  subject one{
      .kind = DMABRIDGE_NEGOTIATE_PCI, .flags = 0, .device = importer.functions.front().pack()};
  if (importer.is_static) {
    one.flags = DMABRIDGE_NEGOTIATE_STATIC;
  } else {
    if (importer.peer2peer) one.flags |= DMABRIDGE_NEGOTIATE_PEER2PEER;
    if (importer.revocable) one.flags |= DMABRIDGE_NEGOTIATE_REVOCABLE;
  }
  return {.result = std::move(one)};
}

// What refuses an importer whatever the memory: nothing is learnt about the two of them.
auto is_about_target_only(const reason& why) -> bool {
  constexpr auto codes = std::to_array<std::uint32_t>(
      {DMABRIDGE_REASON_TARGET_NOT_BLOCK, DMABRIDGE_REASON_TARGET_READ_ONLY,
       DMABRIDGE_REASON_TARGET_NOT_READABLE, DMABRIDGE_REASON_TARGET_BUSY,
       DMABRIDGE_REASON_NO_IMPORTER});
  return std::ranges::find(codes, why.code) != codes.end();
}

// Of a question that makes no sense to any importer, or to this module. That memory is another
// exporter's, and not to be had, is an answer if such was asked about.
auto is_hopeless(int result, memory_of whose) -> bool {
  switch (-result) {
    case ENOTTY:
    case E2BIG:
    case EINVAL:
    case EFAULT:
    case EBADF:
    case ENOENT:
    case ENOSPC:
    case EINTR:
    case ENOMEM:
      return true;
    case EMEDIUMTYPE:
      return whose == memory_of::region;
    default:
      return false;
  }
}

[[noreturn]] void fail(const control& module, const std::string& name, int result,
                       const dmabridge_verdict& verdict) {
  auto details =
      ioctl_failure(fmt::format("ask the kernel about {}", name), -result, module.abi_version());
  add_verdict(details, verdict);
  throw error(std::move(details));
}

}  // namespace

auto obstacle_of(const std::string& name, std::string why, std::string remedy) -> unread_fact {
  return {fmt::format("the kernel's word on {}", name), std::move(why), std::move(remedy)};
}

auto open_subject(const std::string& name, const std::string& path) -> attempt<subject> {
  std::error_code ec;
  auto target = fd::open(path, O_RDONLY | O_NONBLOCK, 0, ec);
  if (!ec) return {.result = subject{.target = std::move(target)}};
  const auto forbidden = ec.value() == EACCES || ec.value() == EPERM;
  return {
      .obstacle = obstacle_of(
          name, fmt::format("{} cannot be opened: {}", path, errno_text(ec.value())),
          forbidden ? "ask as a user who may read it (a block device: root or group disk)" : "")};
}

auto node_of(const std::string& disk) -> std::string {
  return disk.starts_with('/') ? disk : "/dev/" + disk;
}

auto subject_of(const importer_facts& importer) -> attempt<subject> {
  switch (importer.kind) {
    case importer_kind::block:
      return open_subject(importer.name, node_of(importer.name));
    case importer_kind::file:
      return open_subject(importer.name, importer.name);
    default:
      return function_subject(importer);
  }
}

auto ask(const control& module, const std::string& name, const subject& who,
         dmabridge_negotiate question, memory_of whose) -> attempt<verdict> {
  question.kind = who.kind;
  question.flags = who.flags;
  question.target_fd = who.kind == DMABRIDGE_NEGOTIATE_FILE ? who.target.get() : -1;
  question.device = who.device;
  const auto result = sys().ioctl(module.descriptor(), DMABRIDGE_IOCTL_NEGOTIATE, &question);
  if (result < 0 && is_hopeless(result, whose)) fail(module, name, result, question.verdict);

  auto word = verdict::from_kernel(question.verdict);
  if (result < 0 && word.reasons.empty()) {
    return {.obstacle = obstacle_of(name, fmt::format("it says {}", errno_text(-result)), "")};
  }
  const auto unasked = std::ranges::find_if(word.reasons, is_about_target_only);
  if (unasked != word.reasons.end()) {
    return {.obstacle = obstacle_of(name, unasked->text(), unasked->remedy())};
  }
  return {.result = std::move(word)};
}

void mark_confirmed(plan& joint, const std::vector<bool>& heard,
                    std::vector<unread_fact> obstacles) {
  auto obstacle = obstacles.begin();
  for (std::size_t i = 0; i < heard.size(); ++i) {
    if (heard[i]) {
      joint.importers[i].word.state = verdict_state::confirmed;
    } else {
      joint.importers[i].missing.push_back(std::move(*obstacle++));
    }
  }
  if (!heard.empty() && std::ranges::find(heard, false) == heard.end()) {
    joint.state = verdict_state::confirmed;
  }
}

}  // namespace dmabridge

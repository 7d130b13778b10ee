// SPDX-License-Identifier: MIT
#include "dmabridge/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

namespace dmabridge {
namespace {

// Numbers that are for use inside the kernel (include/linux/errno.h) and yet reach user space now
// and then. libc has no names for them.
struct private_errno {
  int code;
  std::string_view name;
  std::string_view text;
};
constexpr auto private_errnos = std::to_array<private_errno>({
    {512, "ERESTARTSYS", "interrupted, and not restarted"},
    {513, "ERESTARTNOINTR", "interrupted, and not restarted"},
    {514, "ERESTARTNOHAND", "interrupted, and not restarted"},
    {515, "ENOIOCTLCMD", "no such ioctl"},
    {516, "ERESTART_RESTARTBLOCK", "interrupted, and not restarted"},
    {517, "EPROBE_DEFER", "the driver wants to be probed later"},
    {518, "EOPENSTALE", "stale file handle at open"},
    {519, "ENOPARAM", "no such parameter"},
    {521, "EBADHANDLE", "bad NFS file handle"},
    {522, "ENOTSYNC", "update synchronization mismatch"},
    {523, "EBADCOOKIE", "stale cookie"},
    {524, "ENOTSUPP", "operation not supported (kernel-private number)"},
    {525, "ETOOSMALL", "buffer or request too small"},
    {526, "ESERVERFAULT", "untranslatable error of a server"},
    {527, "EBADTYPE", "type not supported by the server"},
    {528, "EJUKEBOX", "the request takes long; try again later"},
    {529, "EIOCBQUEUED", "queued, completion will follow"},
    {530, "ERECALLCONFLICT", "conflict with a recalled state"},
});

auto find_private(int code) -> const private_errno* {
  const auto found = std::ranges::find(private_errnos, code, &private_errno::code);
  return found != private_errnos.end() ? &*found : nullptr;
}

auto compose(const error_details& details) -> std::string {
  auto text = "cannot " + details.attempted;
  if (!details.detail.empty()) text += ": " + details.detail;
  if (details.code != 0) {
    text += fmt::format("{}{} ({})", details.detail.empty() ? ": " : " — ",
                        errno_name(details.code), errno_text(details.code));
  }
  for (const auto& why : details.reasons) text += "\n" + format_reason(why, "  ", details.policy);
  if (details.unreported != 0) {
    text +=
        fmt::format("\n  and {} more reason(s) for which there was no room", details.unreported);
  }
  for (const auto& remedy : details.remedies) text += "\n  to fix it: " + remedy;
  return text;
}

}  // namespace

error::error(error_details details) : details_(std::move(details)), message_(compose(details_)) {}

auto to_string(error_kind kind) -> std::string {
  switch (kind) {
    case error_kind::system:
      return "system";
    case error_kind::refused:
      return "refused";
    case error_kind::io:
      return "io";
    case error_kind::usage:
      return "usage";
  }
  return fmt::format("unknown_kind_{}", static_cast<int>(kind));
}

auto errno_name(int code) -> std::string {
  if (const auto* name = strerrorname_np(code); name != nullptr) return name;
  if (const auto* known = find_private(code); known != nullptr) return std::string(known->name);
  return fmt::format("errno {}", code);
}

auto errno_text(int code) -> std::string {
  if (const auto* text = strerrordesc_np(code); text != nullptr) return text;
  if (const auto* known = find_private(code); known != nullptr) return std::string(known->text);
  return "unknown to this library";
}

auto format_reason(const reason& why, const std::string& indent, std::optional<policy> in_force)
    -> std::string {
  auto text = fmt::format("{}reason: {} [{}]", indent, why.text(), why.id());
  if (const auto evidence = why.evidence(); !evidence.empty()) {
    text += fmt::format("\n{}  evidence: {}", indent, evidence);
  }
  if (const auto remedy = why.remedy(in_force); !remedy.empty()) {
    text += fmt::format("\n{}  to fix it: {}", indent, remedy);
  }
  return text;
}

}  // namespace dmabridge

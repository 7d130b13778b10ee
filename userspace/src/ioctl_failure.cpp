// SPDX-License-Identifier: MIT
#include "ioctl_failure.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "dmabridge/verdict.hpp"

namespace dmabridge {

auto ioctl_failure(std::string attempted, int code, std::uint32_t abi_version) -> error_details {
  error_details details{
      .kind = error_kind::system, .attempted = std::move(attempted), .code = code};
  const auto versions = fmt::format("the module speaks ABI {}, this library ABI {}", abi_version,
                                    DMABRIDGE_ABI_VERSION);
  switch (code) {
    case ENOTTY:
      details.detail =
          abi_version == 0
              ? "this is no dmabridge node, or its module is older than any that this library knows"
              : "the kernel module lacks this call: it is older than this library (" + versions +
                    ")";
      details.remedies = {"update and reload the dmabridge kernel modules"};
      break;
    case E2BIG:
      details.detail = "the kernel module lacks a feature that was asked for (" + versions + ")";
      details.remedies = {"update and reload the dmabridge kernel modules"};
      break;
    default:
      if (abi_version > DMABRIDGE_ABI_VERSION) {
        details.remedies = {"the module is newer than this library (" + versions +
                            "); updating this library may explain more"};
      }
      break;
  }
  return details;
}

void add_verdict(error_details& details, const dmabridge_verdict& raw) {
  auto word = verdict::from_kernel(raw);
  if (word.reasons.empty()) return;
  details.kind = error_kind::refused;
  details.reasons = std::move(word.reasons);
  details.unreported = word.unreported;
  details.policy = word.policy;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// The one exception of this library.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/reason.hpp"

namespace dmabridge {

enum class error_kind {
  system,   // this machine cannot: no module, no permission, a system call failed
  refused,  // a verdict says no
  io,       // bytes were on their way
  usage,    // what was asked for makes no sense
};

DMABRIDGE_API auto to_string(error_kind kind) -> std::string;

struct error_details {
  error_kind kind = error_kind::system;
  std::string attempted;                      // "allocate 256 MiB in region vram": follows "cannot"
  int code = 0;                               // errno, positive; 0: none
  std::string detail{};                       // what is wrong, if neither code nor reasons say it
  std::vector<reason> reasons{};              // all of them, not just the first
  std::uint32_t unreported = 0;               // reasons for which the kernel had no room
  std::optional<dmabridge::policy> policy{};  // of the verdict that they are from
  std::vector<std::string> remedies{};        // what to do, besides the remedies of the reasons
};

class DMABRIDGE_API error : public std::exception {
 public:
  explicit error(error_details details);

  auto details() const noexcept -> const error_details& { return details_; }
  auto kind() const noexcept -> error_kind { return details_.kind; }
  auto code() const noexcept -> int { return details_.code; }
  auto reasons() const noexcept -> const std::vector<reason>& { return details_.reasons; }

  // Several lines: what was tried, every reason with its evidence, every remedy. No newline at the
  // end.
  auto what() const noexcept -> const char* override { return message_.c_str(); }

 private:
  error_details details_;
  std::string message_;
};

// "EOPNOTSUPP"; also those that only the kernel has, as "ENOTSUPP" for 524; "errno 4000" else.
DMABRIDGE_API auto errno_name(int code) -> std::string;
// "operation not supported"
DMABRIDGE_API auto errno_text(int code) -> std::string;

// As it stands in error::what(), with `indent` before every line. `in_force`: as of
// reason::remedy().
DMABRIDGE_API auto format_reason(const reason& why, const std::string& indent,
                                 std::optional<policy> in_force = {}) -> std::string;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "kernel_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace dmabridge::test::conformance {
namespace {

// What a reader of the log would stop at. tests/lib/kernel_log.py is the strict one, for the
// project's own runs.
constexpr const char* faults[] = {"WARNING: ",
                                  "BUG: ",
                                  "kernel BUG at",
                                  "Oops",
                                  "KASAN",
                                  "KFENCE",
                                  "UBSAN",
                                  "DMA-API: ",
                                  "refcount_t: ",
                                  "Unable to handle kernel",
                                  "page still referenced",
                                  "possible circular locking",
                                  "list_add corruption",
                                  "list_del corruption",
                                  "general protection fault"};

}  // namespace

KernelLog::KernelLog() : fd_(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)) {
  if (fd_) lseek(fd_.get(), 0, SEEK_END);
}

std::string KernelLog::fault() {
  std::string found;
  std::array<char, 8192> record;
  for (;;) {
    const ssize_t got = fd_ ? read(fd_.get(), record.data(), record.size()) : -1;
    // EPIPE: records were lost; the next read goes on behind them.
    if (got < 0 && fd_ && errno == EPIPE) continue;
    if (got <= 0) return found;
    std::string line(record.data(), static_cast<std::size_t>(got));
    line = line.substr(std::min(line.size(), line.find(';') + 1));
    line = line.substr(0, line.find('\n'));
    if (found.empty() && std::ranges::any_of(faults, [&](const char* fault) {
          return line.find(fault) != std::string::npos;
        }))
      found = line;
  }
}

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
#include "kernel_log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "drives.hpp"

namespace dmabridge::test {

KernelLog::KernelLog() : file_(open_file("/dev/kmsg", O_RDONLY | O_NONBLOCK)) {
  if (lseek(file_.get(), 0, SEEK_END) < 0)
    throw std::system_error(errno, std::generic_category(), "the kernel's log");
}

std::optional<std::string> KernelLog::next() const {
  std::array<char, 8192> record;
  ssize_t got = 0;
  do {
    got = read(file_.get(), record.data(), record.size());
  } while (got < 0 && errno == EPIPE);  // lines were lost: these are the oldest that are left
  if (got < 0 && errno == EAGAIN) return std::nullopt;
  if (got < 0) throw std::system_error(errno, std::generic_category(), "the kernel's log");
  return std::string(record.data(), static_cast<std::size_t>(got));
}

std::optional<std::string> KernelLog::find(const std::string& text) const {
  while (const auto line = next()) {
    if (const auto at = line->find(text); at != std::string::npos) return line->substr(at);
  }
  return std::nullopt;
}

}  // namespace dmabridge::test

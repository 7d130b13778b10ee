// SPDX-License-Identifier: MIT
#include "tracing.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <system_error>

#include "fixture.hpp"

namespace dmabridge::test {

Tracing::Tracing(const std::string& subsystem, pid_t thread)
    : path_(fmt::format("/sys/kernel/tracing/instances/test-{}", getpid())),
      events_(fmt::format("{}/events/{}", path_, subsystem)) {
  if (mkdir(path_.c_str(), 0700) != 0)
    throw std::system_error(errno, std::generic_category(), path_);
  int error = thread == 0 ? 0 : write_text(path_ + "/set_event_pid", std::to_string(thread));
  if (error == 0) error = write_text(events_ + "/enable", "1");
  if (error != 0) {
    end();
    throw std::system_error(-error, std::generic_category(), events_);
  }
}

Tracing::~Tracing() {
  end();
}

void Tracing::end() noexcept {
  write_text(events_ + "/enable", "0");
  rmdir(path_.c_str());
}

int Tracing::filter(const std::string& event, const std::string& text) {
  return write_text(fmt::format("{}/{}/filter", events_, event), text);
}

std::vector<std::string> Tracing::events(const std::string& name) const {
  std::vector<std::string> found;
  std::ifstream file(path_ + "/trace");
  for (std::string line; std::getline(file, line);) {
    const std::string mark = ": " + name + ": ";
    const auto at = line.find(mark);
    if (at != std::string::npos) found.push_back(line.substr(at + mark.size()));
  }
  return found;
}

}  // namespace dmabridge::test

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

Tracing::Tracing() : path_(fmt::format("/sys/kernel/tracing/instances/test-{}", getpid())) {
  if (mkdir(path_.c_str(), 0700) != 0)
    throw std::system_error(errno, std::generic_category(), path_);
  const int error = write_text(path_ + "/events/dmabridge/enable", "1");
  if (error != 0) {
    rmdir(path_.c_str());
    throw std::system_error(-error, std::generic_category(), path_ + "/events/dmabridge/enable");
  }
}

Tracing::~Tracing() {
  write_text(path_ + "/events/dmabridge/enable", "0");
  rmdir(path_.c_str());
}

int Tracing::filter(const std::string& event, const std::string& text) {
  return write_text(fmt::format("{}/events/dmabridge/{}/filter", path_, event), text);
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

// SPDX-License-Identifier: MIT
#include "fdinfo.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace dmabridge::test::conformance {

Fdinfo::Fdinfo(int fd) {
  std::ifstream file(fmt::format("/proc/self/fdinfo/{}", fd));
  if (!file) throw std::runtime_error(fmt::format("cannot read /proc/self/fdinfo/{}", fd));
  all_.assign(std::istreambuf_iterator<char>(file), {});
}

std::string Fdinfo::text(const std::string& key) const {
  std::istringstream lines(all_);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key + ":\t")) return line.substr(key.size() + 2);
  return "";
}

std::uint64_t Fdinfo::number(const std::string& key) const {
  const std::string value = text(key);
  if (value.empty()) throw std::runtime_error("fdinfo does not tell " + key);
  return std::stoull(value);
}

}  // namespace dmabridge::test::conformance

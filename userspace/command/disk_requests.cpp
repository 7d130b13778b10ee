// SPDX-License-Identifier: MIT
#include "disk_requests.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <fstream>

namespace dmabridge::command {

// Fields of Documentation/block/stat.rst.
constexpr std::size_t reads_completed = 0;
constexpr std::size_t writes_completed = 4;

auto disk_requests(int target, direction way) -> std::optional<std::uint64_t> {
  struct stat found{};
  if (::fstat(target, &found) != 0) return {};
  const auto device = S_ISBLK(found.st_mode) ? found.st_rdev : found.st_dev;
  std::ifstream file(fmt::format("/sys/dev/block/{}:{}/stat", major(device), minor(device)));
  std::array<std::uint64_t, writes_completed + 1> fields{};
  for (auto& field : fields) file >> field;
  if (!file) return {};
  return fields[way == direction::read ? reads_completed : writes_completed];
}

}  // namespace dmabridge::command

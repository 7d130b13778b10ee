// SPDX-License-Identifier: MIT
#include "machine.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>
#include <stdexcept>
#include <system_error>

namespace dmabridge::oracle {
namespace {

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\n')) text.pop_back();
  return text;
}

}  // namespace

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (!std::getline(file, text)) throw std::runtime_error(fmt::format("cannot read {}", path));
  return trimmed(text);
}

std::string Namespace::image() const {
  return fmt::format("disk-{}-n{}.img", serial, nsid);
}

std::optional<Namespace> namespace_of(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0) throw std::system_error(errno, std::generic_category(), "fstat");
  const dev_t device = S_ISBLK(status.st_mode) ? status.st_rdev : status.st_dev;
  const std::string folder = fmt::format("/sys/dev/block/{}:{}", major(device), minor(device));
  std::error_code error;
  const std::filesystem::path real = std::filesystem::canonical(folder, error);
  if (error || !std::filesystem::exists(real / "nsid")) return std::nullopt;
  Namespace result;
  result.nsid = static_cast<std::uint32_t>(std::stoul(read_line(real / "nsid")));
  result.serial = read_line(real / "device" / "serial");
  result.disk = real.filename();
  return result;
}

Window bar_window(const std::string& address, unsigned bar) {
  const std::string path = fmt::format("/sys/bus/pci/devices/{}/resource", address);
  std::ifstream file(path);
  std::string text;
  for (unsigned i = 0; i <= bar; i++) {
    if (!std::getline(file, text))
      throw std::runtime_error(fmt::format("{} has no line for BAR {}", path, bar));
  }
  std::istringstream fields(text);
  std::uint64_t start = 0, end = 0;
  fields >> std::setbase(0) >> start >> end;
  // Without CAP_SYS_ADMIN the kernel shows zeros.
  if (!fields || start == 0 || end < start)
    throw std::runtime_error(
        fmt::format("{} shows no address for BAR {}; this needs root", path, bar));
  return {start, end - start + 1};
}

}  // namespace dmabridge::oracle

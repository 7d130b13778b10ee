// SPDX-License-Identifier: MIT
#include "sysfs.hpp"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "dmabridge/fd.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

namespace filesystem = std::filesystem;

constexpr std::size_t longest_file = std::size_t{16} << 20;

}  // namespace

auto read_file(const std::string& path) -> file_text {
  std::error_code ec;
  // Not to wait: there are files whose next line is still to come.
  const auto file = fd::open(path, O_RDONLY | O_NONBLOCK, 0, ec);
  if (ec) return {.code = ec.value()};
  std::string text;
  std::array<char, 4096> part;
  for (;;) {
    const auto got = sys().read(file.get(), part.data(), part.size());
    if (got < 0) return {.code = static_cast<int>(-got)};
    if (got == 0) break;
    text.append(part.data(), static_cast<std::size_t>(got));
    if (text.size() > longest_file) return {.code = EFBIG};
  }
  if (text.ends_with('\n')) text.pop_back();
  return {.text = std::move(text)};
}

auto read_number(const std::string& path) -> std::optional<unsigned long long> {
  const auto file = read_file(path);
  if (!file) return {};
  unsigned long long value = 0;
  const auto* end = file.text->data() + file.text->size();
  const auto [stopped, ec] = std::from_chars(file.text->data(), end, value);
  if (ec != std::errc{} || stopped != end) return {};
  return value;
}

auto read_flag(const std::string& path) -> std::optional<bool> {
  const auto value = read_number(path);
  if (!value || *value > 1) return {};
  return *value == 1;
}

auto names_in(const std::string& folder) -> std::vector<std::string> {
  std::vector<std::string> names;
  std::error_code ec;
  filesystem::directory_iterator entries(folder, ec);
  for (; !ec && entries != filesystem::directory_iterator{}; entries.increment(ec))
    names.push_back(entries->path().filename());
  std::ranges::sort(names);
  return names;
}

auto exists(const std::string& path) -> bool {
  std::error_code ec;
  return filesystem::exists(path, ec);
}

auto link_name(const std::string& link) -> std::string {
  std::error_code ec;
  return filesystem::read_symlink(link, ec).filename();
}

auto function_of(const std::string& device) -> std::optional<pci_address> {
  std::error_code ec;
  auto path = filesystem::canonical(device, ec);
  for (; path.has_relative_path(); path = path.parent_path()) {
    const auto name = path.filename().string();
    // In full: a name may look like a shorter form by chance.
    const auto address = pci_address::parse(name);
    if (address && to_string(*address) == name) return address;
  }
  return {};
}

auto folder_name_of(const std::string& device) -> std::string {
  std::error_code ec;
  return filesystem::canonical(device, ec).parent_path().filename();
}

}  // namespace dmabridge

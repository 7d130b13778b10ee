// SPDX-License-Identifier: MIT
#include "held_buffers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string_view>
#include <system_error>

namespace dmabridge::command {
namespace {

namespace files = std::filesystem;

constexpr std::string_view our_exporter = "dmabridge";

template <typename Number>
auto number_of(std::string_view text) -> std::optional<Number> {
  Number value{};
  const auto* end = text.data() + text.size();
  const auto [rest, ec] = std::from_chars(text.data(), end, value);
  return ec == std::errc{} && rest == end ? std::optional(value) : std::nullopt;
}

// The names of a folder's entries that are numbers, ascending.
auto numbers_in(const files::path& folder, std::error_code& ec) -> std::vector<int> {
  std::vector<int> numbers;
  files::directory_iterator entry(folder, ec);
  while (!ec && entry != files::directory_iterator()) {
    if (const auto number = number_of<int>(entry->path().filename().native())) {
      numbers.push_back(*number);
    }
    entry.increment(ec);
  }
  std::ranges::sort(numbers);
  return numbers;
}

// The lines of a file of fdinfo that say what dma-buf it is: "size:\t4096". The first of a kind
// counts: what comes last is a name that anybody may have chosen, line breaks and all.
auto described(const files::path& fdinfo) -> std::map<std::string, std::string> {
  std::map<std::string, std::string> fields;
  std::ifstream file(fdinfo);
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    const auto value = line.find_first_not_of(" \t", colon + 1);
    fields.try_emplace(line.substr(0, colon), value == std::string::npos ? "" : line.substr(value));
  }
  return fields;
}

auto command_of(const files::path& process) -> std::string {
  std::ifstream file(process / "comm");
  std::string name;
  std::getline(file, name);
  return name;
}

// Whether it is a dma-buf at all costs one system call instead of the reading of a file.
auto may_be_dma_buf(const files::path& link) -> bool {
  std::error_code ec;
  return files::read_symlink(link, ec).native().starts_with("/dmabuf:");
}

}  // namespace

auto spec_of(const holder& who) -> std::string {
  return fmt::format("pid:{}:{}", who.pid, who.descriptor);
}

auto find_held_buffers(const std::string& proc) -> census {
  std::map<std::uint64_t, held_buffer> found;
  census all;
  std::error_code ec;
  for (const auto pid : numbers_in(proc, ec)) {
    const auto process = files::path(proc) / std::to_string(pid);
    const auto descriptors = numbers_in(process / "fd", ec);
    if (ec == std::errc::permission_denied) ++all.hidden;
    for (const auto descriptor : descriptors) {
      const auto number = std::to_string(descriptor);
      if (!may_be_dma_buf(process / "fd" / number)) continue;
      auto fields = described(process / "fdinfo" / number);
      const auto inode = number_of<std::uint64_t>(fields["ino"]);
      if (fields["exp_name"] != our_exporter || !inode) continue;
      auto& buffer = found[*inode];
      buffer.inode = *inode;
      buffer.size = number_of<std::uint64_t>(fields["size"]).value_or(0);
      buffer.name = fields["name"];
      buffer.holders.push_back(
          {.pid = pid, .command = command_of(process), .descriptor = descriptor});
    }
  }
  for (auto& [inode, buffer] : found) all.buffers.push_back(std::move(buffer));
  return all;
}

}  // namespace dmabridge::command

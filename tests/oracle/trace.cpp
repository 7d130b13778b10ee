// SPDX-License-Identifier: MIT
#include "trace.hpp"

#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <optional>
#include <stdexcept>

namespace dmabridge::oracle {
namespace {

// The number behind "NAME ", decimal or 0x.
std::optional<std::uint64_t> field(std::string_view text, std::string_view name) {
  for (std::size_t at = text.find(name); at != text.npos; at = text.find(name, at + 1)) {
    const bool starts = at == 0 || text[at - 1] == ' ';
    std::string_view value = text.substr(at + name.size());
    if (!starts || !value.starts_with(' ')) continue;
    value.remove_prefix(1);
    int base = 10;
    if (value.starts_with("0x")) {
      value.remove_prefix(2);
      base = 16;
    }
    std::uint64_t number = 0;
    const auto [end, error] =
        std::from_chars(value.data(), value.data() + value.size(), number, base);
    const bool ends = end == value.data() + value.size() || *end == ' ';
    if (error == std::errc() && ends) return number;
    return std::nullopt;
  }
  return std::nullopt;
}

std::optional<Command> parse_transfer(Operation operation, std::string_view fields) {
  const auto nsid = field(fields, "nsid"), blocks = field(fields, "nlb"),
             bytes = field(fields, "count"), lba = field(fields, "lba");
  if (!nsid || !blocks || !bytes || !lba) return std::nullopt;
  // QEMU prints the number of blocks, not the protocol's 0-based one.
  if (*blocks == 0 || *bytes % *blocks != 0) return std::nullopt;
  return Command{static_cast<std::uint32_t>(*nsid), operation, *lba, *blocks, *bytes, {}};
}

std::optional<DmaTarget> parse_target(std::string_view fields) {
  const auto address = field(fields, "addr"), length = field(fields, "len");
  if (!address || !length) return std::nullopt;
  return DmaTarget{*address, *length};
}

// A line cut at its very start may leave any tail of an event's name, so only whole names count as
// known.
constexpr std::string_view prefix = "pci_nvme_";

}  // namespace

void TraceParser::feed(std::string_view piece) {
  rest_.append(piece);
  std::size_t start = 0;
  for (std::size_t end; (end = rest_.find('\n', start)) != rest_.npos; start = end + 1) {
    line(std::string_view(rest_).substr(start, end - start));
  }
  rest_.erase(0, start);
}

void TraceParser::line(std::string_view text) {
  if (!text.starts_with(prefix)) {
    // QEMU's own remarks start a line of their own; an event inside of one means that two writers
    // got mixed up.
    if (text.find(prefix) != text.npos) damaged_.emplace_back(text);
    return;
  }
  const std::size_t space = text.find(' ');
  const std::string_view event =
      text.substr(prefix.size(), space == text.npos ? text.npos : space - prefix.size());
  const std::string_view fields = space == text.npos ? std::string_view() : text.substr(space + 1);
  if (fields.find(prefix) != fields.npos) {
    damaged_.emplace_back(text);
  } else if (event == "io_cmd" || event == "admin_cmd") {
    in_command_ = false;
  } else if (event == "read" || event == "write") {
    const auto command =
        parse_transfer(event == "read" ? Operation::read : Operation::write, fields);
    in_command_ = command.has_value();
    if (command) {
      commands_.push_back(*command);
    } else {
      damaged_.emplace_back(text);
    }
  } else if (event == "map_addr" || event == "map_addr_cmb") {
    const auto target = parse_target(fields);
    if (!target) {
      damaged_.emplace_back(text);
    } else if (in_command_) {
      commands_.back().targets.push_back(*target);
    }
  }
}

std::vector<Command> read_trace(const std::string& path, std::uint64_t begin, std::uint64_t end) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(fmt::format("cannot open the trace {}", path));
  file.seekg(static_cast<std::streamoff>(begin));
  TraceParser parser;
  std::string piece(1 << 20, '\0');
  for (std::uint64_t at = begin; end == 0 || at < end;) {
    const std::uint64_t wanted =
        end == 0 ? piece.size() : std::min<std::uint64_t>(piece.size(), end - at);
    file.read(piece.data(), static_cast<std::streamsize>(wanted));
    const auto got = static_cast<std::uint64_t>(file.gcount());
    if (got == 0) {
      if (end != 0)
        throw std::runtime_error(fmt::format("{} ends at {}, before {}", path, at, end));
      break;
    }
    parser.feed(std::string_view(piece).substr(0, got));
    at += got;
  }
  if (!parser.damaged().empty()) {
    throw std::runtime_error(fmt::format("{} has {} damaged lines; the first: '{}'", path,
                                         parser.damaged().size(), parser.damaged().front()));
  }
  return parser.commands();
}

}  // namespace dmabridge::oracle

// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <sstream>
#include <string_view>

#include "read_devices.hpp"
#include "sysfs.hpp"

namespace dmabridge {
namespace {

constexpr std::uint64_t sector = 512;

// "nvme0c1n2", a path of the multipath head "nvme0n2"; empty: it is none.
auto head_of_path(std::string_view name) -> std::string {
  if (!name.starts_with("nvme")) return {};
  const auto digits = [&](std::size_t from) {
    return std::min(name.find_first_not_of("0123456789", from), name.size());
  };
  const auto c = digits(4);
  if (c == 4 || c == name.size() || name[c] != 'c') return {};
  const auto n = digits(c + 1);
  if (n == c + 1 || n == name.size() || name[n] != 'n') return {};
  if (n + 1 == name.size() || digits(n + 1) != name.size()) return {};
  return fmt::format("{}{}", name.substr(0, c), name.substr(n));
}

// "\040" and the like, as in mountinfo.
auto unescape(std::string_view text) -> std::string {
  std::string plain;
  const auto octal = [](char letter) { return letter >= '0' && letter <= '7'; };
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\\' && at + 3 < text.size() && octal(text[at + 1]) && octal(text[at + 2]) &&
        octal(text[at + 3])) {
      plain += static_cast<char>((text[at + 1] - '0') * 64 + (text[at + 2] - '0') * 8 +
                                 (text[at + 3] - '0'));
      at += 3;
    } else {
      plain += text[at];
    }
  }
  return plain;
}

auto is_below(std::string_view path, std::string_view folder) -> bool {
  if (folder == "/") return true;
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

class block_reader {
 public:
  block_reader(const machine_roots& roots, topology& machine)
      : roots_(roots), machine_(machine), names_(names_in(roots.sys + "/class/block")) {}

  void run() {
    for (const auto& name : names_) {
      auto made = read(name);
      // Drives without a medium, and loop and other devices that stand ready without one.
      const auto empty = made.size.value_or(1) == 0 && made.legs.empty();
      if (!empty) machine_.blocks.push_back(std::move(made));
    }
    drop_absent_legs();
  }

 private:
  auto folder(const std::string& name) const -> std::string {
    return roots_.sys + "/class/block/" + name;
  }
  auto read(const std::string& name) const -> block_node;
  void read_queue(const std::string& disk, block_node& made) const;
  void read_partition(block_node& made) const;
  void read_dm(block_node& made) const;
  void read_loop(block_node& made) const;
  void read_disk(block_node& made) const;
  auto heads_paths(const std::string& name) const -> std::vector<std::string>;
  auto device_under(const std::string& file) const -> std::string;
  void drop_absent_legs();

  const machine_roots& roots_;
  topology& machine_;
  std::vector<std::string> names_;
};

auto block_reader::read(const std::string& name) const -> block_node {
  block_node made{.name = name};
  if (const auto sectors = read_number(folder(name) + "/size")) made.size = *sectors * sector;
  if (exists(folder(name) + "/partition")) {
    read_partition(made);
    return made;
  }
  read_queue(name, made);
  made.legs = names_in(folder(name) + "/slaves");
  if (exists(folder(name) + "/md")) {
    made.kind = block_kind::md;
    made.level = read_file(folder(name) + "/md/level").text.value_or("");
  } else if (exists(folder(name) + "/dm")) {
    read_dm(made);
  } else if (exists(folder(name) + "/loop")) {
    read_loop(made);
  } else if (auto paths = heads_paths(name); !paths.empty()) {
    made.kind = block_kind::multipath;
    made.legs = std::move(paths);
  } else {
    read_disk(made);
  }
  return made;
}

void block_reader::read_queue(const std::string& disk, block_node& made) const {
  made.stable_writes = read_flag(folder(disk) + "/queue/stable_writes");
  // Kernels without block integrity have no such folder, and so no integrity.
  const auto format = read_file(folder(disk) + "/integrity/format");
  if (format || format.code == ENOENT) made.integrity = format && *format.text != "none";
}

void block_reader::read_partition(block_node& made) const {
  made.kind = block_kind::partition;
  made.disk = folder_name_of(folder(made.name));
  read_queue(made.disk, made);
  auto disk = read(made.disk);
  made.function = disk.function;
  made.driver = disk.driver;
}

void block_reader::read_dm(block_node& made) const {
  const auto uuid = read_file(folder(made.name) + "/dm/uuid").text.value_or("");
  // Whoever made it puts a word before the first dash; what follows is unique to the device.
  made.level = uuid.substr(0, uuid.find('-'));
  if (uuid.find('-') == std::string::npos) made.level.clear();
  made.kind = made.level == "mpath" ? block_kind::multipath : block_kind::dm;
}

void block_reader::read_loop(block_node& made) const {
  made.kind = block_kind::loop;
  const auto file = read_file(folder(made.name) + "/loop/backing_file");
  if (!file) return;
  if (auto below = device_under(*file.text); !below.empty()) {
    made.legs = {std::move(below)};
    return;
  }
  machine_.unread.push_back({.what = "what " + made.name + " stands on",
                             .why = "its file is on a file system of no block device, or in "
                                    "mounts that are not the caller's",
                             .remedy = {}});
}

void block_reader::read_disk(block_node& made) const {
  const auto device = folder(made.name) + "/device";
  if (!exists(device)) {
    made.kind = block_kind::other;
    return;
  }
  made.kind = block_kind::disk;
  made.function = function_of(folder(made.name));
  const auto transport = read_file(device + "/transport");
  if (transport && *transport.text != "pcie") made.driver = "nvme-" + *transport.text;
  if (made.driver.empty()) made.driver = link_name(device + "/driver");
  if (made.driver.empty() && made.function)
    made.driver =
        link_name(roots_.sys + "/bus/pci/devices/" + to_string(*made.function) + "/driver");
}

// The paths of an NVMe multipath head. Newer kernels link to them; with older ones their names
// tell.
auto block_reader::heads_paths(const std::string& name) const -> std::vector<std::string> {
  auto paths = names_in(folder(name) + "/multipath");
  if (paths.empty()) {
    std::ranges::copy_if(names_, std::back_inserter(paths),
                         [&](const auto& other) { return head_of_path(other) == name; });
  }
  return paths;
}

// The block device of the file system that holds `file`, by the caller's mounts; empty: none.
auto block_reader::device_under(const std::string& file) const -> std::string {
  const auto mounts = read_file(roots_.proc + "/self/mountinfo");
  if (!mounts) return {};
  std::istringstream lines(*mounts.text);
  std::string folder_found;
  std::string device;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string id, parent, number, root, place, word, source;
    fields >> id >> parent >> number >> root >> place;
    const auto folder = unescape(place);
    // What is mounted later on the same folder covers what was there.
    if (!is_below(file, folder) || folder.size() < folder_found.size()) continue;
    while (fields >> word && word != "-") {
    }
    fields >> word >> source;
    folder_found = folder;
    device = link_name(roots_.sys + "/dev/block/" + number);
    // Of file systems that span devices the number is made up; the source is one of them.
    if (device.empty() && source.starts_with("/dev/")) device = unescape(source).substr(5);
  }
  return std::ranges::binary_search(names_, device) ? device : std::string{};
}

void block_reader::drop_absent_legs() {
  for (auto& block : machine_.blocks) {
    std::erase_if(block.legs, [&](const auto& leg) {
      if (machine_.find_block(leg) != nullptr) return false;
      machine_.unread.push_back({.what = fmt::format("{}, a leg of {}", leg, block.name),
                                 .why = "it is not in " + roots_.sys + "/class/block",
                                 .remedy = "read again"});
      return true;
    });
  }
}

}  // namespace

void read_blocks(const machine_roots& roots, topology& machine) {
  block_reader(roots, machine).run();
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "drives.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "machine.hpp"

namespace dmabridge::test {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// By the magic numbers of what the topologies use.
std::string file_system_on(const std::string& path) {
  const Fd fd = open_file(path, O_RDONLY | O_CLOEXEC);
  std::array<unsigned char, 2048> head{};
  if (pread(fd.get(), head.data(), head.size(), 0) != static_cast<ssize_t>(head.size())) fail(path);
  if (std::memcmp(head.data(), "XFSB", 4) == 0) return "xfs";
  if (head[1024 + 0x38] == 0x53 && head[1024 + 0x39] == 0xef) return "ext4";
  return "";
}

}  // namespace

Fd open_file(const std::string& path, int flags, int mode) {
  Fd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) fail(path);
  return fd;
}

std::string Drive::image() const {
  return nsid != 0 ? fmt::format("disk-{}-n{}.img", serial, nsid)
                   : fmt::format("disk-{}.img", serial);
}

std::vector<Drive> drives() {
  std::vector<Drive> found;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/block")) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("nvme") && !name.starts_with("vd")) continue;
    // One path of several to a namespace.
    if (oracle::read_line(entry.path() / "hidden") == "1") continue;
    Drive drive{"", 0, name, 0, ""};
    const bool nvme = std::filesystem::exists(entry.path() / "nsid");
    drive.serial = oracle::read_line(entry.path() / (nvme ? "device/serial" : "serial"));
    if (nvme)
      drive.nsid = static_cast<std::uint32_t>(std::stoul(oracle::read_line(entry.path() / "nsid")));
    drive.size = std::stoull(oracle::read_line(entry.path() / "size")) * 512;
    drive.fs = file_system_on(drive.path());
    found.push_back(drive);
  }
  std::ranges::sort(found, {}, &Drive::disk);
  return found;
}

Drive drive(const std::string& serial, const std::string& fs) {
  for (const Drive& drive : drives()) {
    if (drive.serial == serial && drive.fs == fs) return drive;
  }
  throw std::runtime_error(
      fmt::format("this topology has no drive {} with {}", serial, fs.empty() ? "raw data" : fs));
}

Mount::Mount(const std::string& source, const std::string& type, const std::string& options)
    : path_("/tmp/mount-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) fail(path_);
  if (mount(source.c_str(), path_.c_str(), type.c_str(), 0, options.c_str()) != 0) {
    const int error = errno;
    rmdir(path_.c_str());
    throw std::system_error(error, std::generic_category(),
                            fmt::format("mount {} ({})", source, type));
  }
}

Mount::~Mount() {
  if (umount(path_.c_str()) != 0) {
    fmt::print(stderr, "cannot unmount {}: {}\n", path_, std::strerror(errno));
    // Still in use by a failed test: at least nobody new finds it.
    umount2(path_.c_str(), MNT_DETACH);
  }
  rmdir(path_.c_str());
}

void fill_pattern(std::byte* to, std::size_t length, std::uint8_t tag, std::uint64_t offset) {
  for (std::size_t i = 0; i < length; i += 8) {
    const std::uint64_t word = static_cast<std::uint64_t>(tag) << 56 | (offset + i);
    std::memcpy(to + i, &word, std::min<std::size_t>(8, length - i));
  }
}

std::string pattern_difference(const std::byte* bytes, std::size_t length, std::uint8_t tag,
                               std::uint64_t offset) {
  for (std::size_t i = 0; i < length; i += 8) {
    const std::uint64_t expected = static_cast<std::uint64_t>(tag) << 56 | (offset + i);
    std::uint64_t word = expected;
    std::memcpy(&word, bytes + i, std::min<std::size_t>(8, length - i));
    if (word != expected)
      return fmt::format("at byte {}: {:#018x}, not {:#018x}", i, word, expected);
  }
  return "";
}

void make_pattern_file(const std::string& path, std::uint64_t size, std::uint8_t tag) {
  const Fd fd = open_file(path, O_RDWR | O_CREAT | O_TRUNC);
  std::vector<std::byte> piece(1 << 20);
  for (std::uint64_t at = 0; at < size; at += piece.size()) {
    const std::size_t count = std::min<std::uint64_t>(piece.size(), size - at);
    fill_pattern(piece.data(), count, tag, at);
    if (pwrite(fd.get(), piece.data(), count, static_cast<off_t>(at)) !=
        static_cast<ssize_t>(count))
      fail(path);
  }
  if (fsync(fd.get()) != 0) fail(path);
  drop_page_cache(fd.get());
}

void drop_page_cache(int fd) {
  const int error = posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  if (error != 0) throw std::system_error(error, std::generic_category(), "POSIX_FADV_DONTNEED");
}

}  // namespace dmabridge::test

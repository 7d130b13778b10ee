// SPDX-License-Identifier: MIT
#include "dmabridge/target.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto describe_type(mode_t mode) -> const char* {
  if (S_ISDIR(mode)) return "it is a directory";
  if (S_ISCHR(mode)) return "it is a character device";
  if (S_ISFIFO(mode)) return "it is a pipe";
  if (S_ISSOCK(mode)) return "it is a socket";
  return "it is neither a file nor a block device";
}

auto kind_of(mode_t mode, const std::string& attempted) -> target_kind {
  if (S_ISREG(mode)) return target_kind::file;
  if (S_ISBLK(mode)) return target_kind::block_device;
  throw error({.kind = error_kind::usage,
               .attempted = attempted,
               .detail = describe_type(mode),
               .remedies = {"name a regular file or a block device"}});
}

[[noreturn]] void fail(const std::string& attempted, int code, std::string remedy = {}) {
  error_details details{.kind = error_kind::system, .attempted = attempted, .code = code};
  if (code == ENOENT || code == ENOTDIR) details.kind = error_kind::usage;
  if (!remedy.empty()) details.remedies.push_back(std::move(remedy));
  throw error(std::move(details));
}

auto device_size(const fd& device, const std::string& attempted) -> std::uint64_t {
  std::uint64_t size = 0;
  const auto result = sys().ioctl(device.get(), BLKGETSIZE64, &size);
  if (result < 0) fail(attempted, -result);
  return size;
}

auto folder_of(const std::string& path) -> std::string {
  const auto folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

// A new file in `folder` under a name that nobody has.
auto create_temporary(const std::string& folder, mode_t mode, std::string& name) -> fd {
  for (unsigned attempt = 0;; ++attempt) {
    name = fmt::format("{}/.dmabridge-{}-{}.part", folder, ::getpid(), attempt);
    std::error_code ec;
    auto file = fd::open(name, O_RDWR | O_CREAT | O_EXCL, mode, ec);
    if (!ec) return file;
    if (ec.value() != EEXIST) fail("create a file in " + folder, ec.value());
  }
}

void reserve_space(const fd& file, std::uint64_t size, const std::string& path) {
  if (size == 0) return;
  auto result = sys().fallocate(file.get(), size);
  // Some file systems cannot allocate ahead; there, writes find out whether there is room.
  if (result == -EOPNOTSUPP) result = sys().ftruncate(file.get(), size);
  if (result < 0) {
    fail(fmt::format("reserve {} for {}", format_size(size), path), -result,
         result == -ENOSPC ? "free space on that file system, or choose another" : "");
  }
}

// Files that the kernel makes up as they are read have no size, and so would pass for empty. Asked
// through an fd of its own that does not wait, as some of them (/proc/kmsg) give what comes next.
void check_empty(const std::string& path, const std::string& attempted) {
  std::error_code ec;
  const auto again = fd::open(path, O_RDONLY | O_NONBLOCK, 0, ec);
  if (ec) fail(attempted, ec.value());
  std::byte first{};
  const auto result = sys().read(again.get(), &first, sizeof(first));
  if (result == 0) return;
  if (result < 0) fail(attempted, static_cast<int>(-result));
  throw error({.kind = error_kind::usage,
               .attempted = attempted,
               .detail = "its size is given as 0, and yet there are bytes in it: a file that the "
                         "kernel makes up, as those in /proc, or one that is being written",
               .remedies = {fmt::format("copy it to a file on a disk first: cat {} >COPY", path)}});
}

}  // namespace

source::source(std::string path, fd descriptor, target_kind kind, std::uint64_t size)
    : path_(std::move(path)), fd_(std::move(descriptor)), kind_(kind), size_(size) {}

auto source::open(const std::string& path) -> source {
  const auto attempted = "read " + path;
  struct stat found{};
  // Looked at before it is opened, as opening a pipe could block.
  if (const auto result = sys().stat(path.c_str(), &found); result < 0) fail(attempted, -result);
  const auto kind = kind_of(found.st_mode, attempted);
  std::error_code ec;
  auto descriptor = fd::open(path, O_RDONLY, 0, ec);
  if (ec) {
    fail(attempted, ec.value(),
         ec.value() == EACCES
             ? "run this as a user who may read it (a block device: root or group disk)"
             : "");
  }
  if (const auto result = sys().fstat(descriptor.get(), &found); result < 0)
    fail(attempted, -result);
  const auto size = kind == target_kind::block_device ? device_size(descriptor, attempted)
                                                      : static_cast<std::uint64_t>(found.st_size);
  if (kind == target_kind::file && size == 0) check_empty(path, attempted);
  return {path, std::move(descriptor), kind, size};
}

auto source::hole_bytes(std::uint64_t offset, std::uint64_t length) const -> std::uint64_t {
  if (kind_ != target_kind::file) return 0;
  const auto end = offset + length;
  std::uint64_t holes = 0;
  while (offset < end) {
    const auto data = sys().seek(fd_.get(), static_cast<std::int64_t>(offset), SEEK_DATA);
    if (data < 0 && data != -ENXIO) return 0;
    // -ENXIO: there is only a hole up to the end.
    const auto data_start = data < 0 ? end : std::min(static_cast<std::uint64_t>(data), end);
    holes += data_start - offset;
    if (data_start == end) break;
    const auto hole = sys().seek(fd_.get(), static_cast<std::int64_t>(data_start), SEEK_HOLE);
    if (hole < 0) return 0;
    offset = static_cast<std::uint64_t>(hole);
  }
  return holes;
}

sink::sink(std::string path, std::string temporary, fd descriptor, target_kind kind,
           std::uint64_t size, existing mode)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      fd_(std::move(descriptor)),
      kind_(kind),
      size_(size),
      mode_(mode) {}

sink::sink(sink&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      fd_(std::move(other.fd_)),
      kind_(other.kind_),
      size_(other.size_),
      mode_(other.mode_) {}

sink::~sink() {
  if (!temporary_.empty()) sys().unlink(temporary_.c_str());
}

auto sink::is_block_device(const std::string& path) -> bool {
  struct stat found{};
  const auto result = sys().stat(path.c_str(), &found);
  if (result == -ENOENT) return false;
  if (result < 0) fail("write " + path, -result);
  return S_ISBLK(found.st_mode);
}

auto sink::create_file(const std::string& path, std::uint64_t reserve, existing mode) -> sink {
  const auto attempted = "write " + path;
  auto final_path = path;
  mode_t permissions = 0666;
  struct stat found{};
  const auto result = sys().stat(path.c_str(), &found);
  const auto exists = result == 0;
  if (result < 0 && result != -ENOENT) fail(attempted, -result);
  if (exists) {
    if (kind_of(found.st_mode, attempted) != target_kind::file) {
      throw error({.kind = error_kind::usage,
                   .attempted = attempted,
                   .detail = "it is a block device, which cannot be replaced by a file"});
    }
    if (mode == existing::refuse) {
      throw error({.kind = error_kind::usage,
                   .attempted = attempted,
                   .code = EEXIST,
                   .remedies = {"choose another name, or allow it to be replaced (--force)"}});
    }
    permissions = found.st_mode & 07777;
    // A symbolic link stays; what it points to is replaced.
    std::error_code ec;
    final_path = std::filesystem::canonical(path, ec).string();
    if (ec) fail(attempted, ec.value());
  }

  std::string temporary;
  auto file = create_temporary(folder_of(final_path), permissions, temporary);
  sink made(std::move(final_path), std::move(temporary), std::move(file), target_kind::file,
            reserve, mode);
  if (exists) {
    // The umask has had its say when the old file was made.
    const auto changed = sys().fchmod(made.descriptor(), permissions);
    if (changed < 0) fail("give a new file the permissions of " + path, -changed);
  }
  reserve_space(made.fd_, reserve, path);
  return made;
}

auto sink::open_block_device(const std::string& path) -> sink {
  const auto attempted = "write " + path;
  std::error_code ec;
  auto device = fd::open(path, O_RDWR, 0, ec);
  if (ec) {
    fail(attempted, ec.value(),
         ec.value() == EACCES ? "run this as a user who may write it (root or group disk)" : "");
  }
  const auto size = device_size(device, attempted);
  return {path, {}, std::move(device), target_kind::block_device, size, existing::replace};
}

auto sink::unit() const -> std::uint32_t {
  if (kind_ == target_kind::file) return 1;
  int bytes = 0;
  const auto result = sys().ioctl(fd_.get(), BLKSSZGET, &bytes);
  if (result < 0) fail("ask " + path_ + " for its block size", -result);
  return static_cast<std::uint32_t>(bytes);
}

void sink::commit(std::uint64_t length) {
  const auto attempted = "complete " + path_;
  // Also if it should have that size already: writes are rounded up to alignment units.
  if (kind_ == target_kind::file) {
    if (const auto result = sys().ftruncate(fd_.get(), length); result < 0)
      fail(attempted, -result);
  }
  if (const auto result = sys().fsync(fd_.get()); result < 0) fail(attempted, -result);
  if (temporary_.empty()) return;

  const auto replace = mode_ == existing::replace;
  const auto renamed = sys().rename(temporary_.c_str(), path_.c_str(), replace);
  if (renamed < 0) {
    fail(attempted, -renamed,
         renamed == -EEXIST ? "somebody else made it meanwhile; choose another name" : "");
  }
  temporary_.clear();

  // The name is durable only once its directory is.
  std::error_code ec;
  const auto folder = fd::open(folder_of(path_), O_RDONLY | O_DIRECTORY, 0, ec);
  if (ec) fail(attempted, ec.value());
  if (const auto result = sys().fsync(folder.get()); result < 0) fail(attempted, -result);
}

}  // namespace dmabridge

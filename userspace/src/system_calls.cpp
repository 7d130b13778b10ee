// SPDX-License-Identifier: MIT
#include "system_calls.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <utility>

namespace dmabridge {
namespace {

template <typename Result>
auto or_errno(Result result) -> Result {
  return result < 0 ? static_cast<Result>(-errno) : result;
}

class native_system_calls final : public system_calls {
 public:
  auto open(const char* path, int flags, mode_t mode) -> int override {
    return or_errno(::open(path, flags, mode));
  }
  auto close(int descriptor) -> int override { return or_errno(::close(descriptor)); }
  auto duplicate(int descriptor) -> int override {
    return or_errno(::fcntl(descriptor, F_DUPFD_CLOEXEC, 0));
  }
  auto ioctl(int descriptor, unsigned long request, void* argument) -> int override {
    return or_errno(::ioctl(descriptor, request, argument));
  }
  auto poll(int descriptor, short events, int milliseconds, short& seen) -> int override {
    pollfd waited{.fd = descriptor, .events = events, .revents = 0};
    const auto result = or_errno(::poll(&waited, 1, milliseconds));
    seen = waited.revents;
    return result;
  }
  auto read(int descriptor, void* to, std::size_t length) -> std::int64_t override {
    return or_errno(std::int64_t{::read(descriptor, to, length)});
  }
  auto pread(int descriptor, void* to, std::size_t length, std::uint64_t offset)
      -> std::int64_t override {
    return or_errno(std::int64_t{::pread(descriptor, to, length, static_cast<off_t>(offset))});
  }
  auto pwrite(int descriptor, const void* from, std::size_t length, std::uint64_t offset)
      -> std::int64_t override {
    return or_errno(std::int64_t{::pwrite(descriptor, from, length, static_cast<off_t>(offset))});
  }
  auto seek(int descriptor, std::int64_t offset, int whence) -> std::int64_t override {
    return or_errno(std::int64_t{::lseek(descriptor, offset, whence)});
  }
  auto read_link(const char* path, std::string& target) -> int override {
    std::array<char, PATH_MAX> text;
    const auto length = ::readlink(path, text.data(), text.size());
    if (length < 0) return -errno;
    target.assign(text.data(), static_cast<std::size_t>(length));
    return 0;
  }
  auto access(const char* path, int mode) -> int override { return or_errno(::access(path, mode)); }
  auto stat(const char* path, struct stat* result) -> int override {
    return or_errno(::stat(path, result));
  }
  auto fstat(int descriptor, struct stat* result) -> int override {
    return or_errno(::fstat(descriptor, result));
  }
  auto statx(int descriptor, unsigned mask, struct statx& result) -> int override {
    return or_errno(::statx(descriptor, "", AT_EMPTY_PATH, mask, &result));
  }
  auto mmap(std::size_t length, int protection, int descriptor, void** result) -> int override {
    *result = ::mmap(nullptr, length, protection, MAP_SHARED, descriptor, 0);
    return *result == MAP_FAILED ? -errno : 0;
  }
  auto munmap(void* address, std::size_t length) -> int override {
    return or_errno(::munmap(address, length));
  }
  auto memfd_create(const char* name, unsigned flags) -> int override {
    return or_errno(::memfd_create(name, flags));
  }
  auto get_seals(int descriptor) -> int override {
    return or_errno(::fcntl(descriptor, F_GET_SEALS));
  }
  auto add_seals(int descriptor, int seals) -> int override {
    return or_errno(::fcntl(descriptor, F_ADD_SEALS, seals));
  }
  auto pidfd_open(pid_t pid) -> int override {
    return static_cast<int>(or_errno(::syscall(SYS_pidfd_open, pid, 0)));
  }
  auto pidfd_getfd(int pidfd, int descriptor) -> int override {
    return static_cast<int>(or_errno(::syscall(SYS_pidfd_getfd, pidfd, descriptor, 0)));
  }
  auto fallocate(int descriptor, std::uint64_t length) -> int override {
    return or_errno(::fallocate(descriptor, 0, 0, static_cast<off_t>(length)));
  }
  auto ftruncate(int descriptor, std::uint64_t length) -> int override {
    return or_errno(::ftruncate(descriptor, static_cast<off_t>(length)));
  }
  auto fchmod(int descriptor, mode_t mode) -> int override {
    return or_errno(::fchmod(descriptor, mode));
  }
  auto fsync(int descriptor) -> int override { return or_errno(::fsync(descriptor)); }
  auto rename(const char* from, const char* to, bool replace) -> int override {
    if (replace) return or_errno(::rename(from, to));
    const auto result = or_errno(::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE));
    if (result != -EINVAL) return result;
    // Not every file system knows that flag; a hard link does not replace anything either.
    const auto linked = or_errno(::link(from, to));
    return linked < 0 ? linked : or_errno(::unlink(from));
  }
  auto unlink(const char* path) -> int override { return or_errno(::unlink(path)); }
};

auto native() noexcept -> system_calls& {
  static native_system_calls calls;
  return calls;
}

system_calls* overriding = nullptr;

}  // namespace

auto sys() noexcept -> system_calls& {
  return overriding != nullptr ? *overriding : native();
}

system_calls_override::system_calls_override(system_calls& calls) noexcept
    : previous_(std::exchange(overriding, &calls)) {}

system_calls_override::~system_calls_override() {
  overriding = previous_;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/buffer.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "buffer_life.hpp"
#include "dmabridge/error.hpp"
#include "dmabuf_sync.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto protection_of(cpu_access access) -> int {
  switch (access) {
    case cpu_access::read:
      return PROT_READ;
    case cpu_access::write:
      return PROT_WRITE;
    case cpu_access::read_write:
      break;
  }
  return PROT_READ | PROT_WRITE;
}

// A whole number from 0 up that is all of `text`.
auto parse_number(std::string_view text) -> std::optional<int> {
  int number = 0;
  const auto [rest, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (ec != std::errc{} || rest != text.data() + text.size() || number < 0) return {};
  return number;
}

// /proc names the file behind an fd; that of a dma-buf begins so in every kernel that has them.
// `name` is what the fd is called by whoever named it.
void check_is_dmabuf(int descriptor, const std::string& name) {
  const auto link = fmt::format("/proc/self/fd/{}", descriptor);
  std::string target;
  const auto result = sys().read_link(link.c_str(), target);
  if (result < 0) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("find out what {} is ({})", name, link),
                 .code = -result,
                 .remedies = {"mount /proc: mount -t proc proc /proc"}});
  }
  if (!target.starts_with("/dmabuf:")) {
    throw error({.kind = error_kind::usage,
                 .attempted = fmt::format("use {} as a buffer", name),
                 .detail = fmt::format("it is no dma-buf but {}", target),
                 .remedies = {"name an fd that ls -l /proc/PID/fd shows as /dmabuf: of its "
                              "process; dmabridge load --keep prints one"}});
  }
}

}  // namespace

mapping::mapping(fd descriptor, std::span<std::byte> bytes) noexcept
    : fd_(std::move(descriptor)), bytes_(bytes) {}

mapping::mapping(mapping&& other) noexcept
    : fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}

auto mapping::operator=(mapping&& other) noexcept -> mapping& {
  std::swap(fd_, other.fd_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

mapping::~mapping() {
  if (!bytes_.empty()) sys().munmap(bytes_.data(), bytes_.size());
}

void mapping::begin(cpu_access access) const {
  begin_cpu_access(fd_.get(), access);
}
void mapping::end(cpu_access access) const {
  end_cpu_access(fd_.get(), access);
}

cpu_access_bracket::~cpu_access_bracket() {
  try {
    map_.end(access_);
  } catch (const error&) {
    // A destructor has nobody to tell; callers who must know use mapping::end().
  }
}

auto buffer::from_fd(fd descriptor) -> buffer {
  const auto name = fmt::format("fd {}", descriptor.get());
  return adopt(std::move(descriptor), name);
}

auto buffer::adopt(fd descriptor, const std::string& name) -> buffer {
  check_is_dmabuf(descriptor.get(), name);
  const auto size = sys().seek(descriptor.get(), 0, SEEK_END);
  if (size < 0) {
    throw error({.kind = error_kind::system,
                 .attempted = "ask a dma-buf for its size",
                 .code = static_cast<int>(-size)});
  }
  struct stat file{};
  const auto result = sys().fstat(descriptor.get(), &file);
  if (result < 0) {
    throw error({.kind = error_kind::system,
                 .attempted = "find out which dma-buf an fd is",
                 .code = -result});
  }
  return {std::move(descriptor), static_cast<std::uint64_t>(size), file.st_ino};
}

buffer::buffer(fd descriptor, std::uint64_t size, std::uint64_t inode)
    : fd_(std::move(descriptor)),
      size_(size),
      inode_(inode),
      life_(std::make_shared<buffer_life>(inode)) {}

auto buffer::exporter() const -> std::string {
  const auto path = fmt::format("/proc/self/fdinfo/{}", fd_.get());
  std::error_code ec;
  const auto file = fd::open(path, O_RDONLY, 0, ec);
  if (ec) return {};
  std::string text;
  std::array<char, 512> piece;
  for (;;) {
    const auto got = sys().read(file.get(), piece.data(), piece.size());
    if (got <= 0) break;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
  constexpr std::string_view label = "exp_name:\t";
  const auto at = text.find(label);
  if (at == std::string::npos) return {};
  const auto first = at + label.size();
  return text.substr(first, text.find('\n', first) - first);
}

auto buffer::duplicate(int descriptor) -> buffer {
  const auto name = fmt::format("fd {} of this process", descriptor);
  std::error_code ec;
  auto copy = fd::duplicate(descriptor, ec);
  if (ec) {
    throw error(
        {.kind = ec.value() == EBADF ? error_kind::usage : error_kind::system,
         .attempted = fmt::format("use {} as a buffer", name),
         .code = ec.value(),
         .detail = ec.value() == EBADF ? "this process has no such fd" : "",
         .remedies = ec.value() == EBADF
                         ? std::vector<std::string>{"let the process that starts this one pass the "
                                                    "fd on: it must be open and not close-on-exec"}
                         : std::vector<std::string>{}});
  }
  return adopt(std::move(copy), name);
}

auto buffer::from_process(pid_t pid, int descriptor) -> buffer {
  const auto name = fmt::format("fd {} of process {}", descriptor, pid);
  error_details details{.kind = error_kind::system, .attempted = "fetch " + name};
  const auto pidfd = sys().pidfd_open(pid);
  if (pidfd < 0) {
    details.code = -pidfd;
    if (details.code == ESRCH) details.detail = "there is no such process";
    throw error(std::move(details));
  }
  const fd process(pidfd);
  const auto fetched = sys().pidfd_getfd(process.get(), descriptor);
  if (fetched < 0) {
    details.code = -fetched;
    if (details.code == EBADF) details.detail = "that process has no such fd";
    if (details.code == ESRCH) details.detail = "that process has ended";
    if (details.code == EPERM) {
      details.detail = "this process may not trace that one, which fetching its fds needs";
      details.remedies = {"run this as the user of that process, or as root (CAP_SYS_PTRACE)",
                          "if it is the same user, the Yama module may forbid it: sysctl "
                          "kernel.yama.ptrace_scope=0, "
                          "or let that process call prctl(PR_SET_PTRACER, ...)",
                          "or let that process start this one and pass the fd on"};
    }
    throw error(std::move(details));
  }
  return adopt(fd(fetched), name);
}

auto buffer::from_spec(const std::string& spec) -> buffer {
  const std::string_view text = spec;
  if (text.starts_with("fd:")) {
    if (const auto number = parse_number(text.substr(3))) return duplicate(*number);
  } else if (text.starts_with("pid:")) {
    const auto colon = text.find(':', 4);
    if (colon != std::string_view::npos) {
      const auto pid = parse_number(text.substr(4, colon - 4));
      const auto number = parse_number(text.substr(colon + 1));
      if (pid && number) return from_process(*pid, *number);
    }
  }
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("find the buffer \"{}\"", spec),
               .detail = "that is not how a buffer is named",
               .remedies = {"write fd:N for fd N that this process inherited, or pid:PID:FD for fd "
                            "number FD of process PID"}});
}

auto buffer::map(cpu_access access) const -> mapping {
  void* address = nullptr;
  auto own = fd::duplicate(descriptor());
  const auto result = sys().mmap(size_, protection_of(access), own.get(), &address);
  if (result < 0) {
    throw error(
        {.kind = error_kind::system, .attempted = "map the buffer for the CPU", .code = -result});
  }
  return {std::move(own), {static_cast<std::byte*>(address), static_cast<std::size_t>(size_)}};
}

}  // namespace dmabridge

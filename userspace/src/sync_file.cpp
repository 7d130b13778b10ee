// SPDX-License-Identifier: MIT
#include "dmabridge/sync_file.hpp"

#include <fmt/format.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "poll_timeout.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

using std::chrono::steady_clock;

// `status` of the kernel's: 1 signalled, 0 not, -errno failed.
auto ask_status(int descriptor) -> std::pair<int, std::int32_t> {
  sync_file_info info{};
  const auto result = sys().ioctl(descriptor, SYNC_IOC_FILE_INFO, &info);
  return {result, info.status};
}

void explain_old_kernel(error_details& details) {
  if (details.code != ENOTTY) return;
  details.detail = "this kernel has no fences of dma-bufs for user space";
  details.remedies = {"boot Linux 6.0 or later",
                      "or let the CPU wait: mapping::begin() does, and needs no fence"};
}

// The time that is left, as poll() wants it.
class countdown {
 public:
  explicit countdown(std::optional<std::chrono::milliseconds> timeout) : timeout_(timeout) {
    if (timeout_) start_ = steady_clock::now();
  }
  auto left() const -> int {
    if (!timeout_) return poll_timeout({});
    const auto gone =
        std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - start_);
    return poll_timeout(*timeout_ - gone);
  }

 private:
  std::optional<std::chrono::milliseconds> timeout_;
  steady_clock::time_point start_{};
};

}  // namespace

auto sync_file::from_fd(fd descriptor) -> sync_file {
  const auto [result, status] = ask_status(descriptor.get());
  if (result < 0) {
    throw error(
        {.kind = error_kind::usage,
         .attempted = fmt::format("use fd {} as a sync_file", descriptor.get()),
         .code = -result,
         .detail = result == -EBADF ? "this process has no such fd" : "it is none",
         .remedies = {"give an fd that ls -l /proc/self/fd shows as anon_inode:sync_file"}});
  }
  return sync_file(std::move(descriptor));
}

auto sync_file::export_from(const buffer& memory, cpu_access access) -> sync_file {
  dma_buf_export_sync_file argument{.flags = static_cast<std::uint32_t>(access), .fd = -1};
  const auto result = sys().ioctl(memory.descriptor(), DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &argument);
  if (result >= 0) return sync_file(fd(argument.fd));
  error_details details{.attempted = "export the fences of a buffer", .code = -result};
  explain_old_kernel(details);
  throw error(std::move(details));
}

void sync_file::import_into(const buffer& memory, cpu_access access) const {
  dma_buf_import_sync_file argument{.flags = static_cast<std::uint32_t>(access),
                                    .fd = descriptor()};
  const auto result = sys().ioctl(memory.descriptor(), DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &argument);
  if (result >= 0) return;
  error_details details{.attempted = "put a fence on a buffer", .code = -result};
  explain_old_kernel(details);
  if (result == -EINVAL) details.detail = "the sync_file is empty: its fd was given away";
  throw error(std::move(details));
}

auto sync_file::merge(const sync_file& one, const sync_file& other) -> sync_file {
  sync_merge_data argument{};
  std::snprintf(argument.name, sizeof(argument.name), "dmabridge");
  argument.fd2 = other.descriptor();
  const auto result = sys().ioctl(one.descriptor(), SYNC_IOC_MERGE, &argument);
  if (result >= 0) return sync_file(fd(argument.fence));
  error_details details{.attempted = "merge two sync_files", .code = -result};
  if (result == -EBADF || result == -ENOENT)
    details.detail = "one of them is empty: its fd was given away";
  throw error(std::move(details));
}

auto sync_file::wait(std::optional<std::chrono::milliseconds> timeout) const -> bool {
  // poll() would wait for ever.
  if (!fd_) {
    throw error({.kind = error_kind::usage,
                 .attempted = "wait for a fence",
                 .detail = "the sync_file is empty: its fd was given away"});
  }
  const countdown time(timeout);
  short seen = 0;
  int result = 0;
  do {
    result = sys().poll(descriptor(), POLLIN, time.left(), seen);
  } while (result == -EINTR);
  error_details details{.attempted = "wait for a fence"};
  if (result > 0 && (seen & POLLNVAL) != 0) result = -EBADF;
  if (result < 0) {
    details.code = -result;
    throw error(std::move(details));
  }
  if (result == 0) return false;
  const auto [asked, status] = ask_status(descriptor());
  if (asked >= 0 && status > 0) return true;
  details.kind = error_kind::io;
  details.code = asked < 0 ? -asked : -status;
  details.detail = asked < 0
                       ? "whether it has failed could not be asked"
                       : "what it stands for has failed, and what the buffer holds is unknown";
  throw error(std::move(details));
}

}  // namespace dmabridge

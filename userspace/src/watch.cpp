// SPDX-License-Identifier: MIT
#include "dmabridge/watch.hpp"

#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <string>
#include <utility>

#include "dmabridge/error.hpp"
#include "ioctl_failure.hpp"
#include "poll_timeout.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

// What a failed DMABRIDGE_IOCTL_WATCH means; empty if the errno says it all.
auto explain(int code, int eventfd) -> std::string {
  const auto both = eventfd != -1;
  switch (code) {
    case EMEDIUMTYPE:
      return "it is a dma-buf of another exporter";
    case ENODEV:
      return "it is revoked already: its device is gone";
    case EINVAL:
      return both ? fmt::format("it is no dma-buf, or fd {} is no eventfd", eventfd)
                  : "it is no dma-buf";
    case EBADF:
      return both ? fmt::format("this process has no such fd, or no fd {} (the eventfd)", eventfd)
                  : "this process has no such fd";
    default:
      return {};
  }
}

[[noreturn]] void fail(const char* attempted, int code, std::string detail = {}) {
  throw error({.kind = error_kind::system,
               .attempted = attempted,
               .code = code,
               .detail = std::move(detail)});
}

}  // namespace

auto buffer_event::from_kernel(const dmabridge_event& raw) -> buffer_event {
  buffer_event event;
  event.generation = raw.generation;
  event.placement = static_cast<dmabridge::placement>(raw.placement);
  event.revoked = (raw.flags & DMABRIDGE_EVENT_REVOKED) != 0;
  event.released = (raw.flags & DMABRIDGE_EVENT_RELEASED) != 0;
  if (raw.reason.code != DMABRIDGE_REASON_NONE) event.reason = reason::from_kernel(raw.reason);
  return event;
}

watch::watch(const control& module, const buffer& memory, int eventfd)
    : watch(module, memory.descriptor(), eventfd) {}

watch::watch(const control& module, int buffer, int eventfd) {
  dmabridge_watch raw{};
  raw.fd = buffer;
  raw.eventfd = eventfd;
  raw.watch_fd = -1;
  const auto result = sys().ioctl(module.descriptor(), DMABRIDGE_IOCTL_WATCH, &raw);
  if (result < 0) {
    auto details = ioctl_failure(fmt::format("watch the buffer of fd {}", buffer), -result,
                                 module.abi_version());
    if (const auto said = explain(-result, eventfd); !said.empty()) details.detail = said;
    throw error(std::move(details));
  }
  fd_ = fd(raw.watch_fd);
  generation_ = raw.generation;
}

auto watch::wait(std::optional<std::chrono::milliseconds> timeout) const -> bool {
  short seen = 0;
  const auto result = sys().poll(descriptor(), POLLIN, poll_timeout(timeout), seen);
  if (result == -EINTR) return false;
  if (result < 0) fail("wait for a buffer's events", -result);
  if ((seen & POLLNVAL) != 0) fail("wait for a buffer's events", EBADF);
  // POLLHUP alone: read() says that it is over.
  return result > 0;
}

auto watch::read() -> std::optional<buffer_event> {
  dmabridge_event raw{};
  const auto result = sys().read(descriptor(), &raw, sizeof(raw));
  if (result == 0) return {};
  if (result < 0) fail("read a buffer's events", static_cast<int>(-result));
  if (static_cast<std::size_t>(result) < sizeof(raw)) {
    fail("read a buffer's events", EPROTO,
         fmt::format("the module gave {} bytes of {}", result, sizeof(raw)));
  }
  return buffer_event::from_kernel(raw);
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/fd.hpp"

#include <fcntl.h>

#include "system_calls.hpp"

namespace dmabridge {
namespace {

auto take(int result, std::error_code& ec) noexcept -> fd {
  if (result < 0) {
    ec.assign(-result, std::generic_category());
    return {};
  }
  ec.clear();
  return fd(result);
}

}  // namespace

auto fd::open(const std::string& path, int flags, mode_t mode, std::error_code& ec) noexcept -> fd {
  return take(sys().open(path.c_str(), flags | O_CLOEXEC, mode), ec);
}

auto fd::open(const std::string& path, int flags, mode_t mode) -> fd {
  std::error_code ec;
  auto opened = open(path, flags, mode, ec);
  if (ec) throw std::system_error(ec, "cannot open " + path);
  return opened;
}

auto fd::duplicate(int descriptor, std::error_code& ec) noexcept -> fd {
  return take(sys().duplicate(descriptor), ec);
}

auto fd::duplicate(int descriptor) -> fd {
  std::error_code ec;
  auto copy = duplicate(descriptor, ec);
  if (ec) throw std::system_error(ec, "cannot duplicate fd " + std::to_string(descriptor));
  return copy;
}

void fd::close(std::error_code& ec) noexcept {
  ec.clear();
  if (descriptor_ == -1) return;
  const auto result = sys().close(release());
  if (result < 0) ec.assign(-result, std::generic_category());
}

void fd::close() {
  std::error_code ec;
  close(ec);
  if (ec) throw std::system_error(ec, "cannot close a file descriptor");
}

void fd::reset(int descriptor) noexcept {
  std::error_code ignored;
  close(ignored);
  descriptor_ = descriptor;
}

}  // namespace dmabridge

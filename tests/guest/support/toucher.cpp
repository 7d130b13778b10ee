// SPDX-License-Identifier: MIT
#include "toucher.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "fixture.hpp"

namespace dmabridge::test {
namespace {

[[noreturn]] void touch_for_ever(const Mapping& mapping, std::atomic<unsigned>& rounds) {
  for (;;) {
    for (std::size_t at = 0; at < mapping.size(); at += 4096)
      *const_cast<volatile std::byte*>(mapping.data() + at) = std::byte(0x77);
    rounds++;
  }
}

}  // namespace

Toucher::Toucher(const Mapping& mapping)
    : shared_(open_file("/dev/zero", O_RDWR).get(), 4096),
      rounds_(*new(shared_.data()) std::atomic<unsigned>(0)),
      process_(fork()) {
  if (process_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (process_ == 0) {
    std::thread([&] { touch_for_ever(mapping, rounds_); }).detach();
    touch_for_ever(mapping, rounds_);
  }
  if (eventually([&] { return rounds_ > 0 || has_ended(); }) && process_ >= 0) return;
  end();
  throw std::runtime_error("the mapping cannot be written");
}

Toucher::~Toucher() {
  end();
}

void Toucher::end() {
  if (process_ < 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
}

bool Toucher::has_ended() {
  if (process_ >= 0 && waitpid(process_, &status_, WNOHANG) == process_) process_ = -1;
  return process_ < 0;
}

bool Toucher::gets_bus_error() {
  return eventually([&] { return has_ended(); }) && WIFSIGNALED(status_) &&
         WTERMSIG(status_) == SIGBUS;
}

}  // namespace dmabridge::test

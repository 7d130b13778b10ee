// SPDX-License-Identifier: MIT
#include "child.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <exception>
#include <iostream>
#include <system_error>

namespace dmabridge::test {

Child::Child(const std::function<void(const Say&)>& work) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0)
    throw std::system_error(errno, std::generic_category(), "pipe2");
  reader_ = Fd(ends[0]);
  const Fd writer(ends[1]);
  process_ = fork();
  if (process_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (process_ > 0) return;
  // Whatever happens, the child must not go on with the tests that come after this one.
  try {
    work([&](std::uint64_t number) {
      if (write(writer.get(), &number, sizeof(number)) != sizeof(number)) _exit(1);
      for (;;) pause();
    });
  } catch (const std::exception& failure) {
    std::cerr << "child: " << failure.what() << '\n';
  }
  _exit(1);
}

std::optional<std::uint64_t> Child::wait() {
  std::uint64_t number = 0;
  if (read(reader_.get(), &number, sizeof(number)) != sizeof(number)) return {};
  return number;
}

void Child::end() {
  if (process_ < 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = -1;
}

}  // namespace dmabridge::test

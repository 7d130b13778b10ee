// SPDX-License-Identifier: MIT
#include "touch.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>

namespace dmabridge::test::conformance {

Touch touch_in_child(const std::byte* at) {
  const pid_t child = fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) {
    *static_cast<const volatile std::byte*>(at);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return Touch::read;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) return Touch::bus_error;
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) return Touch::segmentation_fault;
  return Touch::other;
}

}  // namespace dmabridge::test::conformance

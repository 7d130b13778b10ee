// SPDX-License-Identifier: MIT
#pragma once

#include "support/fd.hpp"

namespace dmabridge::test::conformance {

// By SCM_RIGHTS, with one byte. Throw std::system_error; receive_fd() also std::runtime_error if
// the other side has closed without sending one.
void send_fd(int socket, int fd);
Fd receive_fd(int socket);

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
#include "transfer_fd.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

namespace dmabridge::test::conformance {
namespace {

// One byte, and room for one fd.
struct Message {
  Message() {
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
  }
  Message(const Message&) = delete;

  char byte = 0;
  iovec vector{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
};

}  // namespace

void send_fd(int socket, int fd) {
  Message message;
  cmsghdr* control = CMSG_FIRSTHDR(&message.header);
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN(sizeof(fd));
  std::memcpy(CMSG_DATA(control), &fd, sizeof(fd));
  if (sendmsg(socket, &message.header, MSG_NOSIGNAL) < 0)
    throw std::system_error(errno, std::generic_category(), "sendmsg");
}

Fd receive_fd(int socket) {
  Message message;
  if (recvmsg(socket, &message.header, MSG_CMSG_CLOEXEC) < 0)
    throw std::system_error(errno, std::generic_category(), "recvmsg");
  const cmsghdr* control = CMSG_FIRSTHDR(&message.header);
  if (control == nullptr || control->cmsg_type != SCM_RIGHTS)
    throw std::runtime_error("the command ended, or wrote something, without sending an fd");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(control), sizeof(fd));
  return Fd(fd);
}

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
#include "silent_fuse.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "fixture.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint64_t file_node = FUSE_ROOT_ID + 1;
constexpr std::uint64_t for_ever = 3600;  // seconds: longer than any test

// error: 0 or -errno; then nothing follows the header.
void answer(int device, std::uint64_t unique, int error, const void* body = nullptr,
            std::size_t length = 0) {
  fuse_out_header header{static_cast<std::uint32_t>(sizeof(header) + length), error, unique};
  const std::array<iovec, 2> vectors{
      {{&header, sizeof(header)}, {const_cast<void*>(body), length}}};
  // ENOENT: who asked was killed meanwhile.
  if (writev(device, vectors.data(), length == 0 ? 1 : 2) < 0 && errno != ENOENT)
    std::perror("answer to FUSE");
}

fuse_attr attributes(std::uint64_t node) {
  fuse_attr attr{};
  attr.ino = node;
  attr.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
  attr.nlink = 1;
  attr.size = node == FUSE_ROOT_ID ? 0 : 1 << 20;
  attr.blksize = 4096;
  return attr;
}

void answer_init(int device, std::uint64_t unique) {
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = FUSE_KERNEL_MINOR_VERSION;
  out.max_write = 4096;
  answer(device, unique, 0, &out, sizeof(out));
}

void answer_lookup(int device, std::uint64_t unique) {
  fuse_entry_out out{};
  out.nodeid = file_node;
  out.entry_valid = out.attr_valid = for_ever;
  out.attr = attributes(file_node);
  answer(device, unique, 0, &out, sizeof(out));
}

void answer_getattr(int device, std::uint64_t unique, std::uint64_t node) {
  fuse_attr_out out{};
  out.attr_valid = for_ever;
  out.attr = attributes(node);
  answer(device, unique, 0, &out, sizeof(out));
}

void answer_open(int device, std::uint64_t unique) {
  const fuse_open_out out{};
  answer(device, unique, 0, &out, sizeof(out));
}

// Where fuse is a module its node appears with it.
Fd open_fuse() {
  const Output loaded = shell("modprobe fuse");
  if (loaded.status != 0) throw std::runtime_error(loaded.text);
  return open_file("/dev/fuse", O_RDWR);
}

}  // namespace

SilentFuse::SilentFuse() : device_(open_fuse()), stop_(eventfd(0, EFD_CLOEXEC)) {
  if (!stop_) throw std::system_error(errno, std::generic_category(), "eventfd");
  // Does not wait for the answer to FUSE_INIT.
  mount_.emplace("silent", "fuse",
                 fmt::format("fd={},rootmode=40000,user_id=0,group_id=0", device_.get()));
  server_ = std::thread([this] { serve(); });
}

SilentFuse::~SilentFuse() {
  abort();
}

void SilentFuse::abort() {
  if (!server_.joinable()) return;
  if (eventfd_write(stop_.get(), 1) != 0) std::perror("eventfd");
  server_.join();
  // The connection ends with its last fd.
  device_.reset();
}

void SilentFuse::serve() {
  alignas(fuse_in_header) std::array<char, 64 << 10> request;
  for (;;) {
    std::array<pollfd, 2> ready{{{device_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
    if (poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) return;
    if (ready[1].revents != 0) return;
    if (read(device_.get(), request.data(), request.size()) < 0) {
      if (errno == EINTR || errno == ENOENT) continue;
      std::perror("/dev/fuse");
      return;
    }
    fuse_in_header header;
    std::memcpy(&header, request.data(), sizeof(header));
    switch (header.opcode) {
      case FUSE_INIT:
        answer_init(device_.get(), header.unique);
        break;
      case FUSE_LOOKUP:
        answer_lookup(device_.get(), header.unique);
        break;
      case FUSE_GETATTR:
        answer_getattr(device_.get(), header.unique, header.nodeid);
        break;
      case FUSE_OPEN:
        answer_open(device_.get(), header.unique);
        break;
      case FUSE_READ:
        reads_++;
        break;
      // These have no answer.
      case FUSE_FORGET:
      case FUSE_BATCH_FORGET:
      case FUSE_INTERRUPT:
        break;
      default:
        answer(device_.get(), header.unique, -ENOSYS);
    }
  }
}

}  // namespace dmabridge::test

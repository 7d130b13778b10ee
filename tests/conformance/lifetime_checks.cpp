// SPDX-License-Identifier: MIT
//
// The buffer as a file: what it tells, and who keeps it alive.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dma-buf.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>

#include "check.hpp"
#include "fdinfo.hpp"
#include "support/abi.hpp"
#include "support/fixture.hpp"
#include "transfer_fd.hpp"

namespace dmabridge::test::conformance {
namespace {

constexpr const char* bufinfo = "/sys/kernel/debug/dma_buf/bufinfo";

// Its inode number names a dma-buf; no two ever have the same.
std::uint64_t inode(int buffer) {
  struct stat status{};
  require(fstat(buffer, &status) == 0, "fstat: " + errno_name(errno));
  return status.st_ino;
}

// By the kernel's list of all dma-bufs.
bool exists(std::uint64_t wanted) {
  std::ifstream file(bufinfo);
  if (!file) untried(fmt::format("cannot read {}, where released buffers are missed", bufinfo));
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string size, flags, mode, count, exporter, number;
    if (words >> size >> flags >> mode >> count >> exporter >> number &&
        std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; }) &&
        std::stoull(number) == wanted)
      return true;
  }
  return false;
}

Result size_told(Context& context) {
  const int buffer = context.buffer();
  const std::uint64_t size = context.size();
  require(size != 0 && size % static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)) == 0,
          fmt::format("{} bytes are no whole pages", size));
  require(lseek(buffer, 0, SEEK_SET) == 0, "lseek(0, SEEK_SET): " + errno_name(errno));
  require(lseek(buffer, 1, SEEK_SET) < 0 && errno == EINVAL, "lseek(1, SEEK_SET) is not EINVAL");
  require(lseek(buffer, 0, SEEK_CUR) < 0 && errno == EINVAL, "lseek(0, SEEK_CUR) is not EINVAL");
  const std::uint64_t told = Fdinfo(buffer).number("size");
  require(told == size, fmt::format("lseek() tells {}, fdinfo {}", size, told));
  return {Outcome::pass, fmt::format("{} bytes", size)};
}

Result fdinfo_told(Context& context) {
  const Fdinfo info(context.buffer());
  require(!info.text("exp_name").empty(), "fdinfo has no exp_name");
  require(info.number("count") != 0, "fdinfo counts no reference");
  return {Outcome::pass, info.text("exp_name")};
}

Result writable(Context& context) {
  const int flags = fcntl(context.buffer(), F_GETFL);
  require(flags >= 0, "F_GETFL: " + errno_name(errno));
  const bool both = (flags & O_ACCMODE) == O_RDWR;
  return {both ? Outcome::yes : Outcome::no, both ? "" : "no O_RDWR: no shared writable mmap"};
}

Result name_set(Context& context) {
  const int buffer = context.buffer();
  const char* name = "conformance";
  succeed(ioctl(buffer, DMA_BUF_SET_NAME_B, name) == 0 ? 0 : errno, "DMA_BUF_SET_NAME");
  require(Fdinfo(buffer).text("name") == name, "fdinfo does not tell the name");
  const std::string longest(DMA_BUF_NAME_LEN, 'x');
  require(ioctl(buffer, DMA_BUF_SET_NAME_B, longest.c_str()) < 0 && errno == EINVAL,
          fmt::format("a name of {} bytes is not EINVAL", longest.size()));
  require(Fdinfo(buffer).text("name") == name, "a refused name took the old one");
  return {Outcome::pass, ""};
}

Result handed_on(Context& context) {
  const int buffer = context.buffer();
  const std::uint64_t number = inode(buffer);
  const Fd copy(fcntl(buffer, F_DUPFD_CLOEXEC, 0));
  require(copy && inode(copy.get()) == number, "dup() gives another buffer");

  int sockets[2];
  require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
  const Fd ours(sockets[0]), theirs(sockets[1]);
  const pid_t child = fork();
  require(child >= 0, "fork: " + errno_name(errno));
  if (child == 0) {
    // It has the fd from its parent, and gets another.
    try {
      const Fd got = receive_fd(theirs.get());
      const bool good = inode(got.get()) == number && inode(buffer) == number &&
                        begin_cpu_access(got.get()) == 0 && end_cpu_access(got.get()) == 0;
      _exit(good ? 0 : 1);
    } catch (...) {
      _exit(2);
    }
  }
  send_fd(ours.get(), buffer);
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "a child that has it by fork() and SCM_RIGHTS cannot use it");
  require(inode(copy.get()) == number && begin_cpu_access(copy.get()) == 0 &&
              end_cpu_access(copy.get()) == 0,
          "when the child had ended, it could not be used");
  return {Outcome::pass, ""};
}

// Those who hold a buffer, let go in some order.
struct Holders {
  Fd fd;
  std::optional<Mapping> mapping;
  Attachment attachment;
  std::uint32_t mapped = 0;
  std::uint64_t size = 0;

  enum Holder { by_fd, by_mmap, by_importer };

  void let_go(Holder which) {
    if (which == by_fd) fd.reset();
    if (which == by_mmap) mapping.reset();
    if (which == by_importer) attachment.detach();
  }
  void check(const std::string& order) {
    if (fd)
      require(lseek(fd.get(), 0, SEEK_END) == static_cast<off_t>(size), order + ": the fd is dead");
    if (mapping) {
      auto* byte = reinterpret_cast<volatile unsigned char*>(mapping->data() + size - 1);
      *byte = 0x5a;
      require(*byte == 0x5a, order + ": the mapping lost a byte");
    }
    if (attachment) {
      Table table{};
      succeed(attachment.table(mapped, &table), order + ": the importer's table");
      // One mapping at a time; see Context::each_attached_here().
      succeed(attachment.unmap(mapped), order + ": the importer cannot unmap");
      succeed(attachment.map(&mapped), order + ": the importer cannot map");
    }
  }
};

Holders hold(Context& context) {
  Holders holders;
  holders.size = context.size();
  try {
    holders.mapping.emplace(context.map_whole());
  } catch (const Verdict&) {
    // Then there is one holder less.
  }
  holders.attachment = context.any_attached().second;
  holders.mapped = holders.attachment.map();
  holders.fd = context.take();
  return holders;
}

Result closed_in_any_order(Context& context) {
  const char* names[] = {"fd", "mmap", "importer"};
  std::array<int, 3> order = {0, 1, 2};
  do {
    Holders holders = hold(context);
    const std::uint64_t number = inode(holders.fd.get());
    std::string text = "closed";
    for (const int which : order) {
      holders.let_go(static_cast<Holders::Holder>(which));
      text += std::string(" ") + names[which];
      holders.check(text);
    }
    if (context.exporter().fresh())
      require(eventually([&] { return !exists(number); }, std::chrono::seconds(3)),
              text + ": all are gone, but the buffer is not");
  } while (std::ranges::next_permutation(order).found);
  return {Outcome::pass, context.exporter().fresh() ? "" : "but for the release: others have fds"};
}

}  // namespace

std::vector<Check> lifetime_checks() {
  return {
      {"lifetime", "size", true, "lseek() and fdinfo tell it; it is whole pages",
       "drivers/dma-buf/dma-buf.c: dma_buf_llseek()", size_told},
      {"lifetime", "fdinfo", true, "it has the exporter's name and the references",
       "drivers/dma-buf/dma-buf.c: dma_buf_show_fdinfo()", fdinfo_told},
      {"lifetime", "name", true, "DMA_BUF_SET_NAME names it, in less than 32 bytes",
       "drivers/dma-buf/dma-buf.c: dma_buf_set_name()", name_set},
      {"lifetime", "read and write", false, "whether the fd is O_RDWR",
       "drivers/dma-buf/dma-buf.c: dma_buf_export()", writable},
      {"lifetime", "dup, fork, SCM_RIGHTS", true, "each fd of a buffer is as good as another",
       "drivers/dma-buf/dma-buf.c: dma_buf_get()", handed_on},
      {"lifetime", "closed in any order", true,
       "fd, mapping and importer each keep the buffer alive, and the last lets it go",
       "drivers/dma-buf/dma-buf.c: dma_buf_put(), dma_buf_release()", closed_in_any_order},
  };
}

}  // namespace dmabridge::test::conformance

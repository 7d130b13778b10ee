// SPDX-License-Identifier: MIT
//
// Access by the CPU, in user space and in the kernel.
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <linux/dma-buf.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>

#include "check.hpp"
#include "support/abi.hpp"
#include "support/drives.hpp"
#include "touch.hpp"

namespace dmabridge::test::conformance {
namespace {

constexpr std::uint8_t tag = 0x6c;

std::uint64_t page_size() {
  return static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

int sync(int buffer, std::uint64_t flags) {
  dma_buf_sync argument{};
  argument.flags = flags;
  int error = 0;
  do error = call(buffer, DMA_BUF_IOCTL_SYNC, &argument);
  while (error == -EINTR || error == -EAGAIN);
  return error;
}

// CPU access, from its begin to its end.
class Bracket {
 public:
  Bracket(int buffer, std::uint64_t flags) : buffer_(buffer), flags_(flags) {
    succeed(sync(buffer_, DMA_BUF_SYNC_START | flags_), "DMA_BUF_SYNC_START");
  }
  void end() { succeed(sync(buffer_, DMA_BUF_SYNC_END | flags_), "DMA_BUF_SYNC_END"); }

 private:
  const int buffer_;
  const std::uint64_t flags_;
};

void write_bytes(Context& context, const Mapping& mapping, std::uint8_t with) {
  Bracket access(context.buffer(), DMA_BUF_SYNC_RW);
  fill_pattern(mapping.data(), mapping.size(), with, 0);
  access.end();
}

Result user_access(Context& context) {
  for (const std::uint64_t flags : {DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_RW}) {
    succeed(sync(context.buffer(), DMA_BUF_SYNC_START | flags), fmt::format("start {}", flags));
    succeed(sync(context.buffer(), DMA_BUF_SYNC_END | flags), fmt::format("end {}", flags));
  }
  return {Outcome::pass, ""};
}

Result bad_sync_flags(Context& context) {
  for (const std::uint64_t flags : {std::uint64_t(0), std::uint64_t(DMA_BUF_SYNC_END),
                                    std::uint64_t(DMA_BUF_SYNC_RW | 8), ~std::uint64_t(0)}) {
    const int error = sync(context.buffer(), flags);
    require(error == -EINVAL,
            fmt::format("flags {:#x}: {}", flags, error == 0 ? "taken" : errno_name(error)));
  }
  return {Outcome::pass, ""};
}

Result kernel_access(Context& context) {
  for (const std::uint32_t direction :
       {TEST_IMPORTER_BIDIRECTIONAL, TEST_IMPORTER_TO_DEVICE, TEST_IMPORTER_FROM_DEVICE}) {
    succeed(begin_cpu_access(context.buffer(), direction),
            fmt::format("dma_buf_begin_cpu_access({})", direction));
    succeed(end_cpu_access(context.buffer(), direction),
            fmt::format("dma_buf_end_cpu_access({})", direction));
  }
  return {Outcome::pass, ""};
}

// With a device attached and mapped, as then the exporter has somebody to be coherent with.
Result access_while_mapped(Context& context) {
  auto [importer, attachment] = context.any_attached();
  attachment.map();
  return user_access(context);
}

Result has_mmap(Context& context) {
  try {
    context.map_whole();
  } catch (const Verdict& verdict) {
    return {Outcome::no, verdict.result.detail};
  }
  return {Outcome::yes, ""};
}

Result cleared(Context& context) {
  if (!context.exporter().cleared())
    untried("it is not known whether its owner has put something into the buffer");
  {
    const Mapping old = context.map_whole();
    write_bytes(context, old, tag);
  }
  const std::uint64_t size = context.size();
  context.take().reset();
  const Mapping mapping = context.map_whole();
  Bracket access(context.buffer(), DMA_BUF_SYNC_READ);
  const std::byte* end = mapping.data() + size;
  const std::byte* found = std::find_if(mapping.data(), mapping.data() + size,
                                        [](std::byte b) { return b != std::byte(0); });
  access.end();
  require(found == end, fmt::format("byte {} of a new buffer is {:#x}", found - mapping.data(),
                                    found == end ? 0 : std::to_integer<unsigned>(*found)));
  return {Outcome::pass, ""};
}

Result mmap_offset(Context& context) {
  const std::uint64_t page = page_size(), size = context.size();
  if (size < 2 * page) untried("the buffer is but one page");
  const Mapping whole = context.map_whole();
  write_bytes(context, whole, tag);
  for (const std::uint64_t offset : {page, size - page}) {
    const Mapping part(context.buffer(), page, offset);
    Bracket access(context.buffer(), DMA_BUF_SYNC_READ);
    const std::string found = pattern_difference(part.data(), page, tag, offset);
    access.end();
    require(found.empty(), fmt::format("mapped from byte {}: {}", offset, found));
  }
  return {Outcome::pass, ""};
}

Result mmap_beyond(Context& context) {
  context.map_whole();
  const std::uint64_t page = page_size(), size = context.size();
  const std::pair<std::uint64_t, std::uint64_t> ranges[] = {
      {0, size + page}, {size, page}, {size - page, 2 * page}};
  for (const auto& [offset, length] : ranges) {
    try {
      const Mapping mapping(context.buffer(), length, offset);
      return {Outcome::fail,
              fmt::format("{} bytes from byte {} of {} were mapped", length, offset, size)};
    } catch (const std::system_error& error) {
      require(error.code().value() == EINVAL,
              "refused, but with " + errno_name(error.code().value()));
    }
  }
  return {Outcome::pass, ""};
}

// A mapping that grows is nothing that the core sees again.
Result mmap_grows(Context& context) {
  context.map_whole();
  const std::uint64_t page = page_size(), size = context.size();
  void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, context.buffer(), 0);
  require(start != MAP_FAILED, "mmap: " + errno_name(errno));
  void* grown = mremap(start, size, size + page, MREMAP_MAYMOVE);
  if (grown == MAP_FAILED) return {Outcome::pass, "mremap: " + errno_name(errno)};
  const Touch touch = touch_in_child(static_cast<std::byte*>(grown) + size);
  require(touch == Touch::bus_error || touch == Touch::segmentation_fault,
          "mremap() made the mapping longer than the buffer, and what is behind can be read");
  return {Outcome::pass, "grows, but cannot be touched"};
}

Result mmap_private(Context& context) {
  const Mapping shared = context.map_whole();
  write_bytes(context, shared, tag);
  const std::uint64_t size = context.size();
  void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, context.buffer(), 0);
  if (start == MAP_FAILED) return {Outcome::pass, "refused: " + errno_name(errno)};
  std::memset(start, 0, size);
  Bracket access(context.buffer(), DMA_BUF_SYNC_READ);
  const std::string found = pattern_difference(shared.data(), size, tag, 0);
  access.end();
  require(found.empty(), "a write to a private mapping reached the buffer");
  return {Outcome::pass, "taken, with copies of its own"};
}

Result mmap_shared(Context& context) {
  const Mapping mapping = context.map_whole();
  const std::uint64_t size = context.size();
  // The buffer may have the bytes of another check.
  write_bytes(context, mapping, tag);
  const pid_t child = fork();
  require(child >= 0, "fork: " + errno_name(errno));
  if (child == 0) {
    try {
      const Mapping own(context.buffer(), size);
      write_bytes(context, own, tag + 1);
      _exit(0);
    } catch (...) {
      _exit(1);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "another process cannot map and write");
  Bracket access(context.buffer(), DMA_BUF_SYNC_READ);
  const std::string found = pattern_difference(mapping.data(), size, tag + 1, 0);
  access.end();
  require(found.empty(), "what another process wrote is not seen: " + found);
  return {Outcome::pass, ""};
}

Result long_term_pin(Context& context) {
  const Mapping mapping = context.map_whole();
  io_uring ring{};
  if (const int error = io_uring_queue_init(2, &ring, 0); error != 0)
    untried("io_uring: " + errno_name(error));
  const iovec piece{mapping.data(), std::min<std::uint64_t>(mapping.size(), 64 << 10)};
  const int error = io_uring_register_buffers(&ring, &piece, 1);
  io_uring_queue_exit(&ring);
  return yes_or_no(error);
}

Result has_vmap(Context& context) {
  std::array<std::byte, 16> bytes{};
  return yes_or_no(vmap_read(context.buffer(), 0, bytes.data(), bytes.size()));
}

std::uint32_t vmap_length(Context& context) {
  std::array<std::byte, 16> bytes{};
  if (const int error = vmap_read(context.buffer(), 0, bytes.data(), bytes.size()); error != 0)
    lacks(error, "vmap");
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(context.size(), TEST_IMPORTER_CPU_MAX));
}

Result vmap_keeps(Context& context) {
  const std::uint32_t length = vmap_length(context);
  // Twice other bytes, as the buffer may have those of another check. First and last bytes.
  for (const std::uint8_t with : {tag, std::uint8_t(tag + 1)}) {
    for (const std::uint64_t offset : {std::uint64_t(0), context.size() - length}) {
      std::vector<std::byte> wrote(length), read(length);
      fill_pattern(wrote.data(), length, with, offset);
      succeed(begin_cpu_access(context.buffer()), "begin_cpu_access");
      succeed(vmap_write(context.buffer(), offset, wrote.data(), length), "vmap for writing");
      succeed(vmap_read(context.buffer(), offset, read.data(), length), "vmap for reading");
      succeed(end_cpu_access(context.buffer()), "end_cpu_access");
      require(wrote == read, fmt::format("what is written at byte {} is not read again", offset));
    }
  }
  return {Outcome::pass, ""};
}

Result vmap_is_mmap(Context& context) {
  const std::uint32_t length = vmap_length(context);
  const Mapping mapping = context.map_whole();
  std::vector<std::byte> bytes(length);
  const std::uint64_t offset = context.size() - length;

  write_bytes(context, mapping, tag);
  succeed(begin_cpu_access(context.buffer(), TEST_IMPORTER_FROM_DEVICE), "begin_cpu_access");
  succeed(vmap_read(context.buffer(), offset, bytes.data(), length), "vmap");
  succeed(end_cpu_access(context.buffer(), TEST_IMPORTER_FROM_DEVICE), "end_cpu_access");
  std::string found = pattern_difference(bytes.data(), length, tag, offset);
  require(found.empty(), "vmap does not show what was written through mmap: " + found);

  fill_pattern(bytes.data(), length, tag + 1, offset);
  succeed(begin_cpu_access(context.buffer(), TEST_IMPORTER_TO_DEVICE), "begin_cpu_access");
  succeed(vmap_write(context.buffer(), offset, bytes.data(), length), "vmap");
  succeed(end_cpu_access(context.buffer(), TEST_IMPORTER_TO_DEVICE), "end_cpu_access");
  Bracket access(context.buffer(), DMA_BUF_SYNC_READ);
  found = pattern_difference(mapping.data() + offset, length, tag + 1, offset);
  access.end();
  require(found.empty(), "mmap does not show what was written through vmap: " + found);
  return {Outcome::pass, ""};
}

}  // namespace

std::vector<Check> cpu_checks() {
  const char* access_doc = "drivers/dma-buf/dma-buf.c: DOC: cpu access";
  const char* mmap_doc = "include/linux/dma-buf.h: dma_buf_ops.mmap";
  const char* vmap_doc = "drivers/dma-buf/dma-buf.c: dma_buf_vmap()";
  return {
      {"cpu", "begin and end, user space", true, "DMA_BUF_IOCTL_SYNC works for each direction",
       access_doc, user_access},
      {"cpu", "the same while mapped", true, "also with a device that has it mapped", access_doc,
       access_while_mapped},
      {"cpu", "bad flags are refused", true, "unknown or no direction flags: EINVAL",
       "drivers/dma-buf/dma-buf.c: dma_buf_ioctl()", bad_sync_flags},
      {"cpu", "begin and end, kernel", true, "the same for kernel code",
       "drivers/dma-buf/dma-buf.c: dma_buf_begin_cpu_access()", kernel_access},
      {"cpu", "mmap", false, "whether user space can map it (optional)", mmap_doc, has_mmap},
      {"cpu", "new memory is zeros", true, "memory is cleared of any old data",
       "include/linux/dma-buf.h: dma_buf_ops.pin, map_dma_buf", cleared},
      {"cpu", "mmap at an offset", true, "vm_pgoff is the place in the buffer",
       "drivers/dma-buf/dma-buf.c: dma_buf_mmap()", mmap_offset},
      {"cpu", "mmap beyond the end", true, "a buffer's size never changes; EINVAL", mmap_doc,
       mmap_beyond},
      {"cpu", "mremap beyond the end", true, "nor can a mapping grow over it", mmap_doc,
       mmap_grows},
      {"cpu", "mmap private", true, "refused, or its writes stay private", "mmap(2): MAP_PRIVATE",
       mmap_private},
      {"cpu", "mmap by two processes", true, "all mappings show one memory", mmap_doc, mmap_shared},
      {"cpu", "pages can be pinned", false,
       "whether a mapping's pages take a long-term pin (io_uring fixed buffer, RDMA by address)",
       "mm/gup.c: FOLL_LONGTERM", long_term_pin},
      {"cpu", "vmap", false, "whether the kernel can map it (optional)", vmap_doc, has_vmap},
      {"cpu", "vmap keeps bytes", true, "what is written is read again by the next vmap", vmap_doc,
       vmap_keeps},
      {"cpu", "vmap and mmap agree", true, "both show one memory, within begin and end", access_doc,
       vmap_is_mmap},
  };
}

}  // namespace dmabridge::test::conformance

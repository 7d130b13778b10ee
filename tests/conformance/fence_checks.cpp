// SPDX-License-Identifier: MIT
//
// Fences: what others who use the buffer are told of DMA that is under way. An attachment of the
// test importer puts them there, as a driver does for its DMA.
#include <fmt/format.h>
#include <linux/dma-buf.h>
#include <poll.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "check.hpp"
#include "support/abi.hpp"
#include "support/fixture.hpp"

namespace dmabridge::test::conformance {
namespace {

// Long enough for a call that does not wait to have ended. A slower machine finds less, and never
// a fault where there is none.
constexpr auto a_moment = std::chrono::milliseconds(50);

short ready(int fd, short events) {
  pollfd entry{fd, events, 0};
  const int count = poll(&entry, 1, 0);
  require(count >= 0, "poll: " + errno_name(errno));
  return entry.revents;
}

// Whether the fd comes to be ready for what was asked.
bool becomes_ready(int fd, short events) {
  return eventually([&] { return ready(fd, events) == events; }, std::chrono::seconds(3));
}

int export_fences(int buffer, std::uint32_t flags, Fd* file) {
  dma_buf_export_sync_file argument{};
  argument.flags = flags;
  argument.fd = -1;
  const int error = call(buffer, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &argument);
  if (error == 0) *file = Fd(argument.fd);
  return error;
}

int import_fences(int buffer, std::uint32_t flags, int file) {
  dma_buf_import_sync_file argument{};
  argument.flags = flags;
  argument.fd = file;
  return call(buffer, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &argument);
}

Fd exported(int buffer, std::uint32_t flags) {
  Fd file;
  const int error = export_fences(buffer, flags, &file);
  if (error == -ENOTTY) lacks(error, "the kernel has no sync files");
  succeed(error, "DMA_BUF_IOCTL_EXPORT_SYNC_FILE");
  return file;
}

Result idle_is_ready(Context& context) {
  require(becomes_ready(context.buffer(), POLLIN), "poll(POLLIN): not ready though nobody uses it");
  require(becomes_ready(context.buffer(), POLLOUT),
          "poll(POLLOUT): not ready though nobody uses it");
  return {Outcome::pass, ""};
}

struct Usage {
  std::uint32_t usage;
  const char* name;
  bool readable, writable;  // with such a fence pending
};
constexpr Usage usages[] = {
    {TEST_IMPORTER_USAGE_KERNEL, "KERNEL", false, false},
    {TEST_IMPORTER_USAGE_WRITE, "WRITE", false, false},
    {TEST_IMPORTER_USAGE_READ, "READ", true, false},
    {TEST_IMPORTER_USAGE_BOOKKEEP, "BOOKKEEP", true, true},
};

Result poll_tells(Context& context) {
  auto [importer, attachment] = context.any_attached();
  for (const Usage& usage : usages) {
    attachment.add_fence(usage.usage);
    const bool in = ready(context.buffer(), POLLIN) != 0,
               out = ready(context.buffer(), POLLOUT) != 0;
    attachment.signal();
    require(in == usage.readable && out == usage.writable,
            fmt::format("with a {} fence pending: POLLIN {}, POLLOUT {}", usage.name, in, out));
    require(becomes_ready(context.buffer(), POLLIN) && becomes_ready(context.buffer(), POLLOUT),
            fmt::format("not ready though the {} fence is signalled", usage.name));
  }
  return {Outcome::pass, ""};
}

Result export_tells(Context& context) {
  auto [importer, attachment] = context.any_attached();
  require(ready(exported(context.buffer(), DMA_BUF_SYNC_RW).get(), POLLIN) != 0,
          "the fence of an idle buffer is not signalled");
  for (const Usage& usage : usages) {
    attachment.add_fence(usage.usage);
    const Fd read = exported(context.buffer(), DMA_BUF_SYNC_READ),
             write = exported(context.buffer(), DMA_BUF_SYNC_RW);
    const bool in = ready(read.get(), POLLIN) != 0, out = ready(write.get(), POLLIN) != 0;
    attachment.signal();
    require(in == usage.readable && out == usage.writable,
            fmt::format("with a {} fence pending: for reading signalled {}, for writing {}",
                        usage.name, in, out));
    require(becomes_ready(read.get(), POLLIN) && becomes_ready(write.get(), POLLIN),
            fmt::format("not signalled with the {} fence", usage.name));
  }
  return {Outcome::pass, ""};
}

Result import_counts(Context& context) {
  auto [importer, attachment] = context.any_attached();
  attachment.add_fence(TEST_IMPORTER_USAGE_READ);
  const Fd readers = exported(context.buffer(), DMA_BUF_SYNC_RW);
  require(ready(context.buffer(), POLLIN) != 0, "a READ fence keeps readers away");
  succeed(import_fences(context.buffer(), DMA_BUF_SYNC_WRITE, readers.get()),
          "DMA_BUF_IOCTL_IMPORT_SYNC_FILE");
  const bool in = ready(context.buffer(), POLLIN) != 0;
  attachment.signal();
  require(!in, "a fence imported for writing does not keep readers away");
  require(becomes_ready(context.buffer(), POLLIN), "not ready though it is signalled");
  return {Outcome::pass, ""};
}

Result bad_fence_flags(Context& context) {
  const Fd good = exported(context.buffer(), DMA_BUF_SYNC_RW);
  for (const std::uint32_t flags : {0u, 4u, 8u | DMA_BUF_SYNC_RW}) {
    Fd file;
    int error = export_fences(context.buffer(), flags, &file);
    require(error == -EINVAL, fmt::format("export with flags {:#x}: {}", flags, errno_name(error)));
    error = import_fences(context.buffer(), flags, good.get());
    require(error == -EINVAL, fmt::format("import with flags {:#x}: {}", flags, errno_name(error)));
  }
  const int error = import_fences(context.buffer(), DMA_BUF_SYNC_RW, context.buffer());
  require(error == -EINVAL, "import of what is no sync file: " + errno_name(error));
  return {Outcome::pass, ""};
}

Result access_waits(Context& context) {
  auto [importer, attachment] = context.any_attached();
  attachment.add_fence(TEST_IMPORTER_USAGE_WRITE);
  std::atomic<int> error = 1;
  std::thread reader([&, buffer = context.buffer()] {
    dma_buf_sync argument{};
    argument.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ;
    error = call(buffer, DMA_BUF_IOCTL_SYNC, &argument);
  });
  std::this_thread::sleep_for(a_moment);
  const bool waited = error == 1;
  attachment.signal();
  reader.join();
  require(waited, "DMA_BUF_SYNC_START did not wait for a writer's fence");
  succeed(error, "DMA_BUF_SYNC_START");
  dma_buf_sync argument{};
  argument.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ;
  succeed(call(context.buffer(), DMA_BUF_IOCTL_SYNC, &argument), "DMA_BUF_SYNC_END");
  return {Outcome::pass, ""};
}

}  // namespace

std::vector<Check> fence_checks() {
  const char* poll_doc = "drivers/dma-buf/dma-buf.c: DOC: implicit fence polling";
  const char* file_doc = "include/uapi/linux/dma-buf.h: dma_buf_export_sync_file";
  return {
      {"fence", "ready when idle", true, "a buffer that nobody uses has no pending fence", poll_doc,
       idle_is_ready},
      {"fence", "poll", true, "POLLIN waits for writers, POLLOUT for readers too", poll_doc,
       poll_tells},
      {"fence", "export", true, "a sync file holds what poll waits for", file_doc, export_tells},
      {"fence", "import", true, "an imported fence counts like a driver's",
       "include/uapi/linux/dma-buf.h: dma_buf_import_sync_file", import_counts},
      {"fence", "bad flags are refused", true, "flags other than READ and WRITE, or none: EINVAL",
       file_doc, bad_fence_flags},
      {"fence", "CPU access waits", true, "begin_cpu_access waits for DMA under way",
       "drivers/dma-buf/dma-buf.c: dma_buf_begin_cpu_access()", access_waits},
  };
}

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
//
// Copies a file by way of a device's memory, by io_uring commands in this program's own ring: with
// liburing and what dmabridge(4) documents, and no library of dmabridge. Where the machine can do
// it, the bytes go from drive to device to drive, and none of them through system memory.
#include <dmabridge/uapi.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 8, BLOCK = 128 << 10 };

// A part of the buffer, and the block of the file that is passing through it.
struct slot {
  uint64_t buffer_offset, file_offset;
  uint32_t wanted;  // bytes of the block
  uint32_t done;    // of them: read, and then written
  bool writing;
};

struct job {
  struct io_uring ring;
  int from, to;  // the bindings
  uint64_t size, next;
  uint32_t align;
  unsigned busy;  // slots
  int error;      // -errno of what failed first
};

static const char* incomplete;  // removed again if this ends early

static void remove_incomplete(void) {
  if (incomplete != NULL) unlink(incomplete);
}

static int must_open(const char* path, int flags, const char* hint) {
  const int file = open(path, flags | O_CLOEXEC, 0644);
  if (file < 0) err(1, "cannot open %s%s", path, hint);
  return file;
}

static void must_ioctl(int file, unsigned long request, void* argument, const char* what) {
  if (ioctl(file, request, argument) != 0) err(1, "cannot %s", what);
}

static void print_reasons(FILE* to, const struct dmabridge_verdict* verdict) {
  for (uint32_t i = 0; i < verdict->nr_reasons && i < DMABRIDGE_MAX_REASONS; i++) {
    const struct dmabridge_reason* why = &verdict->reasons[i];
    const unsigned where = (unsigned)why->device;
    fprintf(to, "  because: reason %u of dmabridge-reasons(7), value %llu %s", why->code,
            (unsigned long long)why->value, why->name);
    if (why->flags & DMABRIDGE_REASON_HAS_DEVICE)
      fprintf(to, " %04x:%02x:%02x.%u", where >> 16, where >> 8 & 255, where >> 3 & 31, where & 7);
    fputc('\n', to);
  }
}

static int bind_file(int control, int buffer, int file, const char* name, uint32_t policy,
                     uint32_t way) {
  struct dmabridge_bind bind = {.fd = buffer, .target_fd = file, .policy = policy, .flags = way};
  bind.importer = DMABRIDGE_IMPORTER_BLOCK;
  if (ioctl(control, DMABRIDGE_IOCTL_BIND, &bind) == 0) return bind.binding_fd;
  warn("cannot bind %s to the buffer", name);
  print_reasons(stderr, &bind.verdict);
  exit(1);
}

// By which routes the bytes went, as the kernel counted them.
static void tell(const char* what, int binding) {
  static const char* const names[DMABRIDGE_NR_ROUTES] = {
      "none", "p2p_bus", "p2p_host_bridge", "stolen", "system", "bounce", "unproved"};
  struct dmabridge_binding_info info = {0};
  must_ioctl(binding, DMABRIDGE_IOCTL_BINDING, &info, "ask a binding for its counters");
  for (int route = 0; route < DMABRIDGE_NR_ROUTES; route++) {
    if (info.routes[route].bytes == 0) continue;
    printf("%s: route %s, %llu bytes in %llu commands\n", what,
           names[route] != NULL ? names[route] : "unknown",
           (unsigned long long)info.routes[route].bytes,
           (unsigned long long)info.routes[route].commands);
  }
  print_reasons(stdout, &info.verdict);
}

// The rest of the slot's block, in whole units of the drive.
static void queue(struct job* job, struct slot* slot) {
  const struct dmabridge_uring_cmd command = {.file_offset = slot->file_offset + slot->done};
  const uint32_t length = (slot->wanted - slot->done + job->align - 1) / job->align * job->align;
  // The ring has an entry for each slot.
  struct io_uring_sqe* sqe = io_uring_get_sqe(&job->ring);
  io_uring_prep_rw(IORING_OP_URING_CMD, sqe, slot->writing ? job->to : job->from, NULL, length, 0);
  sqe->cmd_op = slot->writing ? DMABRIDGE_URING_WRITE : DMABRIDGE_URING_READ;
  sqe->addr = slot->buffer_offset + slot->done;
  memcpy(sqe->cmd, &command, sizeof(command));
  io_uring_sqe_set_data(sqe, slot);
}

static void begin(struct job* job, struct slot* slot, bool writing) {
  slot->writing = writing;
  slot->done = 0;
  queue(job, slot);
}

static void read_next(struct job* job, struct slot* slot) {
  if (job->error != 0 || job->next == job->size) return;
  const uint64_t left = job->size - job->next;
  slot->file_offset = job->next;
  slot->wanted = left < BLOCK ? (uint32_t)left : BLOCK;
  job->next += slot->wanted;
  job->busy++;
  begin(job, slot, false);
}

static void complete(struct job* job, struct slot* slot, int result) {
  if (result <= 0) {
    // 0: the file has become shorter.
    if (job->error == 0) job->error = result < 0 ? result : -EIO;
    job->busy--;
    return;
  }
  slot->done += (uint32_t)result;
  if (slot->done < slot->wanted) {
    queue(job, slot);
  } else if (!slot->writing) {
    begin(job, slot, true);
  } else {
    job->busy--;
    read_next(job, slot);
  }
}

// Some slots read while others write. What is in flight is waited for in any case.
static void run(struct job* job) {
  struct slot slots[DEPTH];
  for (unsigned i = 0; i < DEPTH; i++) {
    slots[i].buffer_offset = (uint64_t)i * BLOCK;
    read_next(job, &slots[i]);
  }
  while (job->busy > 0) {
    struct io_uring_cqe* cqe = NULL;
    const int error = io_uring_submit_and_wait(&job->ring, 1);
    if (error < 0 && error != -EINTR) errx(1, "io_uring: %s", strerror(-error));
    while (io_uring_peek_cqe(&job->ring, &cqe) == 0) {
      struct slot* slot = io_uring_cqe_get_data(cqe);
      const int result = cqe->res;
      io_uring_cqe_seen(&job->ring, cqe);
      complete(job, slot, result);
    }
  }
  if (job->error != 0) errx(1, "the copy failed: %s", strerror(-job->error));
}

static void copy(const char* from, const char* to, const char* node, uint32_t policy) {
  const int control = must_open("/dev/dmabridge", O_RDWR, " (as root: modprobe dmabridge_block)");
  const int region = must_open(node, O_RDWR, " (dmabridge info lists the regions)");
  struct dmabridge_alloc buffer = {.size = DEPTH * BLOCK, .policy = policy};
  must_ioctl(region, DMABRIDGE_IOCTL_ALLOC, &buffer, "allocate a buffer in the region");

  struct stat file;
  const int source = must_open(from, O_RDONLY, "");
  if (fstat(source, &file) != 0) err(1, "%s", from);
  if (!S_ISREG(file.st_mode) || file.st_size == 0) errx(1, "%s is no file, or an empty one", from);
  const int target = must_open(to, O_RDWR | O_CREAT | O_EXCL, "");
  incomplete = to;
  // File systems take writes to blocks that are there.
  errno = posix_fallocate(target, 0, (file.st_size + BLOCK - 1) / BLOCK * BLOCK);
  if (errno != 0) err(1, "%s", to);

  struct job job = {.size = (uint64_t)file.st_size};
  job.from = bind_file(control, buffer.fd, source, from, policy, DMABRIDGE_BIND_READ);
  job.to = bind_file(control, buffer.fd, target, to, policy, DMABRIDGE_BIND_WRITE);
  struct dmabridge_binding_info in = {0}, out = {0};
  must_ioctl(job.from, DMABRIDGE_IOCTL_BINDING, &in, "ask a binding for its alignment");
  must_ioctl(job.to, DMABRIDGE_IOCTL_BINDING, &out, "ask a binding for its alignment");
  job.align = in.offset_align > out.offset_align ? in.offset_align : out.offset_align;

  const int error = io_uring_queue_init(DEPTH, &job.ring, 0);
  if (error != 0) errx(1, "cannot set up an io_uring: %s", strerror(-error));
  run(&job);
  // The last block was written in whole units.
  if (ftruncate(target, file.st_size) != 0 || fsync(target) != 0) err(1, "%s", to);
  incomplete = NULL;
  tell("read", job.from);
  tell("written", job.to);
}

int main(int count, char** arguments) {
  static const char usage[] =
      "usage: ring-copy [--require] FROM TO /dev/dmabridge-REGION\n\n"
      "Copies a file by way of a buffer in that region. TO must not be there.\n\n"
      "  --require  refuse what is not peer to peer\n";
  const bool require = count > 1 && strcmp(arguments[1], "--require") == 0;
  if (count > 1 && strcmp(arguments[1], "--help") == 0) return fputs(usage, stdout) < 0;
  if (count != 4 + require) return fputs(usage, stderr), 2;
  char** names = arguments + 1 + require;
  atexit(remove_incomplete);
  copy(names[0], names[1], names[2], require ? DMABRIDGE_POLICY_REQUIRE : DMABRIDGE_POLICY_PREFER);
  return 0;
}

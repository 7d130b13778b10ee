// SPDX-License-Identifier: MIT
#include "command_ring.hpp"

#include <liburing.h>

#include <cerrno>
#include <utility>

#include "dmabridge/error.hpp"

namespace dmabridge {

struct native_ring::state {
  io_uring ring{};
};

namespace {

// What does not depend on how a command becomes an SQE.
class io_uring_ring : public command_ring {
 public:
  explicit io_uring_ring(io_uring& ring) : ring_(ring) {}

  void queue(const command& what) override {
    auto* sqe = io_uring_get_sqe(&ring_);
    prepare(*sqe, what);
    io_uring_sqe_set_data64(sqe, what.tag);
    ++carried_;
  }

  void submit() override { io_uring_submit(&ring_); }

  auto submit_and_wait(std::span<completion> done) -> int override {
    io_uring_cqe* cqe = nullptr;
    auto result = io_uring_submit_and_wait(&ring_, 1);
    // The kernel cannot take more at the moment, and has not waited either. What it has will end,
    // and make room.
    if ((result == -EAGAIN || result == -EBUSY) && carried_ > io_uring_sq_ready(&ring_)) {
      result = io_uring_wait_cqe(&ring_, &cqe);
    }
    if (result < 0) return result;
    std::size_t count = 0;
    while (count < done.size() && io_uring_peek_cqe(&ring_, &cqe) == 0) {
      done[count++] = {.tag = static_cast<std::uint32_t>(io_uring_cqe_get_data64(cqe)),
                       .result = cqe->res};
      io_uring_cqe_seen(&ring_, cqe);
      --carried_;
    }
    return static_cast<int>(count);
  }

 protected:
  virtual void prepare(io_uring_sqe& sqe, const command& what) const = 0;

 private:
  io_uring& ring_;
  unsigned carried_ = 0;  // commands, those that are queued only among them
};

class binding_ring final : public io_uring_ring {
 public:
  binding_ring(io_uring& ring, const binding& between, direction way)
      : io_uring_ring(ring), between_(between), way_(way) {}

 private:
  void prepare(io_uring_sqe& sqe, const command& what) const override {
    if (way_ == direction::read) {
      between_.prepare_read(sqe, what.file_offset, what.buffer_offset, what.length);
    } else {
      between_.prepare_write(sqe, what.file_offset, what.buffer_offset, what.length);
    }
  }

  const binding& between_;
  direction way_;
};

class memory_ring final : public io_uring_ring {
 public:
  memory_ring(io_uring& ring, int target, std::span<std::byte> memory, direction way)
      : io_uring_ring(ring), target_(target), memory_(memory), way_(way) {}

 private:
  void prepare(io_uring_sqe& sqe, const command& what) const override {
    const auto bytes = memory_.subspan(what.buffer_offset, what.length);
    if (way_ == direction::read) {
      io_uring_prep_read(&sqe, target_, bytes.data(), what.length, what.file_offset);
    } else {
      io_uring_prep_write(&sqe, target_, bytes.data(), what.length, what.file_offset);
    }
  }

  int target_;
  std::span<std::byte> memory_;
  direction way_;
};

[[noreturn]] void fail_setup(int code) {
  error_details details{
      .kind = error_kind::system, .attempted = "set up an io_uring", .code = code};
  if (code == EPERM || code == EACCES) {
    details.detail = "io_uring is forbidden here";
    details.remedies = {
        "sysctl kernel.io_uring_disabled=0, or run this as root; in a container, "
        "allow io_uring in its seccomp profile"};
  }
  if (code == ENOSYS) {
    details.detail = "this kernel has no io_uring, or a seccomp profile hides it";
    details.remedies = {"use a kernel with CONFIG_IO_URING; in a container, allow io_uring"};
  }
  if (code == ENOMEM) {
    details.detail = "not enough memory that may be locked";
    details.remedies = {"raise ulimit -l, or use a smaller queue depth"};
  }
  throw error(std::move(details));
}

}  // namespace

native_ring::native_ring(unsigned entries) : state_(std::make_unique<state>()) {
  // Completions then run when this thread waits for them, instead of interrupting it.
  auto result = io_uring_queue_init(entries, &state_->ring,
                                    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
  // Kernels before 6.1 know neither flag.
  if (result == -EINVAL) result = io_uring_queue_init(entries, &state_->ring, 0);
  if (result < 0) fail_setup(-result);
}

native_ring::~native_ring() {
  io_uring_queue_exit(&state_->ring);
}

auto native_ring::carry(const binding& between, direction way) -> std::unique_ptr<command_ring> {
  return std::make_unique<binding_ring>(state_->ring, between, way);
}

auto native_ring::carry(int target, std::span<std::byte> memory, direction way)
    -> std::unique_ptr<command_ring> {
  return std::make_unique<memory_ring>(state_->ring, target, memory, way);
}

}  // namespace dmabridge

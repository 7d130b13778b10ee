// SPDX-License-Identifier: MIT
#include "ring.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "patience.hpp"

namespace dmabridge::test {

Ring::Ring(unsigned entries, unsigned flags) {
  const int error = io_uring_queue_init(entries, &ring_, flags);
  if (error != 0) throw std::system_error(-error, std::generic_category(), "io_uring_queue_init");
}

Ring::~Ring() {
  io_uring_queue_exit(&ring_);
}

io_uring_sqe* Ring::next() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) throw std::runtime_error("the submission queue is full");
  return sqe;
}

void Ring::submit() {
  const int result = io_uring_submit(&ring_);
  if (result < 0) throw std::system_error(-result, std::generic_category(), "io_uring_submit");
}

int Ring::wait(std::uint64_t* user_data) {
  io_uring_cqe* cqe = nullptr;
  int error;
  do {
    error = io_uring_submit_and_wait(&ring_, 1);
  } while (error == -EINTR);
  if (error >= 0) error = io_uring_wait_cqe(&ring_, &cqe);
  if (error != 0) throw std::system_error(-error, std::generic_category(), "io_uring_wait_cqe");
  const int result = cqe->res;
  if (user_data != nullptr) *user_data = cqe->user_data;
  io_uring_cqe_seen(&ring_, cqe);
  return result;
}

bool Ring::wait_for(unsigned milliseconds, int* result) {
  const auto limit = patience(std::chrono::milliseconds(milliseconds)).count();
  __kernel_timespec time{limit / 1000, limit % 1000 * 1000000};
  io_uring_cqe* cqe = nullptr;
  const int error = io_uring_wait_cqe_timeout(&ring_, &cqe, &time);
  if (error == -ETIME) return false;
  if (error != 0)
    throw std::system_error(-error, std::generic_category(), "io_uring_wait_cqe_timeout");
  *result = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  return true;
}

io_uring_sqe* Ring::prepare(int binding, std::uint32_t operation, std::uint64_t buffer_offset,
                            std::uint32_t length, std::uint64_t file_offset,
                            std::uint64_t user_data) {
  io_uring_sqe* sqe = next();
  io_uring_prep_rw(IORING_OP_URING_CMD, sqe, binding, nullptr, length, 0);
  sqe->off = 0;
  sqe->cmd_op = operation;
  sqe->addr = buffer_offset;
  sqe->user_data = user_data;
  const dmabridge_uring_cmd command{file_offset, 0, 0};
  std::memcpy(sqe->cmd, &command, sizeof(command));
  return sqe;
}

int Ring::transfer(int binding, std::uint32_t operation, std::uint64_t buffer_offset,
                   std::uint32_t length, std::uint64_t file_offset) {
  prepare(binding, operation, buffer_offset, length, file_offset);
  submit();
  return wait();
}

std::int64_t Ring::transfer_all(int binding, std::uint32_t operation, std::uint64_t buffer_offset,
                                std::uint64_t length, std::uint64_t file_offset,
                                std::uint32_t piece, unsigned depth) {
  std::vector<std::int64_t> results((length + piece - 1) / piece);
  std::size_t queued = 0, completed = 0;
  while (completed < results.size()) {
    while (queued < results.size() && queued - completed < depth) {
      const std::uint64_t at = queued * static_cast<std::uint64_t>(piece);
      prepare(binding, operation, buffer_offset + at,
              static_cast<std::uint32_t>(std::min<std::uint64_t>(piece, length - at)),
              file_offset + at, queued);
      queued++;
    }
    submit();
    std::uint64_t index = 0;
    const int result = wait(&index);
    results.at(index) = result;
    completed++;
  }
  std::int64_t total = 0;
  for (std::size_t i = 0; i < results.size(); i++) {
    if (results[i] < 0) return results[i];
    total += results[i];
    if (results[i] != static_cast<std::int64_t>(std::min<std::uint64_t>(piece, length - i * piece)))
      break;
  }
  return total;
}

}  // namespace dmabridge::test

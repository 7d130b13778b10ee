// SPDX-License-Identifier: MIT
#include "bounce_ring.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>

#include "dmabridge/error.hpp"

namespace dmabridge {
namespace {

constexpr std::uint64_t huge_page = std::uint64_t{2} << 20;

}  // namespace

// Huge pages, so that a command is a few large pieces for the drive, need an address that they
// divide and room for whole ones, which small memory would not have by itself. They may not be had,
// and nothing depends on them.
staging_memory::staging_memory(std::uint64_t size)
    : room_((size + huge_page - 1) / huge_page * huge_page + huge_page),
      at_(::mmap(nullptr, room_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
  if (at_ == MAP_FAILED) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("get {} bytes to bounce through", size),
                 .code = errno,
                 .remedies = {"use a smaller queue depth or block size, or free memory"}});
  }
  auto* const begin =
      static_cast<std::byte*>(at_) + -reinterpret_cast<std::uintptr_t>(at_) % huge_page;
  ::madvise(begin, room_ - huge_page, MADV_HUGEPAGE);
  bytes_ = {begin, size};
}

staging_memory::~staging_memory() {
  ::munmap(at_, room_);
}

bounce_ring::bounce_ring(command_ring& io, std::span<std::byte> staging, copy_session& copies,
                         direction way, unsigned depth, std::uint32_t block)
    : io_(io), staging_(staging), copies_(copies), way_(way), block_(block), commands_(depth) {
  failed_.reserve(depth);
}

auto bounce_ring::staged(const command& what, std::size_t length) const -> std::span<std::byte> {
  return staging_.subspan(std::uint64_t{what.tag} * block_, length);
}

auto bounce_ring::copied(auto copy) -> bool {
  try {
    copy();
    return true;
  } catch (...) {
    if (!failure_) failure_ = std::current_exception();
    return false;
  }
}

void bounce_ring::queue(const command& what) {
  commands_[what.tag] = what;
  const auto bytes = staged(what, what.length);
  if (way_ == direction::write && !copied([&] { copies_.copy_out(what.buffer_offset, bytes); })) {
    failed_.push_back(what.tag);
    return;
  }
  auto io = what;
  io.buffer_offset = std::uint64_t{what.tag} * block_;
  io_.queue(io);
  // Or else nothing would be under way while the next one is copied.
  if (way_ == direction::write) io_.submit();
}

auto bounce_ring::submit_and_wait(std::span<completion> done) -> int {
  if (!failed_.empty()) {
    done[0] = {.tag = failed_.back(), .result = -EIO};
    failed_.pop_back();
    return 1;
  }
  const auto count = io_.submit_and_wait(done.first(1));
  if (count <= 0 || way_ == direction::write || done[0].result <= 0) return count;
  const auto& what = commands_[done[0].tag];
  const auto bytes = staged(what, static_cast<std::size_t>(done[0].result));
  if (!copied([&] { copies_.copy_in(what.buffer_offset, bytes); })) done[0].result = -EIO;
  return count;
}

void bounce_ring::rethrow() const {
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace dmabridge

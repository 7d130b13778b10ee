// SPDX-License-Identifier: MIT
// A ring whose commands take two steps: I/O to or from memory of ours, and the owner's copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <vector>

#include "command_ring.hpp"
#include "dmabridge/exported_memory.hpp"

namespace dmabridge {

// `size` bytes in pages of ours, huge ones where the kernel has some. Throws dmabridge::error.
class staging_memory {
 public:
  explicit staging_memory(std::uint64_t size);
  staging_memory(const staging_memory&) = delete;
  auto operator=(const staging_memory&) -> staging_memory& = delete;
  ~staging_memory();

  auto bytes() const noexcept -> std::span<std::byte> { return bytes_; }

 private:
  std::uint64_t room_;  // of the mapping, in which bytes_ lie
  void* at_;
  std::span<std::byte> bytes_{};
};

// Copies run on the caller's thread, one at a time, while the I/O of the other commands is under
// way: submit_and_wait() gives one completion at a time, so that its place is taken again before
// the next copy. A copy that fails is a completion with -EIO; what was thrown is kept.
class bounce_ring final : public command_ring {
 public:
  // `io` moves bytes between the target and `staging`, which has room for `depth` commands of
  // `block` bytes, the one with tag N at N * block. All have to outlive it.
  bounce_ring(command_ring& io, std::span<std::byte> staging, copy_session& copies, direction way,
              unsigned depth, std::uint32_t block);

  void queue(const command& what) override;
  void submit() override { io_.submit(); }
  auto submit_and_wait(std::span<completion> done) -> int override;

  // Throws again what the owner's first copy that failed threw, if one did.
  void rethrow() const;

 private:
  auto staged(const command& what, std::size_t length) const -> std::span<std::byte>;
  auto copied(auto copy) -> bool;

  command_ring& io_;
  std::span<std::byte> staging_;
  copy_session& copies_;
  direction way_;
  std::uint32_t block_;
  std::vector<command> commands_;      // by tag
  std::vector<std::uint32_t> failed_;  // tags that never became I/O
  std::exception_ptr failure_{};
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// Memory that some API owns, together with the dma-buf by which others reach it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"

namespace dmabridge {

// Many copies in a row, of one direction, by one thread. The owner outlives it.
class DMABRIDGE_API copy_session {
 public:
  virtual ~copy_session();

  // As memory_owner's.
  virtual void copy_in(std::uint64_t offset, std::span<const std::byte> from) = 0;
  virtual void copy_out(std::uint64_t offset, std::span<std::byte> into) = 0;
  // After the last copy. Throws dmabridge::error if it turns out only now that they did not arrive;
  // where it is not called the destructor does the same, and ignores errors.
  virtual void end() = 0;

 protected:
  copy_session() = default;
  copy_session(const copy_session&) = default;
  auto operator=(const copy_session&) -> copy_session& = default;
};

// What the API that owns the memory can do with it. Offsets count from the start of the exported
// range, which need not be the start of the dma-buf.
class DMABRIDGE_API memory_owner {
 public:
  virtual ~memory_owner();

  // For people: "vulkan (llvmpipe)", "udmabuf".
  virtual auto name() const -> std::string = 0;

  // Move bytes the way that this owner likes best, and return when they are there; devices that use
  // the memory meanwhile are waited for. Throw dmabridge::error, also if the range is not all in
  // the memory.
  virtual void copy_in(std::uint64_t offset, std::span<const std::byte> from) = 0;
  virtual void copy_out(std::uint64_t offset, std::span<std::byte> into) = 0;

  // For many of them: what need be done once only, as waiting for devices, is done here and at the
  // end. `access` is the CPU's: write to copy in, read to copy out. Unless the owner knows better
  // each copy stands by itself. Throws dmabridge::error.
  virtual auto begin_copies(cpu_access access) -> std::unique_ptr<copy_session>;

  // A mapping of the same memory whose pages can be pinned, so that O_DIRECT, registered io_uring
  // buffers and ibv_reg_mr() work on it: of all of the exported range, in the same place as long as
  // this object lives. Empty: there is none, which is so for nearly every mapping of a dma-buf
  // itself.
  virtual auto pinnable() const noexcept -> std::span<std::byte>;

 protected:
  memory_owner() = default;
  memory_owner(const memory_owner&) = default;
  auto operator=(const memory_owner&) -> memory_owner& = default;
};

// Owns the fd and keeps the owner's allocation alive; both end with it, the fd first.
class DMABRIDGE_API exported_memory {
 public:
  // Throws dmabridge::error unless [offset, offset + size) is in the dma-buf, and not empty, and
  // all of it in what the owner lets be pinned, if there is that.
  exported_memory(buffer memory, std::uint64_t offset, std::uint64_t size,
                  std::unique_ptr<memory_owner> owner);

  // The whole dma-buf.
  auto memory() const noexcept -> const buffer& { return memory_; }
  // Where in it the exported range begins, and how long that is, in bytes.
  auto offset() const noexcept -> std::uint64_t { return offset_; }
  auto size() const noexcept -> std::uint64_t { return size_; }
  auto owner() const noexcept -> memory_owner& { return *owner_; }

 private:
  std::unique_ptr<memory_owner> owner_;  // declared first, so that it goes last
  buffer memory_;
  std::uint64_t offset_;
  std::uint64_t size_;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// Registrations that are kept for the next one who wants the same.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/rdma_importer.hpp"

namespace dmabridge {

struct cache_limits {
  std::size_t entries = 1024;
  std::uint64_t bytes = std::uint64_t{16} << 30;  // of all registrations together
};

struct cache_counters {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t evicted = 0;   // for want of room
  std::uint64_t outdated = 0;  // their buffer had moved or was revoked
  std::uint64_t orphaned = 0;  // their buffer object was gone
  std::size_t entries = 0;     // now
  std::uint64_t bytes = 0;     // now
};

// Keyed by the dma-buf itself (its inode), offset, length, iova, access and policy, on the one
// device of its importer: never by the number of an fd, which may be another buffer's by now. An
// entry lives for as long as the buffer object (or the one that it was moved to) with which it was
// first asked for, and for as long as the buffer neither moves nor is revoked. What is handed out
// stays an MR while it is held, also after its entry is gone. Threads may share a cache.
class DMABRIDGE_API registration_cache {
 public:
  // `importer` has to outlive the cache, and what was handed out has to end before its protection
  // domain does.
  explicit registration_cache(const rdma_importer& importer, cache_limits limits = {});
  registration_cache(const registration_cache&) = delete;
  auto operator=(const registration_cache&) -> registration_cache& = delete;
  ~registration_cache();

  // Throws as rdma_importer::register_memory() does. Room is made by dropping what was not asked
  // for longest and is held by nobody; what finds no room is registered and not kept.
  auto get(const buffer& memory, const registration_request& wanted)
      -> std::shared_ptr<const memory_region>;

  auto counters() const -> cache_counters;
  // Drops every entry; what is held stays an MR.
  void clear();

 private:
  struct state;
  std::shared_ptr<state> state_;
};

}  // namespace dmabridge

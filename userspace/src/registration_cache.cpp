// SPDX-License-Identifier: MIT
#include "dmabridge/registration_cache.hpp"

#include <iterator>
#include <list>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "buffer_life.hpp"

namespace dmabridge {
namespace {

struct cache_key {
  std::uint64_t inode = 0;  // of a dma-buf: all of them are in one file system
  registration_request request{};

  auto operator==(const cache_key&) const -> bool = default;
};

struct hash_of_key {
  auto operator()(const cache_key& key) const noexcept -> std::size_t {
    const auto& request = key.request;
    std::uint64_t mixed = key.inode;
    for (const std::uint64_t part :
         {request.offset, request.length, request.iova.value_or(~std::uint64_t{0}),
          std::uint64_t{static_cast<unsigned>(request.access)},
          std::uint64_t{static_cast<std::uint32_t>(request.policy)}}) {
      mixed = (mixed ^ part) * 0x9e3779b97f4a7c15U;
      mixed ^= mixed >> 32;
    }
    return static_cast<std::size_t>(mixed);
  }
};

// A registration keeps its dma-buf alive, and so its key is nobody else's for as long as it is
// here.
struct cache_entry {
  cache_key key{};
  std::shared_ptr<const memory_region> region{};
  std::weak_ptr<buffer_life> life{};
};

// Entries that are out of the cache. To deregister takes long: lists of them are declared before
// the lock's guard, and so are emptied after it. Moving entries between lists allocates nothing.
using entries_list = std::list<cache_entry>;

}  // namespace

// Lock: everything but the two constants.
struct registration_cache::state final : buffer_observer {
  state(const rdma_importer& with, cache_limits most) : importer(with), limits(most) {}

  const rdma_importer& importer;
  const cache_limits limits;
  mutable std::mutex lock{};
  entries_list entries{};  // the one asked for last is in front
  std::unordered_map<cache_key, entries_list::iterator, hash_of_key> index{};
  cache_counters count{};

  void drop(entries_list::iterator entry, entries_list& dropped) {
    count.bytes -= entry->region->length();
    index.erase(entry->key);
    dropped.splice(dropped.end(), entries, entry);
  }

  auto has_room(std::uint64_t length) const -> bool {
    return entries.size() < limits.entries && length <= limits.bytes &&
           count.bytes <= limits.bytes - length;
  }

  void make_room(std::uint64_t length, entries_list& dropped) {
    // What cannot fit throws nobody out.
    if (limits.entries == 0 || length > limits.bytes) return;
    for (auto entry = entries.end(); entry != entries.begin() && !has_room(length);) {
      const auto candidate = std::prev(entry);
      if (candidate->region.use_count() > 1) {
        entry = candidate;
        continue;
      }
      drop(candidate, dropped);
      ++count.evicted;
    }
  }

  // The entry that fits, in front of the others; nullptr: there is none.
  auto find(const cache_key& key, entries_list& dropped) -> std::shared_ptr<const memory_region> {
    const auto found = index.find(key);
    if (found == index.end()) return {};
    const auto entry = found->second;
    if (!entry->region->current()) {
      drop(entry, dropped);
      ++count.outdated;
      return {};
    }
    entries.splice(entries.begin(), entries, entry);
    return entry->region;
  }

  void buffer_gone(std::uint64_t inode) noexcept override {
    entries_list dropped;
    const std::lock_guard guard(lock);
    for (auto entry = entries.begin(); entry != entries.end();) {
      const auto next = std::next(entry);
      if (entry->key.inode == inode && entry->life.expired()) {
        drop(entry, dropped);
        ++count.orphaned;
      }
      entry = next;
    }
  }
};

registration_cache::registration_cache(const rdma_importer& importer, cache_limits limits)
    : state_(std::make_shared<state>(importer, limits)) {}

registration_cache::~registration_cache() = default;

auto registration_cache::get(const buffer& memory, const registration_request& wanted)
    -> std::shared_ptr<const memory_region> {
  const cache_key key{.inode = memory.inode(), .request = wanted};
  {
    entries_list dropped;
    const std::lock_guard guard(state_->lock);
    if (auto region = state_->find(key, dropped)) {
      ++state_->count.hits;
      return region;
    }
    ++state_->count.misses;
  }
  auto region =
      std::make_shared<const memory_region>(state_->importer.register_memory(memory, wanted));

  memory.life()->tell(state_);
  entries_list fresh;
  fresh.push_back({.key = key, .region = region, .life = memory.life()});
  entries_list dropped;
  const std::lock_guard guard(state_->lock);
  // Somebody else was faster: theirs stays, and this one ends with its holder.
  if (state_->index.contains(key)) return region;
  state_->make_room(region->length(), dropped);
  if (!state_->has_room(region->length())) return region;
  state_->index.emplace(key, fresh.begin());
  state_->entries.splice(state_->entries.begin(), fresh);
  state_->count.bytes += region->length();
  return region;
}

auto registration_cache::counters() const -> cache_counters {
  const std::lock_guard guard(state_->lock);
  auto count = state_->count;
  count.entries = state_->entries.size();
  return count;
}

void registration_cache::clear() {
  entries_list dropped;
  const std::lock_guard guard(state_->lock);
  state_->index.clear();
  state_->count.bytes = 0;
  dropped.splice(dropped.end(), state_->entries);
}

}  // namespace dmabridge

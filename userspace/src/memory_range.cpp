// SPDX-License-Identifier: MIT
#include "memory_range.hpp"

#include <fmt/format.h>

#include <limits>

#include "dmabridge/error.hpp"
#include "page.hpp"

namespace dmabridge {

void check_copy(const memory_owner& owner, std::uint64_t memory_size, std::uint64_t offset,
                std::uint64_t length) {
  if (offset <= memory_size && length <= memory_size - offset) return;
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("copy {} bytes at {} of the memory of {}", length, offset,
                                        owner.name()),
               .detail = fmt::format("it has {} bytes", memory_size)});
}

void check_address_range(const char* attempted, std::uint64_t address, std::uint64_t size) {
  // The last page of all addresses is left out, so that rounding to pages cannot go round.
  const auto end = std::numeric_limits<std::uint64_t>::max() - page_size();
  if (address != 0 && size != 0 && address <= end && size <= end - address) return;
  throw error({.kind = error_kind::usage,
               .attempted = attempted,
               .detail = fmt::format("{} bytes at address {:#x} are no memory", size, address)});
}

void check_new_size(const char* attempted, std::uint64_t size) {
  if (size != 0 && size <= std::numeric_limits<std::uint64_t>::max() - 2 * page_size()) return;
  throw error({.kind = error_kind::usage,
               .attempted = attempted,
               .detail = fmt::format("{} bytes are no size for it", size)});
}

auto round_to_pages(std::uint64_t size) -> std::uint64_t {
  return (size + page_size() - 1) / page_size() * page_size();
}

auto surroundings(const buffer& memory, std::uint64_t offset, std::uint64_t size) -> std::string {
  if (offset > memory.size() || size > memory.size() - offset) return {};  // refused later
  const auto behind = memory.size() - offset - size;
  if (offset == 0 && behind == 0) return {};
  return fmt::format("its dma-buf also shows {} bytes before and {} behind", offset, behind);
}

auto owner_name(const std::string& api, const std::string& device,
                const std::vector<std::string>& notes) -> std::string {
  auto name = fmt::format("{} ({}", api, device);
  for (const auto& note : notes) {
    if (!note.empty()) name += "; " + note;
  }
  return name + ")";
}

}  // namespace dmabridge

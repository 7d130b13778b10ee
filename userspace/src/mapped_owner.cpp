// SPDX-License-Identifier: MIT
#include "mapped_owner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"

namespace dmabridge {
namespace {

struct explanation {
  std::string detail;
  std::vector<std::string> remedies;
};

// Why a dma-buf cannot be mapped.
auto explain(int code, const exporter_rules& rules, const std::string& exporter, bool writing)
    -> explanation {
  if (code == EACCES) {
    return {writing ? "this fd of the dma-buf is for reading only"
                    : "this fd of the dma-buf is not for reading",
            {"have it exported for reading and writing: O_RDWR, or DRM_RDWR with PRIME"}};
  }
  const std::vector<std::string> other_ways = {
      "copy by the API that owns the memory, or by a device: block I/O, RDMA or a GPU"};
  if (!rules.is_known()) {
    return {fmt::format("its exporter, {}, is unknown to this library, and has refused a mapping",
                        exporter.empty() ? "which /proc does not tell" : exporter),
            other_ways};
  }
  if (rules.mappable == answer::no)
    return {fmt::format("{} cannot be mapped by the CPU, none of it", rules.what), other_ways};
  if (rules.mappable == answer::unknown)
    return {fmt::format("not all {} can be mapped by the CPU", rules.what), other_ways};
  return {};
}

}  // namespace

void check_in_memory(const memory_owner& owner, std::uint64_t offset, std::uint64_t length,
                     std::uint64_t size) {
  if (offset <= size && length <= size - offset) return;
  throw error({.kind = error_kind::usage,
               .attempted = fmt::format("copy {} bytes at {} of the memory of {}", length, offset,
                                        owner.name()),
               .detail = fmt::format("it has {} bytes", size)});
}

mapped_owner::mapped_owner(std::string name, const buffer& memory, std::uint64_t offset,
                           std::uint64_t size, exporter_rules rules)
    : name_(std::move(name)),
      rules_(rules),
      offset_(offset),
      size_(size),
      memory_(buffer::duplicate(memory.descriptor())) {}

auto mapped_owner::map(cpu_access protection, cpu_access access) const -> mapping {
  try {
    return memory_.map(protection);
  } catch (const error& failure) {
    const bool writing = access != cpu_access::read;
    auto why = explain(failure.code(), rules_, memory_.exporter(), writing);
    throw error({.kind = failure.kind(),
                 .attempted = fmt::format("copy bytes {} the memory of {}",
                                          writing ? "into" : "out of", name_),
                 .code = failure.code(),
                 .detail = std::move(why.detail),
                 .remedies = std::move(why.remedies)});
  }
}

// For both at once where that goes, so that one mapping does.
auto mapped_owner::mapped(cpu_access access) -> const mapping& {
  if (mapping_ && (writable_ || access == cpu_access::read)) return *mapping_;
  try {
    mapping_ = map(cpu_access::read_write, access);
    writable_ = true;
  } catch (const error& failure) {
    if (access != cpu_access::read || failure.code() != EACCES) throw;
    mapping_ = map(cpu_access::read, access);
  }
  return *mapping_;
}

// To read as well, as a cache line may be written that is not all new.
void mapped_owner::copy_in(std::uint64_t offset, std::span<const std::byte> from) {
  check_in_memory(*this, offset, from.size(), size_);
  if (from.empty()) return;
  const auto& map = mapped(cpu_access::read_write);
  map.begin(cpu_access::read_write);
  std::ranges::copy(from, map.bytes().data() + offset_ + offset);
  map.end(cpu_access::read_write);
}

void mapped_owner::copy_out(std::uint64_t offset, std::span<std::byte> into) {
  check_in_memory(*this, offset, into.size(), size_);
  if (into.empty()) return;
  const auto& map = mapped(cpu_access::read);
  map.begin(cpu_access::read);
  std::ranges::copy(map.bytes().subspan(offset_ + offset, into.size()), into.data());
  map.end(cpu_access::read);
}

}  // namespace dmabridge

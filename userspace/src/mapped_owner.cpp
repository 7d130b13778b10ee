// SPDX-License-Identifier: MIT
#include "mapped_owner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"
#include "dmabuf_sync.hpp"
#include "memory_range.hpp"

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

// Copies between the begin and the end of one access to the dma-buf.
class mapped_copies final : public copy_session {
 public:
  // `bytes` are the memory of `owner`, mapped from `dmabuf`; all of that stays where it is.
  mapped_copies(const memory_owner& owner, std::span<std::byte> bytes, int dmabuf,
                cpu_access access)
      : owner_(owner), bytes_(bytes), access_(dmabuf, access) {}

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    check_copy(owner_, bytes_.size(), offset, from.size());
    std::ranges::copy(from, bytes_.data() + offset);
  }
  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    check_copy(owner_, bytes_.size(), offset, into.size());
    std::ranges::copy(bytes_.subspan(offset, into.size()), into.data());
  }
  void end() override { access_.end(); }

 private:
  const memory_owner& owner_;
  std::span<std::byte> bytes_;
  dmabuf_access access_;
};

}  // namespace

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
auto mapped_owner::begin_copies(cpu_access access) -> std::unique_ptr<copy_session> {
  if (access != cpu_access::read) access = cpu_access::read_write;
  const auto bytes = mapped(access).bytes().subspan(offset_, size_);
  return std::make_unique<mapped_copies>(*this, bytes, memory_.descriptor(), access);
}

void mapped_owner::copy_in(std::uint64_t offset, std::span<const std::byte> from) {
  check_copy(*this, size_, offset, from.size());
  if (from.empty()) return;
  const auto one = begin_copies(cpu_access::write);
  one->copy_in(offset, from);
  one->end();
}

void mapped_owner::copy_out(std::uint64_t offset, std::span<std::byte> into) {
  check_copy(*this, size_, offset, into.size());
  if (into.empty()) return;
  const auto one = begin_copies(cpu_access::read);
  one->copy_out(offset, into);
  one->end();
}

}  // namespace dmabridge

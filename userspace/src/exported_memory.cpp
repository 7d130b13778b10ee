// SPDX-License-Identifier: MIT
#include "dmabridge/exported_memory.hpp"

#include <fmt/format.h>

#include <utility>

#include "dmabridge/error.hpp"

namespace dmabridge {
namespace {

// Each copy by itself.
class single_copies final : public copy_session {
 public:
  explicit single_copies(memory_owner& owner) : owner_(owner) {}

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    owner_.copy_in(offset, from);
  }
  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    owner_.copy_out(offset, into);
  }
  void end() override {}

 private:
  memory_owner& owner_;
};

}  // namespace

copy_session::~copy_session() = default;
memory_owner::~memory_owner() = default;

auto memory_owner::begin_copies(cpu_access) -> std::unique_ptr<copy_session> {
  return std::make_unique<single_copies>(*this);
}

auto memory_owner::pinnable() const noexcept -> std::span<std::byte> {
  return {};
}

exported_memory::exported_memory(buffer memory, std::uint64_t offset, std::uint64_t size,
                                 std::unique_ptr<memory_owner> owner)
    : owner_(std::move(owner)), memory_(std::move(memory)), offset_(offset), size_(size) {
  if (size_ == 0 || offset_ > memory_.size() || size_ > memory_.size() - offset_) {
    throw error({.kind = error_kind::usage,
                 .attempted = fmt::format("use a range of {} bytes from {} of the memory of {}",
                                          size_, offset_, owner_->name()),
                 .detail = fmt::format("the dma-buf has {} bytes", memory_.size())});
  }
  // Who pins a part of it takes the address for granted.
  const auto pinnable = owner_->pinnable().size();
  if (pinnable != 0 && pinnable < size_) {
    throw error(
        {.kind = error_kind::usage,
         .attempted = fmt::format("use {} bytes of the memory of {}", size_, owner_->name()),
         .detail = fmt::format("its mapping that can be pinned has {} bytes", pinnable)});
  }
}

}  // namespace dmabridge

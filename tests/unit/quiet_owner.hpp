// SPDX-License-Identifier: MIT
// An owner of memory that copies nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "dmabridge/exported_memory.hpp"

namespace dmabridge::test {

class quiet_owner : public memory_owner {
 public:
  explicit quiet_owner(std::span<std::byte> pinnable = {}) : pinnable_(pinnable) {}

  auto name() const -> std::string override { return "some API"; }
  void copy_in(std::uint64_t, std::span<const std::byte>) override {}
  void copy_out(std::uint64_t, std::span<std::byte>) override {}
  auto pinnable() const noexcept -> std::span<std::byte> override { return pinnable_; }

 private:
  std::span<std::byte> pinnable_;
};

}  // namespace dmabridge::test

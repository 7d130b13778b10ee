// SPDX-License-Identifier: MIT
// Memory that is copied through a CPU mapping of its dma-buf.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "dmabridge/buffer.hpp"
#include "dmabridge/exported_memory.hpp"
#include "dmabridge/exporter_rules.hpp"

namespace dmabridge {

class mapped_owner : public memory_owner {
 public:
  // Of [offset, offset + size) of `memory`, of which it takes an fd of its own. `rules` say why
  // there is no mapping, if there is none: it is made when the first byte is copied.
  mapped_owner(std::string name, const buffer& memory, std::uint64_t offset, std::uint64_t size,
               exporter_rules rules);

  auto name() const -> std::string override { return name_; }
  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override;
  void copy_out(std::uint64_t offset, std::span<std::byte> into) override;
  auto begin_copies(cpu_access access) -> std::unique_ptr<copy_session> override;

 private:
  auto mapped(cpu_access access) -> const mapping&;
  auto map(cpu_access protection, cpu_access access) const -> mapping;

  std::string name_;
  exporter_rules rules_;
  std::uint64_t offset_;
  std::uint64_t size_;
  buffer memory_;
  std::optional<mapping> mapping_;
  bool writable_ = false;
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/any_memory.hpp"

#include <memory>
#include <utility>

#include "dmabridge/exporter_rules.hpp"
#include "mapped_owner.hpp"

namespace dmabridge {

auto any_memory(buffer memory) -> exported_memory {
  const auto size = memory.size();
  return any_memory(std::move(memory), 0, size);
}

auto any_memory(buffer memory, std::uint64_t offset, std::uint64_t size) -> exported_memory {
  const auto exporter = memory.exporter();
  auto name = exporter.empty() ? "an unknown exporter" : exporter;
  auto owner =
      std::make_unique<mapped_owner>(std::move(name), memory, offset, size, rules_of(exporter));
  return {std::move(memory), offset, size, std::move(owner)};
}

}  // namespace dmabridge

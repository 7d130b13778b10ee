// SPDX-License-Identifier: MIT
//
// Memory of every exporter, as the library makes it: the rows of
// docs/exporters-and-importers.json.
#pragma once

#include <dmabridge/exported_memory.hpp>
#include <dmabridge/vulkan_device.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dmabridge::test {

// Set up for as long as it lives, which is longer than its memory does.
class Exporter {
 public:
  virtual ~Exporter() = default;

  // Why it cannot be run here; empty: it can.
  virtual std::string missing() const { return {}; }
  // At least so many bytes. Throws dmabridge::error, std::exception.
  virtual exported_memory make(std::uint64_t size) const = 0;
  // The drive that loads into its memory.
  virtual std::string drive() const { return "SAMESW"; }
  // The first bytes of its memory as a third party finds them, who is neither importer nor owner:
  // the host, if they are on a device; else whoever maps the dma-buf.
  virtual std::vector<std::byte> seen(const exported_memory& memory, std::uint64_t size) const;
};

// Ids of the table's rows, in its order.
const std::vector<std::string>& exporter_ids();
// Throws std::exception if the guest has not what it needs.
std::unique_ptr<Exporter> make_exporter(const std::string& id);

// The Vulkan device of this process, for both directions.
const vulkan_device& vulkan();

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
#include "attach_fixture.hpp"

#include <fmt/format.h>

#include <sstream>

#include "machine.hpp"

namespace dmabridge::test {
namespace {

std::string print(const test_importer_segment& segment) {
  return fmt::format("{:#x}+{:#x}", segment.address, segment.length);
}

}  // namespace

std::uint64_t AttachTest::available() {
  return std::stoull(oracle::read_line(
      fmt::format("/sys/bus/pci/devices/{}/p2pmem/available", pci_address(first_region().device))));
}

void AttachTest::write_pattern(int buffer, std::uint64_t size, std::uint8_t with) {
  const Mapping mapping(buffer, size);
  fill_pattern(mapping.data(), size, with, 0);
}

std::string AttachTest::difference(int buffer, std::uint64_t size, std::uint8_t with) {
  const Mapping mapping(buffer, size);
  std::string found = pattern_difference(mapping.data(), size, with, 0);
  if (!found.empty()) return "by the CPU: " + found;
  if (placement(buffer) != DMABRIDGE_PLACEMENT_DEVICE) return "";
  const auto bytes = host_bytes(buffer, 0, size);
  found = pattern_difference(bytes.data(), size, with, 0);
  return found.empty() ? "" : "by the host: " + found;
}

std::string AttachTest::not_on_device(const Table& table, int buffer) {
  if (table.shows_cpu_side()) return "the table has struct pages";
  const Query found = query(buffer);
  if (found.head.placement != DMABRIDGE_PLACEMENT_DEVICE) return "the buffer is not on its device";
  const std::uint64_t bar = region_window().start;
  auto chunk = found.chunks.begin();
  std::uint64_t done = 0;  // of the chunk
  for (const auto& segment : table.segments) {
    if (chunk == found.chunks.end()) return "the table is longer than the buffer";
    if (segment.address != bar + chunk->offset + done || segment.length > chunk->length - done)
      return fmt::format("{} where {:#x}+{:#x} ought to be", print(segment),
                         bar + chunk->offset + done, chunk->length - done);
    done += segment.length;
    if (done == chunk->length) {
      chunk++;
      done = 0;
    }
  }
  return chunk == found.chunks.end() ? "" : "the table is shorter than the buffer";
}

std::string AttachTest::not_in_system(const Table& table, std::uint64_t size) {
  if (table.length() != size)
    return fmt::format("the table has {} bytes, the buffer {}", table.length(), size);
  const auto bar = region_window();
  for (const auto& segment : table.segments) {
    if (segment.address < bar.start + bar.length && bar.start < segment.address + segment.length)
      return print(segment) + " is in the BAR";
    if (segment.address % 4096 != 0 || segment.length % 4096 != 0)
      return print(segment) + " is not of whole pages";
  }
  return "";
}

}  // namespace dmabridge::test

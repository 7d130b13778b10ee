// SPDX-License-Identifier: MIT
#include "host_view.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "machine.hpp"
#include "named_device.hpp"
#include "trace.hpp"

namespace dmabridge::test {
namespace {

constexpr const char* trace_path = "/host/trace.log";

dmabridge_region_info region_with_id(std::uint32_t id) {
  for (const dmabridge_region_info& region : regions()) {
    if (region.id == id) return region;
  }
  throw std::runtime_error(fmt::format("there is no region {}", id));
}

}  // namespace

std::vector<std::byte> host_read(const std::string& name, std::uint64_t offset,
                                 std::uint64_t length) {
  const std::string path = "/host/" + name;
  const Fd fd = open_file(path, O_RDONLY);
  std::vector<std::byte> bytes(length);
  for (std::uint64_t at = 0; at < length;) {
    const ssize_t got =
        pread(fd.get(), bytes.data() + at, length - at, static_cast<off_t>(offset + at));
    if (got < 0) throw std::system_error(errno, std::generic_category(), path);
    if (got == 0) throw std::runtime_error(fmt::format("{} ends at {}", path, offset + at));
    at += static_cast<std::uint64_t>(got);
  }
  return bytes;
}

std::vector<std::byte> host_bytes(int buffer, std::uint64_t offset, std::uint64_t length) {
  const Query found = query(buffer);
  if (found.head.placement != DMABRIDGE_PLACEMENT_DEVICE)
    throw std::runtime_error("the buffer is not on its device");
  const HostMemory memory = host_memory(region_with_id(found.head.region_id));
  std::vector<std::byte> bytes;
  std::uint64_t start = 0;  // of the chunk, in the buffer
  for (const dmabridge_chunk& chunk : found.chunks) {
    const std::uint64_t first = std::max(offset, start),
                        last = std::min<std::uint64_t>(offset + length, start + chunk.length);
    if (first < last) {
      const auto piece =
          host_read(memory.file, memory.offset + chunk.offset + (first - start), last - first);
      bytes.insert(bytes.end(), piece.begin(), piece.end());
    }
    start += chunk.length;
  }
  if (bytes.size() != length)
    throw std::runtime_error(fmt::format("the chunks hold {} of {} bytes", bytes.size(), length));
  return bytes;
}

oracle::Window region_window(const dmabridge_region_info& region) {
  if (region.kind == DMABRIDGE_REGION_STOLEN) {
    const HostMemory memory = host_memory(region);
    return {memory.stolen.value(), memory.size};
  }
  return oracle::bar_window(pci_address(region.device), region.bar);
}

TraceWatch::TraceWatch() {
  restart();
}

void TraceWatch::restart() {
  struct stat status;
  if (stat(trace_path, &status) != 0)
    throw std::runtime_error(
        "no trace: start the guest with tests/run, or with --trace 'pci_nvme_*'");
  begin_ = static_cast<std::uint64_t>(status.st_size);
}

std::vector<oracle::Command> TraceWatch::commands() const {
  return oracle::read_trace(trace_path, begin_);
}

oracle::Account TraceWatch::account(const Drive& drive, oracle::Operation operation,
                                    const std::vector<oracle::Extent>& extents,
                                    const oracle::Window& window) const {
  return oracle::account(commands(), {drive.nsid, operation, extents, window});
}

}  // namespace dmabridge::test

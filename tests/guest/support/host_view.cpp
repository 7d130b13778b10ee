// SPDX-License-Identifier: MIT
#include "host_view.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <system_error>

#include "machine.hpp"
#include "trace.hpp"

namespace dmabridge::test {
namespace {

constexpr const char* trace_path = "/host/trace.log";

// The topologies have one memory each; its image's name begins with this.
std::string memory_image() {
  std::string found;
  for (const auto& entry : std::filesystem::directory_iterator("/host")) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("vram-")) continue;
    if (!found.empty()) throw std::runtime_error("more than one memory in this topology");
    found = name;
  }
  if (found.empty()) throw std::runtime_error("no memory in this topology");
  return found;
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
  const std::string image = memory_image();
  std::vector<std::byte> bytes;
  std::uint64_t start = 0;  // of the chunk, in the buffer
  for (const dmabridge_chunk& chunk : found.chunks) {
    const std::uint64_t first = std::max(offset, start),
                        last = std::min<std::uint64_t>(offset + length, start + chunk.length);
    if (first < last) {
      const auto piece = host_read(image, chunk.offset + (first - start), last - first);
      bytes.insert(bytes.end(), piece.begin(), piece.end());
    }
    start += chunk.length;
  }
  if (bytes.size() != length)
    throw std::runtime_error(fmt::format("the chunks hold {} of {} bytes", bytes.size(), length));
  return bytes;
}

oracle::Window region_window() {
  const dmabridge_region_info region = first_region();
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
                                    const std::vector<oracle::Extent>& extents) const {
  return oracle::account(commands(), {drive.nsid, operation, extents, region_window()});
}

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
#include "fixture.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "machine.hpp"

namespace dmabridge::test {

bool eventually(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + patience(limit);
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

int write_text(const std::string& path, const std::string& text) {
  const Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return -errno;
  return write(fd.get(), text.data(), text.size()) < 0 ? -errno : 0;
}

Output shell(const std::string& command) {
  FILE* pipe = popen(("{ " + command + "\n} 2>&1").c_str(), "re");
  if (pipe == nullptr) throw std::system_error(errno, std::generic_category(), "popen");
  Output output{};
  std::array<char, 4096> piece;
  for (std::size_t got; (got = fread(piece.data(), 1, piece.size(), pipe)) > 0;)
    output.text.append(piece.data(), got);
  const int status = pclose(pipe);
  output.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return output;
}

namespace {

struct Leak {
  std::uint64_t size, available, counted;
  std::uint32_t buffers;
  bool none() const { return available == size && counted == size && buffers == 0; }
};

// Twice: by the kernel's pool where there is one, and by the exporter's own count.
Leak look(const dmabridge_region_info& region) {
  std::uint64_t pool = region.available;
  if (region.kind == DMABRIDGE_REGION_BAR && (region.flags & DMABRIDGE_REGION_HAS_PAGES) != 0)
    pool = std::stoull(oracle::read_line(
        fmt::format("/sys/bus/pci/devices/{}/p2pmem/available", pci_address(region.device))));
  return {region.size, pool, region.available, region.nr_buffers};
}

}  // namespace

void GuestTest::TearDown() {
  ASSERT_FALSE(regions().empty()) << "the test left no region";
  for (const dmabridge_region_info& region : regions()) {
    // A ring's last references go in the background.
    Leak leak{};
    const bool clean = eventually([&] {
      for (const dmabridge_region_info& now : regions()) {
        if (now.id == region.id) leak = look(now);
      }
      return leak.none();
    });
    EXPECT_TRUE(clean) << "leak in region " << region.name << ": of " << leak.size
                       << " bytes the pool has " << leak.available << ", the region counts "
                       << leak.counted << " as free, and has " << leak.buffers << " buffers";
  }
}

}  // namespace dmabridge::test

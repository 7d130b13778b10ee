// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <span>

#include "fixture.hpp"
#include "vgem.hpp"

namespace dmabridge::test {

// A buffer, a target and a binding of the two, with what tests ask of them.
struct Bound {
  Fd buffer;
  Fd target;
  Binding binding;

  int fd() const { return binding.fd.get(); }
  dmabridge_binding_info info() const { return binding_info(fd()); }
  // Bytes that the binding counted on a route.
  std::uint64_t bytes_on(std::uint32_t route) const { return info().routes[route].bytes; }
  std::uint64_t bytes_on_all() const;
};

class BlockTest : public GuestTest {
 protected:
  // In the first region. target_flags: of open(), O_CLOEXEC is added. Does not fail the test if the
  // kernel refuses: look at binding.error.
  Bound make(const std::string& path, std::uint64_t buffer_size,
             std::uint32_t policy = DMABRIDGE_POLICY_REQUIRE,
             std::uint32_t bind_flags = DMABRIDGE_BIND_READ, int target_flags = O_RDWR);

  Bound make_in(const dmabridge_region_info& region, const std::string& path,
                std::uint64_t buffer_size, std::uint32_t policy, std::uint32_t bind_flags,
                int target_flags);

  std::int64_t load(const Bound& bound, std::uint64_t length, std::uint64_t file_offset = 0,
                    std::uint64_t buffer_offset = 0, std::uint32_t piece = 1 << 20);
  std::int64_t save(const Bound& bound, std::uint64_t length, std::uint64_t file_offset = 0,
                    std::uint64_t buffer_offset = 0);

  // The bytes as the host sees them if the buffer is on its device, else through a CPU mapping.
  std::vector<std::byte> contents(const Bound& bound, std::uint64_t offset, std::uint64_t length);
  std::string difference(const Bound& bound, std::uint64_t length, std::uint8_t tag,
                         std::uint64_t pattern_offset = 0, std::uint64_t buffer_offset = 0);

  // Reads ranges of the target, which has its `tag` pattern, at every alignment that the kernel
  // allows, to random places of the buffer, which has to have the bytes of `expected` before. These
  // are then what the buffer should have.
  void read_random_ranges(const Bound& bound, std::uint64_t target_size, std::uint8_t tag,
                          unsigned count, unsigned seed, std::span<std::byte> expected);

  // All bytes counted are on this route, and there are this many.
  void expect_only(const Bound& bound, std::uint32_t route, std::uint64_t bytes);

  Ring ring_{64};
};

// What load_for_ever() has in flight: this many commands of this many bytes.
inline constexpr unsigned load_depth = 16;
inline constexpr std::uint32_t load_piece = 64 << 10;

// Keeps a queue of reads full until one fails: the result that is no success. The binding's buffer
// has room for all of them; the target has source_size bytes.
int load_for_ever(int binding, std::uint64_t source_size, std::atomic<unsigned>& completed);

// Whether a process goes that is killed with a read of 64 KiB in flight, before vgem signals a
// fence that the read waits for.
bool dies_with_a_read_in_flight(int binding);

// Has ext4 journal the file's data, which it then writes by the CPU. It does so only if it is
// mounted without delayed allocation.
void journal_data(int file);

// Bytes of a file, by way of the page cache.
std::vector<std::byte> read_file(const std::string& path, std::uint64_t offset,
                                 std::uint64_t length);

}  // namespace dmabridge::test

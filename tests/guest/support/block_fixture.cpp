// SPDX-License-Identifier: MIT
#include "block_fixture.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <random>
#include <system_error>

namespace dmabridge::test {

std::uint64_t Bound::bytes_on_all() const {
  std::uint64_t total = 0;
  for (const auto& counter : info().routes) total += counter.bytes;
  return total;
}

Bound BlockTest::make(const std::string& path, std::uint64_t buffer_size, std::uint32_t policy,
                      std::uint32_t bind_flags, int target_flags) {
  return make_in(first_region(), path, buffer_size, policy, bind_flags, target_flags);
}

Bound BlockTest::make_in(const dmabridge_region_info& region, const std::string& path,
                         std::uint64_t buffer_size, std::uint32_t policy, std::uint32_t bind_flags,
                         int target_flags) {
  Bound bound;
  bound.buffer = allocate_in(region, buffer_size);
  bound.target = open_file(path, target_flags);
  bound.binding = bind(bound.buffer.get(), bound.target.get(), policy, bind_flags);
  return bound;
}

std::int64_t BlockTest::load(const Bound& bound, std::uint64_t length, std::uint64_t file_offset,
                             std::uint64_t buffer_offset, std::uint32_t piece) {
  return ring_.transfer_all(bound.fd(), DMABRIDGE_URING_READ, buffer_offset, length, file_offset,
                            piece);
}

std::int64_t BlockTest::save(const Bound& bound, std::uint64_t length, std::uint64_t file_offset,
                             std::uint64_t buffer_offset) {
  return ring_.transfer_all(bound.fd(), DMABRIDGE_URING_WRITE, buffer_offset, length, file_offset);
}

std::vector<std::byte> BlockTest::contents(const Bound& bound, std::uint64_t offset,
                                           std::uint64_t length) {
  if (placement(bound.buffer.get()) == DMABRIDGE_PLACEMENT_DEVICE)
    return host_bytes(bound.buffer.get(), offset, length);
  const std::uint64_t start = offset & ~std::uint64_t(4095);
  const Mapping mapping(bound.buffer.get(), offset - start + length, start);
  const std::byte* bytes = mapping.data() + (offset - start);
  return {bytes, bytes + length};
}

std::string BlockTest::difference(const Bound& bound, std::uint64_t length, std::uint8_t tag,
                                  std::uint64_t pattern_offset, std::uint64_t buffer_offset) {
  const auto bytes = contents(bound, buffer_offset, length);
  return pattern_difference(bytes.data(), bytes.size(), tag, pattern_offset);
}

void BlockTest::expect_only(const Bound& bound, std::uint32_t route, std::uint64_t bytes) {
  const auto info = bound.info();
  for (std::uint32_t i = 0; i < DMABRIDGE_NR_ROUTES; i++)
    EXPECT_EQ(info.routes[i].bytes, i == route ? bytes : 0) << "on route " << i;
}

void BlockTest::read_random_ranges(const Bound& bound, std::uint64_t target_size, std::uint8_t tag,
                                   unsigned count, unsigned seed, std::span<std::byte> expected) {
  const auto info = bound.info();
  const auto size = expected.size();
  std::mt19937_64 random(seed);
  for (unsigned i = 0; i < count; i++) {
    const std::uint64_t length = (1 + random() % (random() % 2 ? 16 : 2048)) * info.offset_align;
    const std::uint64_t to = random() % ((size - length) / info.memory_align) * info.memory_align;
    const std::uint64_t from =
        random() % ((target_size - length) / info.offset_align) * info.offset_align;
    ASSERT_EQ(ring_.transfer(bound.fd(), DMABRIDGE_URING_READ, to,
                             static_cast<std::uint32_t>(length), from),
              static_cast<int>(length))
        << length << " bytes from " << from << " to " << to;
    fill_pattern(expected.data() + to, length, tag, from);
  }
}

int load_for_ever(int binding, std::uint64_t source_size, std::atomic<unsigned>& completed) {
  Ring ring(load_depth);
  std::uint64_t next = 0;
  const auto prepare = [&](std::uint64_t slot) {
    ring.prepare(binding, DMABRIDGE_URING_READ, slot * load_piece, load_piece, next % source_size,
                 slot);
    next += load_piece;
  };
  for (unsigned i = 0; i < load_depth; i++) prepare(i);
  for (;;) {
    std::uint64_t slot = 0;
    const int result = ring.wait(&slot);
    if (result != static_cast<int>(load_piece)) return result;
    completed++;
    prepare(slot);
  }
}

bool dies_with_a_read_in_flight(int binding) {
  const pid_t child = fork();
  if (child == 0) {
    Ring ring;
    ring.prepare(binding, DMABRIDGE_URING_READ, 0, 64 * KiB, 0);
    ring.submit();
    raise(SIGKILL);
  }
  int status = 0;
  return eventually([&] { return waitpid(child, &status, WNOHANG) == child; },
                    std::chrono::seconds(8));
}

void journal_data(int file) {
  int flags = 0;
  if (ioctl(file, FS_IOC_GETFLAGS, &flags) != 0)
    throw std::system_error(errno, std::generic_category(), "FS_IOC_GETFLAGS");
  flags |= FS_JOURNAL_DATA_FL;
  if (ioctl(file, FS_IOC_SETFLAGS, &flags) != 0)
    throw std::system_error(errno, std::generic_category(), "FS_IOC_SETFLAGS");
}

std::vector<std::byte> read_file(const std::string& path, std::uint64_t offset,
                                 std::uint64_t length) {
  const Fd fd = open_file(path, O_RDONLY);
  std::vector<std::byte> bytes(length);
  const ssize_t got = pread(fd.get(), bytes.data(), length, static_cast<off_t>(offset));
  if (got < 0) throw std::system_error(errno, std::generic_category(), path);
  bytes.resize(static_cast<std::size_t>(got));
  return bytes;
}

}  // namespace dmabridge::test

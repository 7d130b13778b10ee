// SPDX-License-Identifier: MIT
#include "bounce_ring.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <stdexcept>
#include <vector>

#include "fake_ring.hpp"
#include "transfer_run.hpp"

namespace dmabridge {
namespace {

using test::align;
using test::fake_ring;

constexpr std::uint32_t block = 8 * align;

// Memory that can only be copied, and counts what is under way meanwhile.
class copied_memory : public memory_owner {
 public:
  explicit copied_memory(std::size_t size) : bytes(size) {}

  auto name() const -> std::string override { return "copied"; }
  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    look(offset, from.size());
    std::ranges::copy(from, bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    look(offset, into.size());
    std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), into.size(), into.begin());
  }

  std::vector<std::byte> bytes;
  fake_ring* io = nullptr;
  std::size_t copies = 0;
  std::size_t idle_copies = 0;  // with no I/O under way
  std::size_t fails_at = ~std::size_t{0};

 private:
  void look(std::uint64_t offset, std::size_t length) {
    EXPECT_LE(offset + length, bytes.size());
    if (io->pending.empty()) ++idle_copies;
    if (copies++ == fails_at) throw std::runtime_error("the copy engine is on fire");
  }
};

struct bounced {
  bounced(std::size_t file, std::size_t memory, unsigned at_once, unsigned seed)
      : depth(at_once), io(file, std::size_t{at_once} * block, seed), owner(memory) {
    owner.io = &io;
  }

  auto run(direction way, const transfer_range& range) -> transfer_result {
    io.writing = way == direction::write;
    const auto copies =
        owner.begin_copies(way == direction::read ? cpu_access::write : cpu_access::read);
    bounce_ring ring(io, io.buffer_bytes, *copies, way, depth, block);
    transfer_slots slots(depth);
    const auto result = run_transfer(ring, slots, way, range, align, block, {});
    EXPECT_TRUE(io.pending.empty()) << "commands left in flight";
    EXPECT_EQ(slots.free.size(), depth);
    ring.rethrow();
    return result;
  }
  auto same(const transfer_range& range) const -> bool {
    return std::equal(
        io.file_bytes.begin() + static_cast<std::ptrdiff_t>(range.file_offset),
        io.file_bytes.begin() + static_cast<std::ptrdiff_t>(range.file_offset + range.length),
        owner.bytes.begin() + static_cast<std::ptrdiff_t>(range.buffer_offset));
  }

  unsigned depth;
  fake_ring io;
  copied_memory owner;
};

TEST(bounce_ring, any_range_arrives_whatever_the_order_and_however_short_the_completions) {
  std::mt19937 random(20261121);
  for (int round = 0; round < 1000; ++round) {
    const auto size = random() % 100000;
    bounced both(size, 128 << 10, 1 + random() % 16, static_cast<unsigned>(random()));
    both.io.short_ones = round % 2 == 1;
    const auto offset = random() % (size + 1) / align * align;
    const transfer_range range{.file_offset = offset,
                               .buffer_offset = random() % 8 * align,
                               .length = random() % (size - offset + 1)};
    const auto result = both.run(direction::read, range);
    ASSERT_EQ(result.error, 0);
    ASSERT_EQ(result.bytes, range.length);
    ASSERT_TRUE(both.same(range)) << "round " << round;
  }
}

TEST(bounce_ring, saves_too) {
  std::mt19937 random(20261122);
  for (int round = 0; round < 300; ++round) {
    bounced both(64 << 10, 64 << 10, 1 + random() % 8, static_cast<unsigned>(random()));
    both.io.short_ones = round % 2 == 1;
    for (auto& byte : both.owner.bytes) byte = static_cast<std::byte>(random());
    const transfer_range range{.length = random() % 60000};
    ASSERT_EQ(both.run(direction::write, range).error, 0);
    ASSERT_TRUE(both.same(range)) << "round " << round;
  }
}

// One copy has nothing beside it: a load's last, or a save's first.
TEST(bounce_ring, copies_run_while_other_io_is_under_way) {
  for (const auto way : {direction::read, direction::write}) {
    bounced both(64 * block, 64 * block, 4, 1);
    both.run(way, {.length = 64 * block});
    EXPECT_EQ(both.owner.copies, 64U);
    EXPECT_EQ(both.owner.idle_copies, 1U);
  }
}

TEST(bounce_ring, copy_that_fails_ends_the_transfer_and_is_told_as_it_was) {
  for (const auto way : {direction::read, direction::write}) {
    for (const std::size_t at : {0U, 1U, 7U, 15U}) {
      bounced both(16 * block, 16 * block, 4, 3);
      both.owner.fails_at = at;
      EXPECT_THROW(both.run(way, {.length = 16 * block}), std::runtime_error) << at;
    }
  }
}

// Or the kernel would have none for it.
TEST(staging_memory, begins_where_a_huge_page_does) {
  for (const std::uint64_t size : {1U, 4096U, (1U << 20) + 1, 5U << 20}) {
    const staging_memory memory(size);
    EXPECT_EQ(memory.bytes().size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.bytes().data()) % (2 << 20), 0U);
    std::ranges::fill(memory.bytes(), std::byte{1});
  }
}

TEST(bounce_ring, io_that_fails_is_the_transfers_error_and_copies_nothing) {
  bounced both(16 * block, 16 * block, 1, 3);
  both.io.fault = [](const command&) { return -EREMOTEIO; };
  EXPECT_EQ(both.run(direction::read, {.length = 16 * block}).error, -EREMOTEIO);
  EXPECT_EQ(both.owner.copies, 0U);
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
//
// The library's bounce against the same written by hand: bytes of a drive through memory of one's
// own into a dma-heap's, which can be copied into and not pinned. Runs in a guest; only ratios mean
// anything there.
//
// The machine is noisy, so they take short turns, each of them first in as many as the others. A
// ratio is taken within one turn, and the median of all turns is shown. A second instance of what
// is written by hand runs along: how far its ratio is from 1 is what the measurement is off by.
//
// An emulated processor copies at half its speed or less between places whose addresses have the
// same bits in its translation cache, so each turn has another place in the memory.
#include <fcntl.h>
#include <fmt/format.h>
#include <dmabridge/block_attachment.hpp>
#include <dmabridge/dma_heap.hpp>
#include <dmabridge/transfer.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "median.hpp"
#include "support/drives.hpp"
#include "support/mapping.hpp"
#include "support/ring.hpp"

using namespace dmabridge::test;
using dmabridge::direction;
using dmabridge::bench::median;
using dmabridge::bench::median_ratio;

namespace {

constexpr std::uint64_t MiB = 1 << 20;
constexpr std::uint8_t tag = 0xa0;  // of the pattern that the topology puts on the drive
constexpr std::uint64_t page = 4096;
constexpr std::uint64_t spread = 8 * MiB;  // where in the memory a turn may begin
constexpr double floor_of_ratio = 0.9;

struct Shape {
  direction way;
  std::uint32_t block;
  unsigned depth;

  // Of a turn: enough for the queue to be full most of the time.
  std::uint64_t length() const { return std::max(8 * MiB, std::uint64_t{4} * depth * block); }
};

std::uint64_t whole_huge_pages(std::uint64_t size) {
  constexpr std::uint64_t huge = 2 * MiB;
  return (size + huge - 1) / huge * huge;
}

// One io_uring, huge pages to read into, O_DIRECT, and as many buffers as commands in flight: while
// one is copied, the drive works on the others. A buffer is given to the drive again as soon as it
// is free.
class ByHand {
 public:
  ByHand(int file, const dmabridge::mapping& memory, const Shape& shape)
      : file_(file),
        memory_(memory),
        shape_(shape),
        staging_(
            Mapping::anonymous(whole_huge_pages(std::uint64_t{shape.depth} * shape.block), true)),
        ring_(shape.depth, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN),
        places_(shape.depth) {}

  // `length` bytes from the start of the drive, to or from `at` in the memory.
  void move(std::uint64_t length, std::uint64_t at) {
    const auto access =
        shape_.way == direction::read ? dmabridge::cpu_access::write : dmabridge::cpu_access::read;
    memory_.begin(access);
    length_ = length;
    at_ = at;
    next_ = 0;
    unsigned busy = 0;
    for (unsigned slot = 0; slot < shape_.depth && next_ < length; slot++) busy += begin(slot);
    while (busy > 0) {
      std::uint64_t slot = 0;
      if (ring_.wait(&slot) != static_cast<int>(shape_.block))
        throw std::runtime_error("a command gave an error, or was short");
      if (shape_.way == direction::read) std::memcpy(in_memory(slot), staged(slot), shape_.block);
      busy -= 1 - begin(static_cast<unsigned>(slot));
    }
    memory_.end(access);
  }

 private:
  std::byte* staged(std::uint64_t slot) { return staging_.data() + slot * shape_.block; }
  std::byte* in_memory(std::uint64_t slot) { return memory_.bytes().data() + at_ + places_[slot]; }

  // Whether there was something left to do.
  unsigned begin(unsigned slot) {
    if (next_ == length_) return 0;
    places_[slot] = next_;
    io_uring_sqe* sqe = ring_.next();
    if (shape_.way == direction::read) {
      io_uring_prep_read(sqe, file_, staged(slot), shape_.block, next_);
    } else {
      std::memcpy(staged(slot), in_memory(slot), shape_.block);
      io_uring_prep_write(sqe, file_, staged(slot), shape_.block, next_);
    }
    io_uring_sqe_set_data64(sqe, slot);
    // Else the drive would have nothing to do while the next piece is copied out.
    if (shape_.way == direction::write) ring_.submit();
    next_ += shape_.block;
    return 1;
  }

  int file_;
  const dmabridge::mapping& memory_;
  Shape shape_;
  Mapping staging_;
  Ring ring_;
  std::vector<std::uint64_t> places_;  // of what a buffer holds, from at_ on
  std::uint64_t length_ = 0;
  std::uint64_t at_ = 0;
  std::uint64_t next_ = 0;
};

class ByTheLibrary {
 public:
  ByTheLibrary(const dmabridge::block_attachment& between, const Shape& shape)
      : between_(between),
        way_(shape.way),
        engine_({.queue_depth = shape.depth, .block_size = shape.block}) {}

  void move(std::uint64_t length, std::uint64_t at) {
    const dmabridge::transfer_range range{.buffer_offset = at, .length = length};
    const auto done =
        way_ == direction::read ? engine_.load(between_, range) : engine_.save(between_, range);
    if (done.error != 0 || done.bytes != length)
      throw std::runtime_error("a transfer gave an error, or was short");
  }

 private:
  const dmabridge::block_attachment& between_;
  direction way_;
  dmabridge::transfer_engine engine_;
};

double speed(auto& side, std::uint64_t length, std::uint64_t at) {
  const auto start = std::chrono::steady_clock::now();
  side.move(length, at);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(length) / 1e6 / seconds.count();
}

// One move that counts for nothing but whether it moves the bytes.
void check(auto& side, const Shape& shape, std::span<std::byte> memory) {
  // What is written is what the drive has already.
  if (shape.way == direction::read) {
    std::ranges::fill(memory, std::byte(0));
  } else {
    fill_pattern(memory.data(), memory.size(), tag, 0);
  }
  side.move(memory.size(), 0);
  const std::string difference = pattern_difference(memory.data(), memory.size(), tag, 0);
  if (!difference.empty()) throw std::runtime_error("the bytes are wrong: " + difference);
}

// Returns whether the floor held.
bool compare(const Shape& shape, unsigned turns) {
  const Fd file = open_file(drive("SAMESW").path(), O_RDWR | O_DIRECT);
  const std::uint64_t length = shape.length();
  const auto memory = dmabridge::allocate_dma_heap(length + spread);
  const auto seen = memory.memory().map(dmabridge::cpu_access::read_write);
  const dmabridge::block_attachment between(nullptr, memory, file.get(), "the drive",
                                            dmabridge::policy::prefer, shape.way);
  ByHand by_hand(file.get(), seen, shape), again(file.get(), seen, shape);
  ByTheLibrary by_the_library(between, shape);
  const auto bytes = seen.bytes().first(length);
  check(by_hand, shape, bytes);
  check(again, shape, bytes);
  check(by_the_library, shape, bytes);
  constexpr std::size_t sides = 3;
  std::array<std::vector<double>, sides> speeds;
  std::mt19937_64 random(turns);
  for (unsigned turn = 0; turn < turns; turn++) {
    const auto at = random() % (spread / page) * page;
    for (std::size_t i = 0; i < sides; i++) {
      const auto side = (turn + i) % sides;
      speeds[side].push_back(side == 0   ? speed(by_hand, length, at)
                             : side == 1 ? speed(by_the_library, length, at)
                                         : speed(again, length, at));
    }
  }
  const auto& [hand, library, control] = speeds;
  const double ratio = median_ratio(library, hand);
  const bool good = ratio >= floor_of_ratio;
  fmt::print(
      "{:<5} {:>6} KiB {:>6}  {:<16} {:>8.0f} {:>8.0f} {:>8.2f} {:>8.2f}  floor {:.2f}: {}\n",
      shape.way == direction::read ? "load" : "save", shape.block / 1024, shape.depth,
      fmt::format("{}, {}", dmabridge::to_string(between.method()),
                  dmabridge::to_string(between.verdict().route)),
      median(hand), median(library), ratio, median_ratio(control, hand), floor_of_ratio,
      good ? "holds" : "BELOW");
  std::fflush(stdout);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures the library's bounce against the same written by hand.");
  unsigned turns = 31;
  app.add_option("--turns", turns, "how often each has its turn")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1000U));
  CLI11_PARSE(app, argc, argv);
  try {
    fmt::print("a drive and a dma-heap's memory; {} turns, median MB/s; ratio within a turn\n",
               turns);
    fmt::print("{:<5} {:>10} {:>6}  {:<16} {:>8} {:>8} {:>8} {:>8}\n", "", "block", "depth",
               "method, route", "by hand", "library", "ratio", "control");
    bool held = true;
    for (const auto way : {direction::read, direction::write}) {
      for (const std::uint32_t block : {64U << 10, 256U << 10, 1U << 20}) {
        // Double-buffered, and the library's default.
        for (const unsigned depth : {2U, 16U}) held &= compare({way, block, depth}, turns);
      }
    }
    fmt::print("{}\n", held ? "all floors hold" : "NOT all floors hold");
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bounce_bench: {}\n", error.what());
    return 1;
  }
}

// SPDX-License-Identifier: MIT
//
// The table of DESIGN.md, "Speed": every way by which a drive's bytes come into memory, against the
// one that a careful user has today. Runs in a guest; only ratios mean anything there.
//
// The machine is noisy, so the ways take turns: A B C A B C ... A ratio is taken within one turn,
// and the median of all turns is shown.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "median.hpp"
#include "support/abi.hpp"
#include "support/drives.hpp"
#include "support/mapping.hpp"
#include "support/ring.hpp"

using namespace dmabridge::test;
using dmabridge::bench::median;
using dmabridge::bench::median_ratio;

namespace {

constexpr unsigned depth = 8;
constexpr std::uint64_t MiB = 1 << 20;
constexpr std::uint64_t source_size = 64 * MiB;
// Of each way; a slot for each command in flight.
constexpr std::uint64_t memory_size = depth * MiB;

struct Options {
  unsigned turns = 9;
  // Commands of a turn: enough to be measured, few enough to take turns often.
  unsigned commands = 1024;
};

// One way. Fills in an entry that reads length bytes at file_offset into this slot's memory.
class Way {
 public:
  virtual ~Way() = default;
  virtual void prepare(Ring& ring, unsigned slot, std::uint32_t length,
                       std::uint64_t file_offset) = 0;
  // Where the bytes went, as far as it is known.
  virtual std::string route() const = 0;
};

// Ordinary O_DIRECT reads into mapped memory.
class MappedWay : public Way {
 public:
  MappedWay(int file, Mapping memory, std::string route)
      : file_(file), memory_(std::move(memory)), route_(std::move(route)) {}
  void prepare(Ring& ring, unsigned slot, std::uint32_t length,
               std::uint64_t file_offset) override {
    io_uring_prep_read(ring.next(), file_, memory_.data() + slot * MiB, length, file_offset);
  }
  std::string route() const override { return route_; }

 protected:
  int file_;
  Mapping memory_;
  std::string route_;
};

// READ_FIXED into registered huge pages: what a careful user has today.
class FixedWay : public MappedWay {
 public:
  FixedWay(Ring& ring, int file)
      : MappedWay(file, Mapping::anonymous(memory_size, true), "system") {
    const iovec vector{memory_.data(), memory_size};
    const int error = io_uring_register_buffers(ring.get(), &vector, 1);
    if (error != 0)
      throw std::system_error(-error, std::generic_category(), "io_uring_register_buffers");
  }
  void prepare(Ring& ring, unsigned slot, std::uint32_t length,
               std::uint64_t file_offset) override {
    io_uring_prep_read_fixed(ring.next(), file_, memory_.data() + slot * MiB, length, file_offset,
                             0);
  }
};

class MappedBufferWay : public MappedWay {
 public:
  MappedBufferWay(int file, Fd buffer)
      : MappedWay(file, Mapping(buffer.get(), memory_size), "p2p (mmap)"),
        buffer_(std::move(buffer)) {
    // So that no page fault is measured.
    for (std::uint64_t at = 0; at < memory_size; at += 4096) memory_.data()[at] = std::byte(0);
  }

 private:
  Fd buffer_;
};

class BindingWay : public Way {
 public:
  BindingWay(int file, std::uint32_t policy)
      : buffer_(allocate(memory_size)), binding_(bind(buffer_.get(), file, policy)) {
    if (binding_.error != 0)
      throw std::system_error(-binding_.error, std::generic_category(),
                              "bind: " + describe(binding_.verdict));
  }
  void prepare(Ring& ring, unsigned slot, std::uint32_t length,
               std::uint64_t file_offset) override {
    ring.prepare(binding_.fd.get(), DMABRIDGE_URING_READ, slot * MiB, length, file_offset);
  }
  // By what was counted, not by what was promised.
  std::string route() const override {
    static const std::vector<std::string> names{"none",   "p2p_bus", "p2p_host_bridge", "stolen",
                                                "system", "bounce",  "unproved"};
    const auto info = binding_info(binding_.fd.get());
    std::string taken;
    for (std::size_t i = 0; i < names.size(); i++) {
      if (info.routes[i].bytes != 0) taken += (taken.empty() ? "" : "+") + names[i];
    }
    return taken.empty() ? "nothing moved" : taken;
  }

 private:
  Fd buffer_;
  Binding binding_;
};

struct Contender {
  std::string name;
  std::unique_ptr<Way> way;
  std::optional<double> floor;  // against READ_FIXED
};

struct Measured {
  std::vector<double> speed;   // MB/s, by turn
  std::uint64_t requests = 0;  // that the drive completed
  std::uint64_t bytes = 0;
};

std::uint64_t completed_reads(const std::string& disk) {
  std::ifstream file(fmt::format("/sys/block/{}/stat", disk));
  std::uint64_t reads = 0;
  if (!(file >> reads)) throw std::runtime_error("cannot read the statistics of " + disk);
  return reads;
}

double turn(Ring& ring, Way& way, std::uint32_t block, unsigned commands) {
  std::uint64_t offset = 0;
  const auto prepare = [&](unsigned slot) {
    way.prepare(ring, slot, block, offset);
    offset = (offset + block) % source_size;
  };
  const auto start = std::chrono::steady_clock::now();
  // Which slot a command has does not matter, as long as no two in flight share one: they complete
  // in any order, so the mark tells.
  std::vector<unsigned> free;
  for (unsigned slot = depth; slot-- > 0;) free.push_back(slot);
  unsigned queued = 0, done = 0;
  while (done < commands) {
    while (queued < commands && !free.empty()) {
      const unsigned slot = free.back();
      free.pop_back();
      prepare(slot);
      ring.get()->sq.sqes[(ring.get()->sq.sqe_tail - 1) & ring.get()->sq.ring_mask].user_data =
          slot;
      queued++;
    }
    ring.submit();
    std::uint64_t slot = 0;
    const int result = ring.wait(&slot);
    if (result != static_cast<int>(block))
      throw std::runtime_error(fmt::format("a read of {} bytes gave {}", block, result));
    free.push_back(static_cast<unsigned>(slot));
    done++;
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(commands) * block / 1e6 / seconds.count();
}

// Returns whether all floors held.
bool compare(Ring& ring, const std::string& target, const std::string& disk, std::uint32_t block,
             std::vector<Contender>& contenders, const Options& options) {
  const unsigned commands = std::max(
      32U, static_cast<unsigned>(std::min<std::uint64_t>(options.commands, 64 * MiB / block)));
  std::vector<Measured> measured(contenders.size());
  for (auto& contender : contenders) turn(ring, *contender.way, block, depth);  // warm
  for (unsigned i = 0; i < options.turns; i++) {
    for (std::size_t each = 0; each < contenders.size(); each++) {
      const std::uint64_t before = completed_reads(disk);
      measured[each].speed.push_back(turn(ring, *contenders[each].way, block, commands));
      measured[each].requests += completed_reads(disk) - before;
      measured[each].bytes += static_cast<std::uint64_t>(commands) * block;
    }
  }
  bool held = true;
  for (std::size_t each = 0; each < contenders.size(); each++) {
    const double ratio = median_ratio(measured[each].speed, measured[0].speed);
    const auto& floor = contenders[each].floor;
    const bool good = !floor || ratio >= *floor;
    held &= good;
    fmt::print("{:<5} {:>5} KiB  {:<32} {:<18} {:>8.0f} {:>8.2f} {:>8.2f} {:>9.2f}  {}\n", target,
               block / 1024, contenders[each].name, contenders[each].way->route(),
               median(measured[each].speed), ratio,
               median_ratio(measured[each].speed, measured[1].speed),
               static_cast<double>(measured[each].requests) /
                   (static_cast<double>(measured[each].bytes) / MiB),
               floor ? fmt::format("floor {:.2f}: {}", *floor, good ? "holds" : "BELOW") : "");
  }
  std::fflush(stdout);
  return held;
}

std::optional<double> floor_of(bool raw, std::uint32_t block) {
  if (raw) return block >= MiB ? 1.5 : 0.95;
  if (block >= MiB) return 0.65;
  return block == 4096 ? std::optional<double>(0.8) : std::nullopt;
}

bool measure(const std::string& target, const std::string& path, const std::string& disk,
             const Options& options) {
  const Fd file = open_file(path, O_RDONLY | O_DIRECT);
  bool held = true;
  for (const std::uint32_t block : {4096U, 128U << 10, 1U << 20}) {
    Ring ring(2 * depth);
    std::vector<Contender> contenders;
    contenders.push_back(
        {"READ_FIXED, 2 MiB huge pages", std::make_unique<FixedWay>(ring, file.get()), {}});
    contenders.push_back(
        {"O_DIRECT, 4 KiB pages",
         std::make_unique<MappedWay>(file.get(), Mapping::anonymous(memory_size), "system"),
         {}});
    contenders.push_back({"O_DIRECT on the P2P mmap",
                          std::make_unique<MappedBufferWay>(file.get(), allocate(memory_size)),
                          {}});
    contenders.push_back({"binding, require",
                          std::make_unique<BindingWay>(file.get(), DMABRIDGE_POLICY_REQUIRE),
                          floor_of(target == "raw", block)});
    contenders.push_back({"binding, forbid (redirect)",
                          std::make_unique<BindingWay>(file.get(), DMABRIDGE_POLICY_FORBID),
                          {}});
    held &= compare(ring, target, disk, block, contenders, options);
  }
  return held;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Measures the ways by which a drive's bytes come into memory, and prints their ratios.");
  Options options;
  app.add_option("--turns", options.turns, "how often each way has its turn")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1000U));
  app.add_option("--commands", options.commands, "commands of a turn, at most")
      ->capture_default_str()
      ->check(CLI::Range(32U, 1U << 20));
  CLI11_PARSE(app, argc, argv);
  try {
    fmt::print("queue depth {}, {} turns, median; ratios within a turn\n", depth, options.turns);
    fmt::print("{:<5} {:>9}  {:<32} {:<18} {:>8} {:>8} {:>8} {:>9}\n", "", "block", "way", "route",
               "MB/s", "/ fixed", "/ direct", "cmds/MiB");
    const Drive raw = drive("SAMESW"), ext4 = drive("SAMESW", "ext4");
    bool held = measure("raw", raw.path(), raw.disk, options);
    const Mount mount(ext4.path(), "ext4");
    make_pattern_file(mount.file("bench"), source_size, 1);
    held &= measure("ext4", mount.file("bench"), ext4.disk, options);
    unlink(mount.file("bench").c_str());
    fmt::print("{}\n", held ? "all floors hold" : "NOT all floors hold");
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "route_bench: {}\n", error.what());
    return 1;
  }
}

// SPDX-License-Identifier: MIT
//
// What an importer pays to map and unmap a buffer, for each kind of memory, against the kernel's
// own system heap in the same run. Runs in a guest (tests/bench/maps); only ratios mean anything
// there.
//
// The machine is noisy, so the memories take turns: A B C D A B C D ... A ratio is taken within one
// turn, and the median of all turns is shown.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/dma-heap.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "machine.hpp"
#include "median.hpp"
#include "support/abi.hpp"
#include "support/drives.hpp"
#include "support/test_importer.hpp"

using namespace dmabridge::test;
using dmabridge::bench::median;
using dmabridge::bench::median_ratio;
namespace oracle = dmabridge::oracle;

namespace {

constexpr std::uint64_t MiB = 1 << 20, GiB = 1 << 30;
constexpr std::uint64_t size = 16 * MiB;
constexpr std::uint64_t fragment = 64 << 10;

struct Options {
  unsigned turns = 15;
  unsigned rounds = 20;
};

// A buffer with an attachment, and what mapping it costs.
struct Contender {
  std::string name;
  Fd buffer;
  Attachment attachment;
  std::uint32_t pieces = 0;
  std::vector<double> map{}, unmap{};  // nanoseconds, by turn
  std::vector<double> both() const {
    std::vector<double> sum;
    for (std::size_t i = 0; i < map.size(); i++) sum.push_back(map[i] + unmap[i]);
    return sum;
  }
};

Contender contender(const std::string& name, Fd buffer, const ImporterKind& kind,
                    const Client& client) {
  Attached attached = attach(buffer.get(), kind, client);
  if (attached.error != 0)
    throw std::system_error(-attached.error, std::generic_category(), "attach to " + name);
  if (kind.peer2peer() && !attached.peer2peer)
    throw std::runtime_error(name + " is not mapped peer to peer");
  return {name, std::move(buffer), std::move(attached.attachment)};
}

Fd heap_buffer() {
  const Fd heap = open_file("/dev/dma_heap/system", O_RDWR);
  dma_heap_allocation_data argument{};
  argument.len = size;
  argument.fd_flags = O_RDWR | O_CLOEXEC;
  const int error = call(heap.get(), DMA_HEAP_IOCTL_ALLOC, &argument);
  if (error != 0) throw std::system_error(-error, std::generic_category(), "the system heap");
  return Fd(static_cast<int>(argument.fd));
}

// Of many small pieces, as all else of the region is taken.
Fd fragmented_buffer() {
  std::vector<Fd> pieces;
  for (std::uint64_t at = 0; at < 2 * size; at += fragment) pieces.push_back(allocate(fragment));
  Fd rest;
  if (const std::uint64_t left = first_region().available; left != 0) rest = allocate(left);
  for (std::size_t i = 0; i < pieces.size(); i += 2) pieces[i].reset();
  return allocate(size);
}

// An NVMe drive that reaches the region peer to peer.
Client find_client(std::string* name) {
  const Fd buffer = allocate(4096);
  for (const Drive& drive : drives()) {
    if (drive.nsid == 0) continue;
    const Client client = nvme(drive.serial);
    const Attached attached = attach(buffer.get(), p2p_revocable, client);
    if (attached.error != 0 || !attached.peer2peer) continue;
    *name = fmt::format("{} ({})", pci_address(client.function), drive.serial);
    return client;
  }
  throw std::runtime_error("no drive reaches the region peer to peer");
}

std::string iommu_of(const Client& client) {
  const std::string group =
      fmt::format("/sys/bus/pci/devices/{}/iommu_group/type", pci_address(client.function));
  if (!std::filesystem::exists(group)) return "no IOMMU";
  const std::string type = oracle::read_line(group);
  if (type == "DMA-FQ") return "IOMMU, lazy";
  if (type == "DMA") return "IOMMU, strict";
  return "IOMMU, " + type;
}

void turn(Contender& contender, unsigned rounds) {
  const test_importer_bench result = contender.attachment.bench(rounds);
  contender.pieces = result.nents;
  contender.map.push_back(static_cast<double>(result.map_ns) / rounds);
  contender.unmap.push_back(static_cast<double>(result.unmap_ns) / rounds);
}

void run(const Options& options) {
  std::string name;
  const Client client = find_client(&name);
  std::vector<Contender> contenders;
  contenders.push_back(contender("system heap of the kernel", heap_buffer(), dynamic, client));
  contenders.push_back(contender("redirected to system memory", allocate(size), dynamic, client));
  contenders.push_back(contender("device, contiguous", allocate(size), p2p_revocable, client));
  contenders.push_back(contender("device, fragmented", fragmented_buffer(), p2p_revocable, client));

  for (unsigned i = 0; i < options.turns; i++)
    for (Contender& each : contenders) turn(each, options.rounds);

  fmt::print("{}, {}; {} MiB, {} turns of {} rounds, median; ratios within a turn\n", name,
             iommu_of(client), size / MiB, options.turns, options.rounds);
  fmt::print("{:<28} {:>7} {:>10} {:>10} {:>12} {:>12} {:>8}\n", "memory", "pieces", "map us",
             "unmap us", "both us/GiB", "both ns/pc", "/ heap");
  for (const Contender& each : contenders) {
    const double both = median(each.both());
    fmt::print("{:<28} {:>7} {:>10.1f} {:>10.1f} {:>12.0f} {:>12.0f} {:>8.2f}\n", each.name,
               each.pieces, median(each.map) / 1e3, median(each.unmap) / 1e3,
               both / 1e3 * (static_cast<double>(GiB) / size), both / each.pieces,
               median_ratio(each.both(), contenders[0].both()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Measures what an importer pays to map and unmap a buffer, by kind of memory.");
  Options options;
  app.add_option("--turns", options.turns, "how often each memory has its turn")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1000U));
  app.add_option("--rounds", options.rounds, "mappings of a turn")
      ->capture_default_str()
      ->check(CLI::Range(1U, 10000U));
  CLI11_PARSE(app, argc, argv);
  try {
    run(options);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "map_bench: {}\n", error.what());
    return 1;
  }
}

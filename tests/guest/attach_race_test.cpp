// SPDX-License-Identifier: MIT
//
// Several importers of one buffer at once: every order of what two of them do, against a model of
// what must be, and threads that do it all at the same time.
#include <fmt/format.h>

#include <array>
#include <atomic>
#include <bit>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <tuple>

#include "support/attach_fixture.hpp"

namespace dmabridge::test {
namespace {

// --- every order of two importers
// ------------------------------------------------------------------------

struct Actor {
  ImporterKind kind;
  bool on_switch;  // else without a bus
  std::uint32_t on_invalidate;

  bool granted() const { return on_switch && kind.peer2peer() && kind.revocable(); }
};

struct Pair {
  const char* name;
  Actor first, second;
};

enum class Step { attach, map, unmap, detach };
constexpr std::array program{Step::attach, Step::map, Step::unmap, Step::detach};

// A buffer in the exporter, and what it must be like, by the rules of DESIGN.md.
class Model {
 public:
  Model(const Pair& pair, std::uint64_t size, const std::function<std::uint64_t()>& available)
      : actors_{Running{pair.first}, Running{pair.second}},
        size_(size),
        available_(available),
        full_(available()),
        buffer_(allocate(size)) {
    const Mapping mapping(buffer_.get(), size_);
    fill_pattern(mapping.data(), size_, tag, 0);
  }

  void run(std::size_t who, Step step) {
    Running& actor = actors_[who];
    switch (step) {
      case Step::attach: {
        Attached attached =
            test::attach(buffer_.get(), actor.how.kind,
                         actor.how.on_switch ? nvme("SAMESW") : no_bus, actor.how.on_invalidate);
        EXPECT_EQ(attached.error, 0);
        EXPECT_EQ(attached.peer2peer, actor.how.granted());
        actor.attachment = std::move(attached.attachment);
        if (!actor.how.granted()) {
          needers_++;
          place(DMABRIDGE_PLACEMENT_SYSTEM);
        }
        actor.attached = true;
        break;
      }
      case Step::map:
        EXPECT_EQ(actor.attachment.map(&actor.id), 0);
        actor.mapped = backing_;
        actor.mapping_invalidations = 0;
        break;
      case Step::unmap:
        EXPECT_EQ(actor.attachment.unmap(actor.id), actor.mapped ? 0 : -ENOENT);
        actor.mapped.reset();
        break;
      case Step::detach:
        actor.attachment.detach();
        actor.attached = false;
        if (!actor.how.granted() && --needers_ == 0) place(DMABRIDGE_PLACEMENT_DEVICE);
        break;
    }
  }

  void check() const {
    const Query found = query(buffer_.get());
    EXPECT_EQ(found.head.placement, placement_);
    EXPECT_EQ(found.head.moves, moves_);
    std::set<unsigned> on_device;
    if (placement_ == DMABRIDGE_PLACEMENT_DEVICE) on_device.insert(backing_);
    std::size_t attached = 0;
    for (const Running& actor : actors_) {
      if (!actor.attached) continue;
      attached++;
      EXPECT_EQ(actor.attachment.events().invalidations, actor.invalidations);
      EXPECT_EQ(actor.attachment.events().mappings, actor.mapped ? 1u : 0u);
      if (!actor.mapped) continue;
      const bool device = is_device(*actor.mapped);
      if (device) on_device.insert(*actor.mapped);
      check_mapping(actor, device);
    }
    EXPECT_EQ(found.users.size(), attached);
    EXPECT_EQ(available_(), full_ - on_device.size() * size_);
  }

  // Nobody is left.
  void check_end() const {
    const Mapping mapping(buffer_.get(), size_);
    EXPECT_EQ(pattern_difference(mapping.data(), size_, tag, 0), "");
    EXPECT_EQ(placement_, DMABRIDGE_PLACEMENT_DEVICE);
  }

 private:
  static constexpr std::uint8_t tag = 0x33;

  struct Running {
    Actor how;
    Attachment attachment{};
    bool attached = false;
    std::uint32_t id = 0;
    std::optional<unsigned> mapped{};  // which backing
    unsigned invalidations = 0;
    unsigned mapping_invalidations = 0;
  };

  // Backings are counted; every other one is on the device, from the first on.
  static bool is_device(unsigned backing) { return backing % 2 == 0; }

  void place(std::uint32_t placement) {
    if (placement == placement_) return;
    placement_ = placement;
    backing_++;
    moves_++;
    for (Running& actor : actors_) {
      if (!actor.attached || !actor.how.kind.revocable()) continue;
      actor.invalidations++;
      actor.mapping_invalidations++;
      if (actor.how.on_invalidate == TEST_IMPORTER_UNMAP) actor.mapped.reset();
    }
  }

  void check_mapping(const Running& actor, bool device) const {
    const auto bar = region_window();
    const Table table = actor.attachment.table(actor.id);
    EXPECT_EQ(table.length(), size_);
    EXPECT_EQ(table.invalidations, actor.mapping_invalidations);
    for (const auto& segment : table.segments)
      EXPECT_EQ(segment.address >= bar.start && segment.address < bar.start + bar.length, device);
  }

  std::array<Running, 2> actors_;
  std::uint64_t size_;
  std::function<std::uint64_t()> available_;
  std::uint64_t full_;
  Fd buffer_;
  std::uint32_t placement_ = DMABRIDGE_PLACEMENT_DEVICE;
  unsigned backing_ = 0, moves_ = 0, needers_ = 0;
};

class TwoImporters : public AttachTest, public testing::WithParamInterface<Pair> {
 protected:
  // order: bit n is who does the nth step.
  static void run(unsigned order) {
    Model model(GetParam(), 16 * KiB, &available);
    std::array<std::size_t, 2> next{};
    std::string history;
    for (unsigned i = 0; i < 2 * program.size(); i++) {
      const std::size_t who = order >> i & 1;
      const Step step = program[next[who]++];
      history += fmt::format(
          " {}:{}", who, std::array{"attach", "map", "unmap", "detach"}[static_cast<int>(step)]);
      SCOPED_TRACE(history);
      model.run(who, step);
      model.check();
      if (HasFailure()) return;
    }
    model.check_end();
  }
};

TEST_P(TwoImporters, InEveryOrder) {
  unsigned orders = 0;
  for (unsigned order = 0; order < 1u << 2 * program.size(); order++) {
    if (std::popcount(order) != static_cast<int>(program.size())) continue;
    run(order);
    orders++;
    if (HasFailure()) return;
  }
  EXPECT_EQ(orders, 70u);
}

constexpr Actor direct_keeps{p2p_revocable, true, TEST_IMPORTER_KEEP};
constexpr Actor direct_unmaps{p2p_revocable, true, TEST_IMPORTER_UNMAP};
constexpr Actor static_one{static_importer, true, TEST_IMPORTER_KEEP};
constexpr Actor without_p2p{revocable, false, TEST_IMPORTER_KEEP};

INSTANTIATE_TEST_SUITE_P(Attach, TwoImporters,
                         testing::Values(Pair{"DirectAndStatic", direct_keeps, static_one},
                                         Pair{"DirectThatUnmapsAndStatic", direct_unmaps,
                                              static_one},
                                         Pair{"DirectAndWithoutP2p", direct_keeps, without_p2p},
                                         Pair{"StaticAndWithoutP2p", static_one, without_p2p},
                                         Pair{"TwoDirect", direct_keeps, direct_unmaps}),
                         [](const auto& test) { return std::string(test.param.name); });

// --- at the same time
// ----------------------------------------------------------------------------------

class ManyImporters : public AttachTest {
 protected:
  static constexpr std::uint64_t size = 128 * KiB;

  struct Result {
    std::atomic<unsigned> mapped = 0, stale = 0, wrong = 0, failed = 0;
  };

  // Comes, maps, looks, goes, as often as that. A mapping may be refused as stale; one that is
  // given is right: all in the BAR for who can reach it, or none of it.
  static void import(int buffer, const ImporterKind& kind, const Client& client, unsigned rounds,
                     unsigned seed, Result& result) {
    std::minstd_rand random(seed);
    const auto bar = region_window();
    const bool granted = client.pci && kind.peer2peer() && kind.revocable();
    for (unsigned round = 0; round < rounds; round++) {
      const auto on_invalidate = random() % 2 != 0 ? TEST_IMPORTER_KEEP : TEST_IMPORTER_UNMAP;
      Attached attached = attach(buffer, kind, client, on_invalidate);
      if (attached.error != 0) {
        result.failed++;
        continue;
      }
      for (unsigned maps = random() % 3; maps > 0; maps--) {
        std::uint32_t id = 0;
        const int error = attached.attachment.map(&id);
        if (error != 0) {
          (error == -EAGAIN ? result.stale : result.failed)++;
          continue;
        }
        result.mapped++;
        Table table{};
        if (attached.attachment.table(id, &table) != 0) continue;  // taken away meanwhile
        std::uint64_t inside = 0;
        for (const auto& segment : table.segments)
          if (segment.address >= bar.start && segment.address < bar.start + bar.length)
            inside += segment.length;
        if (table.length() != size || (inside != 0 && (inside != size || !granted))) result.wrong++;
        if (random() % 2) attached.attachment.unmap(id);
      }
    }
  }

  // Writes through a CPU mapping and reads back, while the bytes are carried to and fro.
  static void write(int buffer, const std::atomic<bool>& stop, Result& result) {
    const Mapping mapping(buffer, size);
    volatile auto* words = reinterpret_cast<volatile std::uint64_t*>(mapping.data());
    constexpr std::size_t step = 4096 / sizeof(*words);
    for (std::uint64_t count = 1; !stop; count++) {
      for (std::size_t page = 0; page < size / 4096; page++) words[page * step] = count;
      for (std::size_t page = 0; page < size / 4096; page++)
        if (words[page * step] != count) result.wrong++;
    }
  }
};

TEST_F(ManyImporters, AtTheSameTime) {
  const Fd buffer = allocate(size);
  Result result;
  std::atomic<bool> stop = false;
  std::thread writer([&] { write(buffer.get(), stop, result); });
  std::vector<std::thread> threads;
  const Client same = nvme("SAMESW"), other = nvme("OTHERRP");
  const std::vector<std::pair<ImporterKind, Client>> importers{{p2p_revocable, same},
                                                               {p2p_revocable, same},
                                                               {static_importer, same},
                                                               {revocable, no_bus},
                                                               {dynamic, other}};
  unsigned seed = 1;
  for (const auto& [kind, client] : importers)
    threads.emplace_back(
        [&, kind, client, seed = seed++] { import(buffer.get(), kind, client, 60, seed, result); });
  for (auto& thread : threads) thread.join();
  stop = true;
  writer.join();
  EXPECT_EQ(result.wrong, 0u);
  EXPECT_EQ(result.failed, 0u);
  EXPECT_GT(result.mapped, 0u);
  const Query found = query(buffer.get());
  EXPECT_TRUE(found.users.empty());
  EXPECT_EQ(found.head.placement, DMABRIDGE_PLACEMENT_DEVICE);
  EXPECT_GT(found.head.moves, 1u) << "nothing was tested";
}

// What attach decided may be out of date by the time of map: then it says so.
TEST_F(ManyImporters, UnderMovesOnRequest) {
  const Fd buffer = allocate(size);
  Result result;
  std::atomic<bool> stop = false;
  std::thread writer([&] { write(buffer.get(), stop, result); });
  std::thread mover([&] {
    while (!stop) {
      for (const std::uint32_t to : {DMABRIDGE_PLACEMENT_SYSTEM, DMABRIDGE_PLACEMENT_DEVICE}) {
        const int error = move(buffer.get(), to);
        if (error != 0 && error != -EBUSY) result.failed++;
      }
    }
  });
  std::vector<std::thread> threads;
  const Client same = nvme("SAMESW");
  for (unsigned seed = 1; seed <= 2; seed++)
    threads.emplace_back(
        [&, seed] { import(buffer.get(), p2p_revocable, same, 60, seed, result); });
  threads.emplace_back([&] { import(buffer.get(), static_importer, same, 30, 3, result); });
  for (auto& thread : threads) thread.join();
  stop = true;
  mover.join();
  writer.join();
  EXPECT_EQ(result.wrong, 0u);
  EXPECT_EQ(result.failed, 0u);
  EXPECT_GT(result.mapped, 0u);
  EXPECT_TRUE(query(buffer.get()).users.empty());
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// What is said in advance, against what happens: on every topology, for every pair of an importer
// and a memory, the library's prediction, the kernel's answer, and what bind and attach then give.
#include <fcntl.h>
#include <fmt/format.h>

#include <dmabridge/confirm.hpp>
#include <dmabridge/plan.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/topology.hpp>

#include "support/block_fixture.hpp"
#include "support/expected.hpp"
#include "support/named_device.hpp"
#include "support/test_importer.hpp"

namespace dmabridge::test {
namespace {

constexpr std::uint32_t policies[] = {DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_POLICY_PREFER,
                                      DMABRIDGE_POLICY_FORBID};
constexpr ImporterKind kinds[] = {static_importer, dynamic, revocable, p2p, p2p_revocable};

std::uint32_t flags_of(const ImporterKind& kind) {
  return (kind.dynamic() ? 0 : DMABRIDGE_NEGOTIATE_STATIC) |
         (kind.peer2peer() ? DMABRIDGE_NEGOTIATE_PEER2PEER : 0) |
         (kind.revocable() ? DMABRIDGE_NEGOTIATE_REVOCABLE : 0);
}

// Everything of a buffer that a question could leave a trace in.
std::string state_of(int buffer) {
  const Query found = query(buffer);
  return fmt::format("placement {}, generation {}, {} moves, {} users, last refused: {} {}",
                     found.head.placement, found.head.generation, found.head.moves,
                     found.users.size(), found.head.last_refused.kind,
                     found.head.last_refused.name);
}

std::string reasons_of(const verdict& word) {
  std::string text;
  for (const auto& why : word.reasons) text += " " + why.id();
  return text;
}

std::string say(const verdict& word) {
  return to_string(word.route) + ":" + reasons_of(word);
}

class Negotiate : public BlockTest {
 protected:
  static bool is_drive(const ExpectedPair& pair) { return drive(pair.requester).nsid != 0; }

  region_info info_of(const std::string& memory) const {
    const auto all = module_.regions();
    return find_region(all, region_of(memory).name);
  }

  const topology machine_ = read_topology();
  const dmabridge::control module_;
};

// --- the kernel's answer
// -----------------------------------------------------------------------------------

TEST_F(Negotiate, AnswerIsThatOfBind) {
  for (const ExpectedPair& pair : expected_pairs()) {
    const auto region = region_of(pair.memory);
    const Fd target = open_file(drive(pair.requester).path(), O_RDONLY);
    for (const std::uint32_t of_buffer : policies) {
      for (const std::uint32_t wanted : policies) {
        SCOPED_TRACE(fmt::format("{}, policies {} and {}", pair.name(), of_buffer, wanted));
        const Fd buffer = allocate_in(region, 64 * KiB, of_buffer);
        const std::string before = state_of(buffer.get());
        const Answer answer = ask_file(buffer.get(), target.get(), wanted);
        const Answer in_advance =
            ask_file(region, target.get(), wanted, DMABRIDGE_NEGOTIATE_READ, of_buffer);
        EXPECT_EQ(state_of(buffer.get()), before) << "a question left something behind";

        const Binding bound = bind(buffer.get(), target.get(), wanted);
        EXPECT_EQ(answer.error, bound.error);
        EXPECT_EQ(describe(answer.verdict), describe(bound.verdict));
        EXPECT_EQ(in_advance.error, bound.error);
        EXPECT_EQ(describe(in_advance.verdict), describe(bound.verdict));
        const std::uint32_t placed = bound.error == 0 ? placement(buffer.get()) : 0;
        EXPECT_EQ(answer.placement, placed);
        EXPECT_EQ(in_advance.placement, placed);
        if (of_buffer == DMABRIDGE_POLICY_PREFER && wanted == DMABRIDGE_POLICY_REQUIRE) {
          EXPECT_EQ(answer.verdict.route, pair.route) << describe(answer.verdict);
        }
      }
    }
  }
}

TEST_F(Negotiate, AnswerIsThatOfAttach) {
  for (const ExpectedPair& pair : expected_pairs()) {
    if (!is_drive(pair)) continue;
    const auto region = region_of(pair.memory);
    const Client client = nvme(pair.requester);
    for (const ImporterKind& kind : kinds) {
      for (const std::uint32_t of_buffer : policies) {
        SCOPED_TRACE(fmt::format("{}, {}, policy {}", pair.name(), kind.name, of_buffer));
        const Fd buffer = allocate_in(region, 64 * KiB, of_buffer);
        const std::string before = state_of(buffer.get());
        const Answer answer = ask_function(buffer.get(), client.function, flags_of(kind));
        const Answer in_advance = ask_function(region, client.function, flags_of(kind),
                                               DMABRIDGE_POLICY_PREFER, of_buffer);
        EXPECT_EQ(state_of(buffer.get()), before) << "a question left something behind";

        const Attached attached = attach(buffer.get(), kind, client);
        EXPECT_EQ(answer.error, attached.error);
        EXPECT_EQ(in_advance.error, attached.error);
        const Query found = query(buffer.get());
        ASSERT_EQ(found.users.size(), attached.error == 0 ? 1u : 0u);
        const dmabridge_verdict& word =
            attached.error == 0 ? found.users[0].verdict : found.head.last_refused.verdict;
        EXPECT_EQ(describe(answer.verdict), describe(word));
        EXPECT_EQ(describe(in_advance.verdict), describe(word));
        EXPECT_EQ(answer.placement, attached.error == 0 ? found.head.placement : 0);
      }
    }
  }
}

// --- the library's prediction
// ------------------------------------------------------------------------------

TEST_F(Negotiate, PredictionForADriveIsTheKernelsAnswer) {
  for (const ExpectedPair& pair : expected_pairs()) {
    const auto region = info_of(pair.memory);
    const std::string path = drive(pair.requester).path();
    const Fd target = open_file(path, O_RDONLY);
    for (const std::uint32_t of_buffer : policies) {
      for (const std::uint32_t wanted : policies) {
        SCOPED_TRACE(fmt::format("{}, policies {} and {}", pair.name(), of_buffer, wanted));
        const auto facts = facts_of(region, 64 * KiB, static_cast<policy>(of_buffer));
        const auto importer = importer_named(machine_, path, static_cast<policy>(wanted));
        const auto planned = negotiate(machine_, facts, {&importer, 1}).importers.at(0);
        const Answer answer = ask_file(region_of(pair.memory), target.get(), wanted,
                                       DMABRIDGE_NEGOTIATE_READ, of_buffer);
        const auto word = verdict::from_kernel(answer.verdict);
        EXPECT_FALSE(planned.unknown) << "root can read all there is";
        EXPECT_EQ(to_string(planned.word.route), to_string(word.route))
            << "predicted " << say(planned.word) << "; the kernel says " << say(word);
        // The kernel does not look at the path where policies alone decide.
        if (word.distance) {
          EXPECT_EQ(planned.word.distance, word.distance);
        }
      }
    }
  }
}

// Whatever is plugged in: an answer does not need a driver.
TEST_F(Negotiate, PredictionForAFunctionIsTheKernelsAnswer) {
  for (const auto& region : module_.regions()) {
    const auto facts = facts_of(region, 64 * KiB, policy::prefer);
    for (const auto& function : machine_.functions) {
      if (function.port != pci_port::endpoint) continue;
      const auto name = to_string(function.address);
      SCOPED_TRACE(name + " to " + region.name);
      auto importer = importer_named(machine_, name, policy::prefer);
      importer.missing.clear();  // how its driver attaches: as is asked here
      const auto planned = negotiate(machine_, facts, {&importer, 1}).importers.at(0);
      dmabridge_region_info raw{};
      raw.id = region.id;
      const Answer answer =
          ask_function(raw, function.address.pack(),
                       DMABRIDGE_NEGOTIATE_PEER2PEER | DMABRIDGE_NEGOTIATE_REVOCABLE);
      const auto word = verdict::from_kernel(answer.verdict);
      EXPECT_FALSE(planned.unknown);
      EXPECT_EQ(say(planned.word), say(word));
      if (word.distance) {
        EXPECT_EQ(planned.word.distance, word.distance);
      }
    }
  }
}

TEST_F(Negotiate, PredictionForAFileIsTheKernelsAnswer) {
  for (const Drive& each : drives()) {
    if (each.fs.empty()) continue;
    const Mount mount(each.path(), each.fs);
    const std::string path = mount.file("negotiated");
    make_pattern_file(path, 64 * KiB, 0x19);
    {
      const Fd target = open_file(path, O_RDONLY);
      for (const auto& region : module_.regions()) {
        SCOPED_TRACE(fmt::format("{} with {}, to {}", each.serial, each.fs, region.name));
        const auto facts = facts_of(region, 64 * KiB, policy::prefer);
        const auto importer = importer_named(machine_, path, policy::prefer);
        const auto planned = negotiate(machine_, facts, {&importer, 1}).importers.at(0);
        dmabridge_region_info raw{};
        raw.id = region.id;
        const Answer answer = ask_file(raw, target.get(), DMABRIDGE_POLICY_PREFER);
        const auto word = verdict::from_kernel(answer.verdict);
        EXPECT_FALSE(planned.unknown);
        if (importer.legs.empty()) {
          EXPECT_EQ(say(planned.word), say(word));
        } else {
          // The kernel has no path for the whole.
          EXPECT_EQ(to_string(planned.word.route), to_string(word.route));
        }
      }
    }
    unlink(path.c_str());
  }
}

// --- the two together
// ---------------------------------------------------------------------------------------

TEST_F(Negotiate, ConfirmFindsNoDifferenceAndPlansAsItComesOut) {
  for (const auto& region : module_.regions()) {
    SCOPED_TRACE(region.name);
    std::vector<importer_facts> importers;
    for (const Drive& each : drives())
      importers.push_back(importer_named(machine_, each.path(), policy::prefer));
    const auto memory = dmabridge::allocate(region, 64 * KiB, policy::prefer);
    const int buffer = memory.descriptor();
    const auto facts = facts_of(module_.query(buffer), region);
    const std::string before = state_of(buffer);
    const auto found = confirm(module_, region, &memory, machine_, facts, importers);
    EXPECT_EQ(state_of(buffer), before) << "a question left something behind";
    for (const auto& each : found.differences)
      ADD_FAILURE() << each.importer << ": predicted " << say(each.predicted)
                    << "; the kernel says " << say(each.confirmed);
    EXPECT_EQ(found.joint.state, verdict_state::confirmed);

    std::vector<Fd> targets;
    std::vector<Binding> bindings;
    for (const Drive& each : drives()) {
      targets.push_back(open_file(each.path(), O_RDONLY));
      bindings.push_back(bind(buffer, targets.back().get(), DMABRIDGE_POLICY_PREFER));
      EXPECT_EQ(bindings.back().error, 0) << describe(bindings.back().verdict);
    }
    EXPECT_EQ(placement(buffer), static_cast<std::uint32_t>(found.joint.placement));
    if (found.joint.placement != dmabridge::placement::device) continue;
    for (std::size_t i = 0; i < bindings.size(); i++)
      EXPECT_EQ(bindings[i].verdict.route,
                static_cast<std::uint32_t>(found.joint.importers[i].word.route));
  }
}

// --- the bytes' word
// ----------------------------------------------------------------------------------------

TEST_F(Negotiate, ProofFindsWhatIsBrokenAndNothingElse) {
  for (const ExpectedPair& pair : expected_pairs()) {
    SCOPED_TRACE(pair.name());
    const std::string path = drive(pair.requester).path();
    const auto importer = importer_named(machine_, path, policy::prefer);
    const auto seen = prove(module_, info_of(pair.memory), importer, path, 1 * MiB);
    if (pair.route == DMABRIDGE_ROUTE_NONE) {
      EXPECT_NE(seen.skipped, "") << "there is nothing to prove";
      continue;
    }
    EXPECT_EQ(seen.skipped, "");
    EXPECT_EQ(static_cast<std::uint32_t>(seen.claimed), pair.route);
    EXPECT_EQ(seen.compared, 1 * MiB);
    if (pair.loses_bytes) {
      EXPECT_GT(seen.different, 0u);
      EXPECT_TRUE(seen.first_difference);
      ASSERT_TRUE(seen.broken);
      EXPECT_EQ(seen.broken->code, std::uint32_t(DMABRIDGE_REASON_BROKEN_PATH));
      EXPECT_EQ(seen.broken->value, seen.different);
    } else {
      EXPECT_EQ(seen.different, 0u);
      EXPECT_FALSE(seen.first_difference);
      EXPECT_FALSE(seen.broken);
    }
  }
}

}  // namespace
}  // namespace dmabridge::test

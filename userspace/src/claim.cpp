// SPDX-License-Identifier: MIT
#include "claim.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace dmabridge {
namespace {

// Where somebody has a buffer's bytes.
enum class site : std::uint8_t {
  nowhere,
  system,
  ram,     // behind a stolen region
  device,  // or, as far as it is known, perhaps there
};

// What keeps an importer off a device's memory, whatever else may turn out.
auto is_kept_off(const verdict& word) -> bool {
  constexpr auto codes = std::to_array<std::uint32_t>(
      {DMABRIDGE_REASON_STATIC_IMPORTER, DMABRIDGE_REASON_NOT_PEER2PEER,
       DMABRIDGE_REASON_NOT_REVOCABLE, DMABRIDGE_REASON_POLICY_FORBID});
  return std::ranges::any_of(word.reasons, [&](const reason& why) {
    return std::ranges::find(codes, why.code) != codes.end();
  });
}

auto site_of(const buffer_facts& buffer, const importer_facts& importer,
             const planned_verdict& given) -> site {
  const auto way = given.word.route;
  if (way == route::none && !given.unknown) return site::nowhere;
  const auto is_there = satisfies_require(way) || (given.unknown && !is_kept_off(given.word));
  if (buffer.kind == region_kind::system || !is_there) return site::system;
  if (buffer.kind == region_kind::stolen) return site::ram;
  // The kernel pins no device's memory for RDMA (drivers/infiniband/core/umem.c).
  return importer.pins_mapping ? site::system : site::device;
}

auto site_of(const buffer_facts& buffer, const buffer_user& user) -> site {
  if (buffer.revoked || buffer.placement == placement::none) return site::nowhere;
  if (buffer.placement == placement::system) return site::system;
  if (buffer.kind == region_kind::stolen) return site::ram;
  return user.p2p ? site::device : site::system;
}

// Whether anybody could move it, but for those who pin it.
auto may_move(const buffer_facts& buffer) -> bool {
  if (!buffer.foreign.empty()) return buffer.rules.movable != answer::no;
  return buffer.kind != region_kind::system && buffer.movable;
}

// Whether a revoke makes it stop. What is attached once and for all has no callback for that.
auto can_be_stopped(const importer_facts& importer) -> bool {
  return importer.revocable && !importer.is_static && !importer.pins_mapping;
}

// One that cannot be told to stop cannot be told to follow, either.
auto pins_buffer(const importer_facts& importer) -> bool {
  return importer.pins || !can_be_stopped(importer);
}

auto consequence_of_needs(placement needs) -> consequence {
  return needs == placement::system ? consequence::needs_system : consequence::needs_device;
}

auto consequence_of(const buffer_facts& buffer, const importer_facts& importer, site at,
                    std::optional<placement> needs) -> consequence {
  if (at == site::nowhere) return consequence::nothing;
  const auto moves = may_move(buffer);
  if (importer.needs_pages) {
    if (!buffer.foreign.empty() || !moves) return consequence::nobody_waits;
    return needs ? consequence_of_needs(*needs) : consequence::command_in_flight;
  }
  if (importer.assumed && !importer.pins_mapping) {
    if (at == site::device) return consequence::revoke_may_wait;
    return moves ? consequence::may_stay : consequence::nobody_waits;
  }
  if (at == site::device && !can_be_stopped(importer)) {
    return buffer.foreign.empty() ? consequence::revoke_waits : consequence::cannot_be_stopped;
  }
  if (!moves) return consequence::nobody_waits;
  if (!pins_buffer(importer)) return needs ? consequence_of_needs(*needs) : consequence::follows;
  if (can_be_stopped(importer)) return consequence::stays;
  if (at == site::ram) return consequence::quarantine;
  return buffer.foreign.empty() ? consequence::memory_stays : consequence::stays_in_system;
}

// How the sentences speak of those that do it.
struct words {
  const char* nothing;
  const char* until;
  const char* fails;
  const char* stays;
};

auto words_for(importer_kind of) -> words {
  switch (of) {
    case importer_kind::rdma:
      return {"nothing is registered", "it is deregistered", "peers' accesses fail",
              "the registered memory stays"};
    case importer_kind::block:
    case importer_kind::file:
      return {"nothing is bound", "its binding ends", "its commands fail", "the memory stays"};
    case importer_kind::gpu:
    case importer_kind::pci:
      break;
  }
  return {"nothing is attached", "it lets go of it", "its accesses fail", "the memory stays"};
}

auto unknown_cause(const claim& what) -> std::string {
  if (what.of == importer_kind::pci) {
    return "of a PCI address it is not known what its driver does with a dma-buf";
  }
  return fmt::format("driver {} is none that is known here",
                     what.driver.empty() ? "(none is bound)" : what.driver);
}

}  // namespace

auto claim::blocks_moves() const noexcept -> bool {
  switch (consequence) {
    case dmabridge::consequence::stays:
    case dmabridge::consequence::stays_in_system:
    case dmabridge::consequence::memory_stays:
    case dmabridge::consequence::quarantine:
    case dmabridge::consequence::revoke_waits:
    case dmabridge::consequence::cannot_be_stopped:
    case dmabridge::consequence::may_stay:
    case dmabridge::consequence::revoke_may_wait:
    case dmabridge::consequence::held:
      return true;
    default:
      return false;
  }
}

auto claim::blocks_revoke() const noexcept -> bool {
  return consequence == dmabridge::consequence::revoke_waits ||
         consequence == dmabridge::consequence::cannot_be_stopped ||
         consequence == dmabridge::consequence::revoke_may_wait;
}

auto claim::text() const -> std::string {
  const auto word = words_for(of);
  switch (consequence) {
    case dmabridge::consequence::nothing:
      return word.nothing;
    case dmabridge::consequence::nobody_waits:
      return "nobody has to wait for it";
    case dmabridge::consequence::command_in_flight:
      return "a move waits for its commands in flight, and for nothing else";
    case dmabridge::consequence::follows:
      return "the buffer may move, and the device follows";
    case dmabridge::consequence::needs_system:
      return fmt::format("the buffer does not go back to its device before {}", word.until);
    case dmabridge::consequence::needs_device:
      return fmt::format(
          "the buffer stays on its device until {}, unless the device's driver moves it",
          word.until);
    case dmabridge::consequence::stays:
      return fmt::format("the buffer stays where it is until {}; if its device goes away, {}",
                         word.until, word.fails);
    case dmabridge::consequence::stays_in_system:
      return fmt::format("the buffer stays in system memory until {}", word.until);
    case dmabridge::consequence::memory_stays:
      return fmt::format(
          "the buffer stays in system memory until {}; its device may go away meanwhile, and {}",
          word.until, word.stays);
    case dmabridge::consequence::quarantine:
      return fmt::format(
          "the buffer stays in the RAM behind its region until {}; if its device goes away, that "
          "memory is in quarantine until then",
          word.until);
    case dmabridge::consequence::revoke_waits:
      return fmt::format(
          "the buffer stays where it is until {}, and the driver of its device cannot be unbound "
          "before: driver {} does not let itself be stopped",
          word.until, driver);
    case dmabridge::consequence::cannot_be_stopped:
      return fmt::format(
          "the buffer stays where it is until {}, and its exporter cannot stop that before: driver "
          "{} does not let itself be stopped",
          word.until, driver);
    case dmabridge::consequence::may_stay:
      return fmt::format("the buffer may have to stay where it is until {}: {}", word.until,
                         unknown_cause(*this));
    case dmabridge::consequence::revoke_may_wait:
      return fmt::format(
          "the buffer may have to stay where it is until {}, and the driver of its device may have "
          "to wait for that: {}",
          word.until, unknown_cause(*this));
    case dmabridge::consequence::held:
      return "the buffer stays where it is until that process lets go of it, and may be pinned "
             "there by it";
  }
  return "nobody knows";
}

auto claim_of(const buffer_facts& buffer, const importer_facts& importer,
              const planned_verdict& given, std::optional<placement> needs) -> claim {
  const auto at = site_of(buffer, importer, given);
  return {.consequence = consequence_of(buffer, importer, at, needs),
          .of = importer.kind,
          .driver = importer.driver};
}

auto claim_of(const buffer_facts& buffer, const buffer_user& user) -> claim {
  const auto at = site_of(buffer, user);
  if (user.kind == user_kind::hold && at != site::nowhere) {
    return {.consequence = consequence::held};
  }
  const importer_facts as_importer{.needs_pages = user.kind == user_kind::binding,
                                   .is_static = user.kind == user_kind::static_attachment,
                                   .revocable = user.revocable,
                                   .pins = user.pinned};
  return {.consequence = consequence_of(buffer, as_importer, at, {}),
          .driver = user.driver};
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// One answer for a buffer and all that want to reach it. A dma-buf has one placement, so one
// importer that cannot do P2P moves the buffer for all: the plan is for the whole set, and says who
// that was. negotiate() is pure: facts in, plan out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/block_importer.hpp"
#include "dmabridge/buffer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/exported_memory.hpp"
#include "dmabridge/exporter_rules.hpp"
#include "dmabridge/pci_address.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/topology.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

// What is known of a buffer, or of one that could be made.
struct buffer_facts {
  std::string name{};  // "region vram0", for people
  region_kind kind = region_kind::bar;
  // Another exporter's, by that name, which does with importers what its rules say. Of kind system:
  // what importers get is system memory. Of kind bar without a device: where it is, is not known.
  // Empty: of a region of ours, and the next three do not matter.
  std::string foreign{};
  exporter_rules rules{};
  answer copies = answer::unknown;      // somebody copies in and out, so that block I/O can bounce
  answer pinnable = answer::unknown;    // there is a mapping for RDMA devices that work by the CPU
  std::optional<pci_address> device{};  // the exporting function; nothing: none (system memory)
  unsigned bar = 0;
  bool has_pages = true;  // block I/O needs no bounce
  bool movable = true;    // the exporter can redirect to system memory
  bool takes_unrevocable = false;
  bool suspended = false;
  bool revoked = false;
  dmabridge::placement placement = dmabridge::placement::device;  // now
  dmabridge::policy policy = dmabridge::policy::prefer;
  std::uint64_t size = 0;                     // bytes
  bool empty = false;                         // nothing was written yet: a move copies nothing
  std::optional<std::uint64_t> move_limit{};  // most that the CPU copies; nothing: no limit
  // Those who use it already.
  std::uint64_t pins = 0;                 // by importers' drivers; while there is one nothing moves
  std::optional<reason> why_in_system{};  // if it is there, and for nobody's sake
  std::optional<reason> system_needer{};  // who keeps it in system memory: demoted
  std::optional<reason> device_needer{};  // who keeps it on the device: held
  std::vector<buffer_user> users{};       // all of them; of memory of others nobody tells
};

enum class importer_kind : std::uint8_t { block, file, rdma, gpu, pci };
DMABRIDGE_API auto to_string(importer_kind value) -> std::string;

// What is known of somebody who wants to reach it.
struct importer_facts {
  std::string name{};  // as people call it: "/dev/nvme0n1", "mlx5_0", "0000:03:00.0"
  importer_kind kind = importer_kind::pci;
  // Those that do the DMA; several for a stacked device, one per leg. None: no PCI function does.
  std::vector<pci_address> functions{};
  std::vector<std::string> legs{};  // the names of these, if it is stacked
  std::string driver{};             // that attaches; empty: none is bound, or it does not matter
  dmabridge::policy policy = dmabridge::policy::prefer;
  direction way = direction::both;  // what a drive or file is wanted for; `own` is about that
  bool needs_pages = false;         // block I/O: without pages it bounces
  bool is_static = false;           // dma_buf_attach(): cannot follow a move
  bool peer2peer = true;
  bool revocable = true;
  bool pins = false;     // keeps the placement while it is there
  bool assumed = false;  // is_static to pins: how its driver attaches is not known
  // It attaches to no dma-buf: RDMA by the CPU. The buffer is held, and a mapping of it pinned.
  bool pins_mapping = false;
  bool can_bounce = false;    // block I/O can, RDMA cannot
  bool may_copy = false;      // nobody can vouch that the CPU does not copy what it moves
  bool no_direct_io = false;  // the CPU copies, whatever the route
  bool vetoed = false;        // by the exporter's driver; it is among `own`, too
  std::vector<reason> own{};  // why it cannot do P2P whatever the path: queue_no_p2p, ...
  std::vector<unread_fact> missing{};
};

// What comes of it for others that somebody has the buffer, from when he comes until he goes.
enum class consequence : std::uint8_t {
  nothing,            // he is refused
  nobody_waits,       // it is there for good, whoever has it; or he does not attach
  command_in_flight,  // a move waits for those, and for nothing else
  follows,            // it may move
  needs_system,       // ... but not to its device
  needs_device,       // ... if its driver moves it
  stays,              // until he goes; a revoke makes him stop
  stays_in_system,    // a revoke is no concern of his
  memory_stays,       // ... and leaves him the memory
  quarantine,         // stays in the RAM behind its region, also after a revoke
  revoke_waits,       // stays on its device, and a revoke waits
  cannot_be_stopped,  // stays, and its exporter, another one, has no say
  may_stay,           // at worst, of a driver that is not known
  revoke_may_wait,    // at worst, too
  held,               // stays, and nobody knows who has it pinned besides
};

// Who waits for whom meanwhile.
struct DMABRIDGE_API claim {
  dmabridge::consequence consequence = dmabridge::consequence::nothing;
  importer_kind of = importer_kind::pci;
  std::string driver{};  // that is the cause

  // He pins or holds the buffer: it stays in its placement, whoever wants it elsewhere.
  auto blocks_moves() const noexcept -> bool;
  // The driver of the buffer's device has to wait for him when that is to go away.
  auto blocks_revoke() const noexcept -> bool;
  // For people: "the buffer may move, and the device follows".
  auto text() const -> std::string;
};

// What one importer gets.
struct planned_verdict {
  std::string importer{};
  // Its route in the plan with all reasons; none: refused.
  verdict word{.state = verdict_state::predicted};
  bool unknown = false;  // a fact that decides is missing; the route is what is safe
  std::vector<unread_fact> missing{};
  std::vector<reason> caveats{};  // change nothing: virtual_machine
  // Copies by a CPU per byte moved: 0 on P2P, stolen and system, 1 on bounce.
  unsigned copies = 0;
  dmabridge::claim claim{};  // at worst, if it is unknown
};

// Somebody who uses the buffer already, and keeps it where it is or its device from going.
struct keeper {
  user_kind kind = user_kind::static_attachment;
  std::string name{};  // the device's or the process's
  std::string driver{};
  std::optional<pci_address> device{};
  dmabridge::claim claim{};
};

// What the set would get if the buffer's policy were this one.
struct plan_option {
  dmabridge::policy policy = dmabridge::policy::prefer;
  dmabridge::placement placement = dmabridge::placement::none;
  std::vector<route> routes{};     // by importer
  std::vector<unsigned> copies{};  // by importer
  std::uint64_t moved = 0;         // bytes that have to be moved first
};

struct plan {
  verdict_state state = verdict_state::predicted;
  dmabridge::placement placement = dmabridge::placement::none;  // none: nobody is served
  std::vector<planned_verdict> importers{};                     // in the order asked
  // Who takes the buffer off its device, though others could have reached it there.
  std::vector<std::size_t> demoting{};
  std::vector<keeper> kept_by{};       // before any of these importers comes
  std::vector<plan_option> options{};  // require, prefer, forbid
  std::uint64_t moved = 0;
};

// `importers` that want the buffer at once. Their order does not matter. No system call, no
// allocation but for the result.
DMABRIDGE_API auto negotiate(const topology& machine, const buffer_facts& buffer,
                             std::span<const importer_facts> importers) -> plan;

// The facts about a region of ours, for a buffer of that size and policy.
DMABRIDGE_API auto facts_of(const region_info& region, std::uint64_t size, policy wanted)
    -> buffer_facts;
DMABRIDGE_API auto facts_of(const buffer_info& buffer, const region_info& region) -> buffer_facts;

// The facts about memory of another exporter, by its rules (rules_of(), rules_of_driver()), called
// `name` (empty: as the rules call it). If it can be a device's, the caller says which: `device`
// and `bar` of the result are not set, and without the former nothing is known of P2P. `copies` is
// whether the CPU can map the dma-buf: memory that an API owns can be copied by that API.
DMABRIDGE_API auto facts_of(const exporter_rules& rules, const std::string& name,
                            std::uint64_t size, policy wanted) -> buffer_facts;
// The facts about a dma-buf of another exporter, by what /proc tells of it.
DMABRIDGE_API auto facts_of(const buffer& memory, policy wanted) -> buffer_facts;
// With its owner, who copies, and may have a mapping that can be pinned.
DMABRIDGE_API auto facts_of(const exported_memory& memory, policy wanted) -> buffer_facts;

// The facts about an importer by what people call it: a PCI address, a block device, a path of a
// file, an RDMA device, a DRM node. Files are looked up in this machine's mounts and so make sense
// with a topology of this machine only. Throws dmabridge::error of kind usage, which lists what
// there is, if no such thing is in the topology. `way`: of a block device or file, what it is
// wanted for; what only hinders writes is no reason where it is read alone.
DMABRIDGE_API auto importer_named(const topology& machine, const std::string& name, policy wanted,
                                  direction way = direction::both) -> importer_facts;

// How a plan reads as one status: all P2P, some redirected or bounced, some refused, or unknown.
enum class plan_outcome : std::uint8_t { p2p, redirected, refused, unknown };
DMABRIDGE_API auto outcome_of(const plan& joint) noexcept -> plan_outcome;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
// /dev/dmabridge: what the kernel module knows, and what it can do with buffers.
#pragma once

#include <dmabridge/uapi.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/pci_address.hpp"
#include "dmabridge/reason.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

struct module_info {
  std::uint32_t abi_version = 0;
  std::uint32_t regions = 0;
  bool block_importer = false;  // dmabridge_block is loaded
};

enum class region_kind : std::uint32_t {
  bar = DMABRIDGE_REGION_BAR,
  stolen = DMABRIDGE_REGION_STOLEN,
  system = DMABRIDGE_REGION_SYSTEM,
};

struct region_info {
  std::uint32_t id = 0;  // never used twice while the module is loaded
  std::string name;
  std::string node;  // "/dev/dmabridge-NAME"
  region_kind kind = region_kind::bar;
  std::optional<pci_address> device{};  // nothing: it is no PCI function
  std::uint32_t bar = 0;                // by which the device's memory is seen; not of kind system
  std::string driver{};
  bool has_pages = false;          // block I/O needs no bounce
  bool takes_unrevocable = false;  // gives P2P to importers that cannot be stopped
  bool has_engine = false;         // the device copies when a buffer moves: move_limit is not asked
  bool suspended = false;          // by its driver: no device memory is to be had for now
  bool unregistered = false;       // its device is gone; here until nobody has its memory any more
  std::uint32_t buffers = 0;
  std::uint64_t size = 0;
  std::uint64_t available = 0;   // not handed out
  std::uint64_t limit = 0;       // most that may be handed out
  std::uint64_t move_limit = 0;  // most that an attach copies by CPU
  // Freed, but pinned through user mappings still, and so not available. 0 with a module that is
  // older than this.
  std::uint64_t quarantined = 0;
};

// A run of a buffer's bytes on its device.
struct chunk {
  std::uint64_t offset = 0;  // in the region
  std::uint64_t length = 0;
};

enum class user_kind : std::uint32_t {
  static_attachment = DMABRIDGE_USER_STATIC,
  dynamic_attachment = DMABRIDGE_USER_DYNAMIC,
  binding = DMABRIDGE_USER_BINDING,
  hold = DMABRIDGE_USER_HOLD,
};

// Somebody who uses a buffer.
struct buffer_user {
  user_kind kind = user_kind::static_attachment;
  std::string name{};  // the device's, the disk's or the process's
  std::string driver{};
  std::optional<pci_address> device{};
  dmabridge::policy policy = dmabridge::policy::prefer;
  bool needs_system = false;  // keeps the buffer in system memory
  bool needs_device = false;  // keeps it on the device
  bool p2p = false;           // P2P granted
  bool peer2peer = false;     // asked for P2P
  bool revocable = false;
  bool pinned = false;
  bool bounces = false;          // reaches device memory by copies only
  dmabridge::verdict verdict{};  // what it was told when it came
};

struct buffer_info {
  std::string region;
  std::uint32_t region_id = 0;
  dmabridge::placement placement = dmabridge::placement::none;
  dmabridge::policy policy = dmabridge::policy::prefer;
  bool revoked = false;
  std::uint64_t size = 0;
  std::uint64_t generation = 0;  // changes with every move and revoke
  std::uint64_t moves = 0;
  std::optional<reason> last_move{};          // why it moved last; nothing: it never did
  std::optional<buffer_user> last_refused{};  // with its reasons; nothing: nobody was
  std::vector<chunk> chunks;                  // empty in system memory
  std::vector<buffer_user> users;
};

DMABRIDGE_API auto to_string(region_kind kind) -> std::string;
DMABRIDGE_API auto to_string(user_kind kind) -> std::string;

// An open /dev/dmabridge. Anyone may open it; what it does to a buffer it does for those who hold
// its fd. Threads may share one. Every member function throws dmabridge::error.
class DMABRIDGE_API control {
 public:
  static constexpr const char* node = "/dev/dmabridge";

  // Says how to load the module if there is none, and what to update if it speaks another ABI.
  control();

  auto descriptor() const noexcept -> int { return fd_.get(); }
  // As of the opening.
  auto abi_version() const noexcept -> std::uint32_t { return abi_version_; }

  auto info() const -> module_info;
  auto regions() const -> std::vector<region_info>;

  // `buffer` is the fd of a dma-buf that one of our regions exports.
  auto query(int buffer) const -> buffer_info;

  // Moves the buffer to `where` and keeps it there while the fd that comes back is open.
  auto hold(int buffer, placement where) const -> fd;

  // Moves it once.
  auto move(int buffer, placement where) const -> verdict;

 private:
  fd fd_;
  std::uint32_t abi_version_ = 0;
};

}  // namespace dmabridge

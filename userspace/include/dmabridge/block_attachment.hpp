// SPDX-License-Identifier: MIT
// A file or block device joined with memory of any API, by the best way that there is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "dmabridge/api.hpp"
#include "dmabridge/block_importer.hpp"
#include "dmabridge/control.hpp"
#include "dmabridge/exported_memory.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

// Tried in this order. The first two move no byte by the CPU.
enum class block_method : std::uint8_t {
  binding,         // the kernel module's: any route, which its counters tell
  pinned_mapping,  // io_uring on a mapping whose pages can be pinned (memory_owner::pinnable())
  bounce,          // through memory of ours; the owner copies, while other I/O is under way
};
DMABRIDGE_API auto to_string(block_method value) -> std::string;

// Move-only. transfer_engine moves bytes by it.
class DMABRIDGE_API block_attachment {
 public:
  // `memory` has to outlive it; `module` has not. Without a module (nullptr) there are no bindings.
  // `target` is an open file or block device, opened for `way`, and stays the caller's; `name` is
  // what errors call it.
  //
  // Another way than a binding is only taken with memory that is not ours, for what the module
  // refuses about its own memory is refused for a reason. Throws dmabridge::error: of kind refused
  // with every reason, which with policy require is so for all that is not peer to peer.
  block_attachment(const control* module, const exported_memory& memory, int target,
                   const std::string& name, policy wanted, direction way);

  auto method() const noexcept -> block_method { return method_; }
  // Of a binding as the kernel says. Of a pinned mapping predicted: route system, which nobody
  // counts. A bounce is what this library does itself, and confirmed. Reasons say why it is not
  // peer to peer, and why not a way above this one.
  auto verdict() const noexcept -> const dmabridge::verdict& { return verdict_; }
  // What a transfer has to keep to. Offsets in the buffer count from the start of the exported
  // range. Routes and errors are those of the binding, if it is one. Throws dmabridge::error.
  auto info() const -> binding_info;

 private:
  friend class transfer_engine;

  auto bind(const control& module, int target, const std::string& name, policy wanted,
            direction way) -> bool;
  void refuse_if_required(const std::string& name, policy wanted) const;
  void go_direct(int target, const std::string& name, direction way);

  const exported_memory* memory_;
  block_method method_ = block_method::bounce;
  dmabridge::verdict verdict_{};
  std::optional<binding> binding_{};
  fd target_{};  // of pinned_mapping and bounce: an open of our own, for direct I/O if it can be
  std::uint32_t offset_align_ = 1;
  std::uint32_t memory_align_ = 1;
};

}  // namespace dmabridge

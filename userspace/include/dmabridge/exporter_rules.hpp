// SPDX-License-Identifier: MIT
// What is known of dma-bufs by who exports them.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "dmabridge/api.hpp"
#include "dmabridge/buffer.hpp"

namespace dmabridge {

// "unknown" is neither: it is known to differ from buffer to buffer, or not known here at all. Find
// it out by trying.
enum class answer { unknown, no, yes };

enum class memory_kind {
  unknown,
  system,  // RAM
  device,  // behind a device's BAR
  either,  // one or the other, and some exporters move it
};

DMABRIDGE_API auto to_string(answer word) -> std::string;
DMABRIDGE_API auto to_string(memory_kind kind) -> std::string;

// Rules of an exporter, as of Linux 7.3. The dma-buf itself is meant: that a udmabuf's memfd can be
// mapped too, and that mapping be pinned, is no rule of the dma-buf.
struct DMABRIDGE_API exporter_rules {
  std::string_view exporter{};  // its name in fdinfo; empty: unknown
  std::string_view driver{};    // the DRM driver, if the rules are for one alone
  std::string_view what = "an unknown exporter";
  answer mappable = answer::unknown;   // by mmap()
  answer pinnable = answer::unknown;   // pages of that mapping: for O_DIRECT, ibv_reg_mr()
  answer vmap = answer::unknown;       // by the kernel, for its own CPU accesses
  answer movable = answer::unknown;    // the exporter may move the bytes while others use them
  answer revocable = answer::unknown;  // it may take them away from those who use them
  memory_kind memory = memory_kind::unknown;
  // What importers that attach (RDMA devices, GPUs) get of a device's memory.
  answer p2p = answer::unknown;          // that memory itself, if they can do P2P
  answer asks_path = answer::unknown;    // ... and only if the kernel knows a path
  answer unstoppable = answer::unknown;  // ... also those that it could not stop
  answer redirects = answer::unknown;    // system memory if they cannot: it moves there, for all
  // Taken by dmabridge's bindings for block I/O: vmap of system memory, and no pin operation.
  answer bindable = answer::unknown;
  std::string_view attach{};  // p2p to redirects as a sentence; empty: nothing is known
  std::string_view drives{};  // what would bring drives to it without a copy; empty: not known

  auto is_known() const noexcept -> bool { return !exporter.empty(); }
};

// By the name that fdinfo gives (buffer::exporter()). DRM drivers share the name "drm", with what
// all of them do as its rules; who knows the driver (drm_device::driver()) learns more. All is
// unknown of an exporter that is.
DMABRIDGE_API auto rules_of(std::string_view exporter, std::string_view drm_driver = {})
    -> exporter_rules;
DMABRIDGE_API auto rules_of(const buffer& memory) -> exporter_rules;

// By the driver of a PCI function or DRM node whose memory is meant: "amdgpu", "nvidia",
// "vfio-pci".
DMABRIDGE_API auto rules_of_driver(std::string_view driver) -> exporter_rules;

// All that rules_of() knows.
DMABRIDGE_API auto known_exporters() noexcept -> std::span<const exporter_rules>;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "foreign_gap.hpp"

#include <fmt/format.h>

#include <string>

namespace dmabridge {
namespace {

struct words {
  const char* what;  // after "whether exporter NAME"
  const char* why;   // of an exporter that is known; nullptr: the usual
  const char* remedy;
};

auto words_for(foreign_gap what) -> words {
  switch (what) {
    case foreign_gap::place:
      return {"has the buffer on a device, and on which", "a dma-buf does not tell that",
              "name the device instead of the buffer, by its DRM node or PCI address (dmabridge "
              "topo lists them)"};
    case foreign_gap::p2p:
      return {"lets importers reach a device's memory", nullptr,
              "let the importer attach: the tracepoint dma_buf:dma_buf_dynamic_attach tells what "
              "it got"};
    case foreign_gap::path:
      return {"gives addresses that lead there",
              "it does not ask the kernel for a path, and the kernel knows none, or translates the "
              "importer's addresses",
              "boot with iommu=pt, and compare the bytes that arrive"};
    case foreign_gap::unstoppable:
      return {"lets importers that cannot be stopped reach a device's memory", nullptr,
              "let the importer attach, and see the kernel log (dmesg)"};
    case foreign_gap::move:
      return {"moves the buffer to system memory for importers that cannot do P2P", nullptr,
              "allocate the buffer so that it may be in system memory, too"};
    case foreign_gap::binding:
      return {"gives the kernel a mapping of system memory", nullptr,
              "name the buffer (fd:N, pid:PID:FD) with dmabridge_block loaded, so that the kernel "
              "can be asked"};
    case foreign_gap::copies:
      return {"lets the CPU map the buffer", nullptr,
              "map it, or copy by the API that owns the memory"};
    case foreign_gap::pins:
      return {"has a mapping that can be pinned", nullptr, "register it (ibv_reg_mr), which tells"};
  }
  return {"does what decides", nullptr, ""};
}

}  // namespace

auto unread(const buffer_facts& buffer, foreign_gap what) -> unread_fact {
  const auto text = words_for(what);
  const auto* usual = buffer.rules.is_known()
                          ? "it differs from buffer to buffer, or was not read in its source"
                          : "the exporter is unknown to this library";
  const auto* why = text.why != nullptr && buffer.rules.is_known() ? text.why : usual;
  return {.what = fmt::format("whether exporter {} {}", buffer.foreign, text.what),
          .why = why,
          .remedy = text.remedy};
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "exporter_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "dmabridge/reason.hpp"

namespace dmabridge::docs {
namespace {

constexpr std::string_view head = R"(<!-- SPDX-License-Identifier: MIT -->
<!-- Made of docs/exporters-and-importers.json by docs/generate. "tests/run --table" measures, and makes both again. -->

# What every exporter's memory gets from every importer

Each cell of the table is measured: in a guest of the workbench (topology `displays`) 1 MiB of the exporter's memory is
given to the importer under policy `prefer`, bytes go both ways, and they are compared as a third party finds them: the
host behind the BAR, the drive's image, an RDMA peer, or who maps the dma-buf. The cell is what the library said of it: by
which way and route the bytes went, with every reason why that is not peer to peer, or why it was refused. Each reason
leads to what it means and what to do.

What hardware gets that the guest has not is in [gpu-support.md](gpu-support.md), as far as sources tell.

## How to read a cell

| word | means |
|---|---|
| binding, ROUTE | the kernel module has joined drive or file with the memory |
| pinned_mapping, ROUTE | pages of a mapping of the memory are pinned: by io_uring, or for an RDMA memory region |
| bounce | through other memory of the host: the memory's owner copies, or, in a binding, the kernel module |
| imported | the API has the memory itself, without a copy |
| mapped | `mmap()` of the dma-buf, with accesses between `DMA_BUF_IOCTL_SYNC` |
| refused | with the reasons, or else the errno, or Vulkan's result |
| p2p_bus | the device's memory, inside one PCIe switch or below one root port |
| stolen | the RAM behind the device's BAR |
| system | system memory, without a copy |
| on the device, in system memory | where memory of dmabridge was while the API had it |

Of an import by DRM the route is the kernel's word on the attachment. It has one about memory of dmabridge only: of other
exporters' nobody tells where the bytes are.

Refusals without a reason of the library's: ENODEV by virtio_gpu, which takes its own memory only; EOPNOTSUPP by vfio-pci,
which lets none attach but those who do peer to peer and can be revoked; EINVAL by vfio-pci, which maps its dma-bufs for
nobody, so that lavapipe says VK_ERROR_INVALID_EXTERNAL_HANDLE.

## The table

)";

constexpr std::string_view tail = R"(
## What it does not show

- **Other policies.** `require` refuses all but p2p_bus, p2p_host_bridge and stolen; `forbid` never takes these.
- **p2p_host_bridge**, which takes the place of p2p_bus where devices at different root ports meet in a host bridge that
  the kernel trusts. `tests/topologies/` has machines with it, and the areas topology and negotiate of `tests/run` go
  through them.
- **RDMA devices with dma-buf memory regions.** rxe has none and moves bytes by the CPU, so that it needs a mapping that
  can be pinned. What others get is in [gpu-support.md](gpu-support.md#rdma-ibv_reg_dmabuf_mr).
- **Vulkan drivers of GPUs.** lavapipe computes by the CPU, and takes what the CPU can map.
- **DRM drivers of GPUs.** vgem is no PCI device, and bochs-drm attaches without asking for peer to peer, so both get
  system memory.
- **Memory of GPUs.** A row whose device is missing says so. Where there is one, it is measured like the others.
- **Speed.** `tests/run --bench` measures that.

## Making it again

    ./tests/run matrix      # compares the table with what happens
    ./tests/run --table     # measures, and writes docs/exporters-and-importers.json and this page

Rows are made in `tests/guest/support/exporters.cpp`, columns in `tests/guest/matrix_test.cpp`; a new one is entered in
the table with any cells, and measured.
)";

// As headings of why-not-p2p.md are named: "no_pages (13)" is #no_pages-13.
auto linked(const std::string& id) -> std::string {
  const auto all = reason_table();
  const auto found = std::ranges::find(all, id, &reason_description::id);
  if (found == all.end()) return id;
  return fmt::format("[{0}](why-not-p2p.md#{0}-{1})", id, found->code);
}

auto markdown(const table_cell& cell) -> std::string {
  auto text = cell.outcome;
  for (std::size_t i = 0; i < cell.reasons.size(); ++i)
    text += fmt::format("{}{}", i == 0 ? ":<br>" : ", ", linked(cell.reasons[i]));
  return text;
}

auto markdown(const exporter_table& table) -> std::string {
  std::string heads = "| memory |", rule = "|---|", rows;
  for (const auto& importer : table.importers) {
    heads += fmt::format(" {} |", importer.title);
    rule += "---|";
  }
  for (const auto& row : table.exporters) {
    rows += fmt::format("| {}<br>`{}()` |", row.title, row.made_by);
    for (const auto& importer : table.importers)
      rows += fmt::format(" {} |", markdown(row.cells.at(importer.id)));
    rows += '\n';
  }
  return heads + '\n' + rule + '\n' + rows;
}

}  // namespace

auto exporters_and_importers(const exporter_table& table) -> std::string {
  return std::string(head) + markdown(table) + std::string(tail);
}

}  // namespace dmabridge::docs

// SPDX-License-Identifier: MIT
#include "known.hpp"

#include <algorithm>

namespace dmabridge::test::conformance {
namespace {

constexpr Known failures[] = {
    {"dma-heap", "map", "a table of its own",
     "system_heap_map_dma_buf() maps and returns the attachment's one table each time: a second "
     "mapping of one attachment overwrites the addresses of the first, behind an IOMMU with "
     "others"},
    {"vgem", "cpu", "mmap at an offset",
     "drm_gem_shmem_any_fault() takes a page by its place in the mapping, vmf->pgoff - "
     "vma->vm_pgoff, "
     "and so shows the buffer's start wherever a mapping begins"},
    {"vfio-pci", "attach", "who is attached can map",
     "vfio_pci_dma_buf_attach() asks whether the importer can do P2P, not whether it can reach the "
     "device; that is found out at map"},
};

}  // namespace

std::span<const Known> known_failures() {
  return failures;
}

const Known* known_failure(const std::string& exporter, const std::string& group,
                           const std::string& check) {
  const auto found = std::ranges::find_if(failures, [&](const Known& known) {
    return known.exporter == exporter && known.group == group && known.check == check;
  });
  return found == std::end(failures) ? nullptr : found;
}

}  // namespace dmabridge::test::conformance

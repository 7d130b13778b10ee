// SPDX-License-Identifier: MIT
#include "dmabridge/exporter_rules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace dmabridge {
namespace {

constexpr auto yes = answer::yes;
constexpr auto no = answer::no;
constexpr auto unknown = answer::unknown;

// Files are those of Linux 7.3. An exporter without .mmap in its dma_buf_ops cannot be mapped
// (dma_buf_mmap_internal()), one without .vmap cannot be vmapped (dma_buf_vmap()); a mapping with
// VM_PFNMAP or VM_IO cannot be pinned (check_vma_flags() in mm/gup.c). "Run" are those that
// tests/guest/adaptors_test.cpp maps and tries O_DIRECT on.
constexpr std::string_view always_system = "it is in system memory, whoever attaches";
constexpr std::string_view in_system = "nothing: it is system memory";

constexpr auto table = std::to_array<exporter_rules>({
    // exporter/: pages of a BAR that has some, and system memory, can be pinned, pages of other
    // BARs cannot: ask control::query(). dmabridge_dma_buf_ops has no .vmap. Run.
    {"dmabridge", "", "memory of a dmabridge region", yes, unknown, no, yes, yes,
     memory_kind::either, yes, yes, unknown, unknown, yes,
     "its region tells: dmabridge info, dmabridge explain REGION", ""},
    // drivers/dma-buf/udmabuf.c: vmf_insert_pfn(); the memfd's pages are pinned while it lives.
    // Run.
    {"udmabuf", "", "pages of a memfd", yes, no, yes, no, no, memory_kind::system, no, no, no, yes,
     yes, always_system, in_system},
    // drivers/dma-buf/heaps/system_heap.c: remap_pfn_range(); pages of the buffer's own. Run.
    {"system", "", "a dma-heap's system memory", yes, no, yes, no, no, memory_kind::system, no, no,
     no, yes, yes, always_system, in_system},
    // drivers/dma-buf/heaps/cma_heap.c: VM_IO | VM_PFNMAP; contiguous pages of the buffer's own.
    {"default_cma_region", "", "a dma-heap's contiguous system memory", yes, no, yes, no, no,
     memory_kind::system, no, no, no, yes, yes, always_system, in_system},

    // drivers/gpu/drm/drm_prime.c: every driver's, all through its own functions.
    {"drm", "", "memory of a DRM driver", unknown, unknown, unknown, unknown, unknown,
     memory_kind::unknown},
    // These use drm_gem_shmem_helper.c: VM_PFNMAP; pages are pinned while anybody is attached. vgem
    // and bochs run.
    {"drm", "vgem", "memory of vgem", yes, no, yes, no, no, memory_kind::system, no, no, no, yes,
     yes, always_system, in_system},
    {"drm", "bochs-drm", "memory of bochs-drm", yes, no, yes, no, no, memory_kind::system, no, no,
     no, yes, yes, always_system, in_system},
    {"drm", "cirrus-qemu", "memory of cirrus-qemu", yes, no, yes, no, no, memory_kind::system, no,
     no, no, yes, yes, always_system, in_system},
    // The rest are TTM's: ttm_bo_mmap_obj() sets VM_PFNMAP | VM_IO. What happens to importers when
    // the device goes was not read.
    // qxl_ttm.c: in the guest's RAM or in a BAR of QEMU's; whether it moves was not read. No
    // importer gets addresses: qxl_gem_prime_get_sg_table().
    {"drm", "qxl", "memory of qxl", yes, no, yes, unknown, unknown, memory_kind::either, no, no, no,
     no, unknown, "its driver gives importers nothing (ENOSYS)", ""},
    // amdgpu_dma_buf.c: no mapping of userptr or NO_CPU_ACCESS memory (EPERM,
    // amdgpu_gem_object_mmap()); moves it to system memory for importers that cannot do P2P. It has
    // a pin operation, which is why bindings leave it alone.
    {"drm", "amdgpu", "memory of amdgpu", unknown, no, yes, yes, unknown, memory_kind::either, yes,
     yes, yes, yes, no,
     "amdgpu gives importers the GPU's memory if the kernel knows a path; if it knows none, while "
     "the GPU sleeps, and if any other importer of the buffer cannot do P2P, it moves the buffer "
     "to system memory for all, and tells nobody",
     "a kernel whose io_uring takes dma-bufs (Linux 7.3 does not) and Large BAR; or AMD's hipFile "
     "with AMD's own driver, outside of dmabridge"},
    // xe_dma_buf.c: as amdgpu, but refuses where the buffer may not be in system memory
    // (xe_bo_can_migrate()); xe_gem_object_funcs has no .vmap.
    {"drm", "xe", "memory of xe", yes, no, no, yes, unknown, memory_kind::either, yes, yes, yes,
     unknown, no,
     "xe gives importers the GPU's memory if the kernel knows a path; if it knows none, and if any "
     "other importer of the buffer cannot do P2P, it moves the buffer to system memory for all, "
     "and tells nobody, or refuses (EOPNOTSUPP) if the buffer may not be there",
     "a kernel whose io_uring takes dma-bufs (Linux 7.3 does not), and a resized BAR"},
    // nouveau_prime.c: nouveau_gem_prime_pin() moves it to GART for whoever attaches; a vmap before
    // that may be of the GPU's memory.
    {"drm", "nouveau", "memory of nouveau", yes, no, yes, yes, unknown, memory_kind::either, no, no,
     no, yes, unknown, "nouveau moves the buffer to system memory for whoever attaches, always",
     "nothing, as it stands: nouveau lets no importer reach the GPU's memory"},

    // drivers/gpu/drm/virtio/virtgpu_prime.c: dumb buffers are shmem, can be mapped and were run;
    // host blobs only with VIRTGPU_BLOB_FLAG_USE_MAPPABLE (virtio_gpu_vram_mmap()), by
    // io_remap_pfn_range(), and they have no .vmap.
    {"virtio_gpu", "", "memory of virtio_gpu", unknown, no, unknown, no, unknown,
     memory_kind::either},
    // drivers/gpu/drm/i915/gem/i915_gem_dmabuf.c: with local memory by PFN, without by the shmem
    // file, whose pages can be pinned; vmap needs memory that the CPU reaches; an attach moves the
    // buffer to system memory.
    {"i915", "", "memory of i915", unknown, unknown, unknown, yes, unknown, memory_kind::either, no,
     no, no, yes, unknown, "i915 moves the buffer to system memory for whoever attaches, always",
     "nothing: i915 lets no importer reach a GPU's memory"},
    // nvidia-open's nv-dmabuf.c, not in Linux: mmap is refused by releases before 565 and needs a
    // mappable BAR1 since; where it is allowed, it is by PFN. It does not ask the kernel for a path
    // (newer releases look at the topology by themselves), nor importers for a callback.
    {"nv_dmabuf", "", "memory of an NVIDIA GPU", unknown, no, no, no, unknown, memory_kind::device,
     yes, no, yes, no, no,
     "nvidia's open kernel modules (the closed ones export no dma-bufs) give importers addresses "
     "in "
     "the GPU's BAR1, do not ask the kernel for a path, and never move the memory",
     "a kernel whose io_uring takes dma-bufs (Linux 7.3 does not); or NVIDIA's cuFile, outside of "
     "dmabridge"},
    // drivers/vfio/pci/vfio_pci_dmabuf.c: no .mmap, no .vmap; reset, memory disable and the
    // device's last close revoke (vfio_pci_dma_buf_move(), vfio_pci_dma_buf_cleanup()). Run.
    {"vfio_pci_core", "", "a BAR lent by vfio-pci", no, no, no, no, yes, memory_kind::device, yes,
     yes, no, no, no,
     "vfio-pci gives importers the BAR if they do P2P and can be revoked and the kernel knows a "
     "path, and refuses all others",
     "a kernel whose io_uring takes dma-bufs (Linux 7.3 does not), if its importer can be revoked"},
    // drivers/infiniband/core/uverbs_std_types_dmabuf.c: the same, of a page of an RDMA device's;
    // pins are refused.
    {"ib_uverbs", "", "a BAR page of an RDMA device", no, no, no, no, yes, memory_kind::device, yes,
     yes, no, no, no,
     "it gives importers the page if they do P2P and do not pin and the kernel knows a path, and "
     "refuses all others",
     "a kernel whose io_uring takes dma-bufs (Linux 7.3 does not)"},
    // drivers/accel/habanalabs/common/memory.c: no .mmap, no .vmap, no pin operation; a map without
    // a path is refused (hl_map_dmabuf()).
    {"habanalabs", "", "memory of a Gaudi accelerator", no, no, no, no, unknown,
     memory_kind::device, yes, yes, yes, no, no,
     "habanalabs gives importers the accelerator's memory if the kernel knows a path, and refuses "
     "(EPERM) without one",
     "a kernel whose io_uring takes dma-bufs (Linux 7.3 does not); or the driver's own reads, on a "
     "kernel that is built for them"},
});

// Drivers of PCI functions that call themselves otherwise in fdinfo. Those that fdinfo calls "drm"
// are in the table.
struct driver_name {
  std::string_view driver;
  std::string_view exporter;
};

constexpr auto driver_names = std::to_array<driver_name>({
    {"habanalabs", "habanalabs"},
    {"i915", "i915"},
    {"nvidia", "nv_dmabuf"},
    {"vfio-pci", "vfio_pci_core"},
    {"virtio_gpu", "virtio_gpu"},
});

auto find(std::string_view exporter, std::string_view driver) -> const exporter_rules* {
  const auto* found = std::ranges::find_if(table, [&](const exporter_rules& rules) {
    return rules.exporter == exporter && rules.driver == driver;
  });
  return found != table.end() ? found : nullptr;
}

}  // namespace

auto to_string(answer word) -> std::string {
  switch (word) {
    case answer::unknown:
      return "unknown";
    case answer::no:
      return "no";
    case answer::yes:
      return "yes";
  }
  return fmt::format("unknown_answer_{}", static_cast<int>(word));
}

auto to_string(memory_kind kind) -> std::string {
  switch (kind) {
    case memory_kind::unknown:
      return "unknown";
    case memory_kind::system:
      return "system";
    case memory_kind::device:
      return "device";
    case memory_kind::either:
      return "either";
  }
  return fmt::format("unknown_memory_kind_{}", static_cast<int>(kind));
}

auto rules_of(std::string_view exporter, std::string_view drm_driver) -> exporter_rules {
  if (exporter.empty()) return {};
  if (const auto* exact = find(exporter, drm_driver)) return *exact;
  if (const auto* any = find(exporter, {})) return *any;
  return {};
}

auto rules_of(const buffer& memory) -> exporter_rules {
  return rules_of(memory.exporter());
}

auto rules_of_driver(std::string_view driver) -> exporter_rules {
  if (driver.empty()) return {};
  if (const auto* own = find("drm", driver)) return *own;
  const auto* named = std::ranges::find(driver_names, driver, &driver_name::driver);
  return named != driver_names.end() ? rules_of(named->exporter) : exporter_rules{};
}

auto known_exporters() noexcept -> std::span<const exporter_rules> {
  return table;
}

}  // namespace dmabridge

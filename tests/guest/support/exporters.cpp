// SPDX-License-Identifier: MIT
#include "exporters.hpp"

#include <dmabridge/any_memory.hpp>
#include <dmabridge/control.hpp>
#include <dmabridge/cuda_memory.hpp>
#include <dmabridge/dma_heap.hpp>
#include <dmabridge/drm_memory.hpp>
#include <dmabridge/hip_memory.hpp>
#include <dmabridge/level_zero_memory.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/udmabuf.hpp>
#include <dmabridge/vfio_memory.hpp>
#include <dmabridge/vulkan_memory.hpp>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <stdexcept>
#include <utility>

#include "accelerator.hpp"
#include "drm_card.hpp"
#include "fixture.hpp"
#include "lent_function.hpp"
#include "machine.hpp"
#include "named_device.hpp"
#include "pci_driver.hpp"
#include "vfio_device.hpp"

namespace dmabridge::test {
namespace {

std::string function_of(const std::string& name) {
  const auto place = find_device(name);
  if (!place) throw std::runtime_error(name + " is not plugged in");
  return std::filesystem::path(*place).filename();
}

exported_memory allocate_from(const region_info& region, std::uint64_t size) {
  return any_memory(dmabridge::allocate(region, size, policy::prefer));
}

// By one call of the library's.
class Called : public Exporter {
 public:
  using Make = std::function<exported_memory(std::uint64_t size)>;

  explicit Called(Make make) : make_(std::move(make)) {}
  exported_memory make(std::uint64_t size) const override { return make_(size); }

 private:
  Make make_;
};

// The region of a function that dmabridge_pci has.
class OfRegion : public Exporter {
 public:
  OfRegion(std::string function, std::string drive)
      : function_(std::move(function)), drive_(std::move(drive)) {}

  exported_memory make(std::uint64_t size) const override {
    return allocate_from(find_region(dmabridge::control().regions(), region_of(function_).name),
                         size);
  }
  std::string drive() const override { return drive_; }

 private:
  std::string function_;
  std::string drive_;
};

class WithoutPages : public OfRegion {
 public:
  WithoutPages() : OfRegion("vram0", "SAMESW"), address_(function_of("vram0")) {
    const PciParameter without("no_pages", address_);
    bind();
  }
  ~WithoutPages() override { bind(); }

 private:
  void bind() const { EXPECT_EQ(bind_function(address_, "dmabridge_pci"), 0); }

  std::string address_;
};

// The sample driver's.
class SystemRegion : public Exporter {
 public:
  SystemRegion() {
    set_accelerator_parameters({{"system_limit", std::to_string(64 * MiB)}});
    bind("dmabridge_accelerator");
  }
  ~SystemRegion() override {
    bind("dmabridge_pci");
    set_accelerator_parameters({});
  }

  exported_memory make(std::uint64_t size) const override {
    const auto all = dmabridge::control().regions();
    const auto found = std::ranges::find(all, region_kind::system, &region_info::kind);
    if (found == all.end()) throw std::runtime_error("the sample driver offers no system memory");
    return allocate_from(*found, size);
  }

 private:
  void bind(const std::string& driver) const { EXPECT_EQ(bind_function(address_, driver), 0); }

  std::string address_ = function_of("spare0");
};

class OfVfio : public Exporter {
 public:
  exported_memory make(std::uint64_t size) const override {
    return export_vfio(device_.get(), bar, start, size);
  }
  std::vector<std::byte> seen(const exported_memory&, std::uint64_t size) const override {
    return host_read("vram-spare0", start, size);
  }

 private:
  static constexpr std::uint32_t bar = 2;
  static constexpr std::uint64_t start = 64 * KiB;

  LentFunction function_{function_of("spare0")};
  VfioDevice device_{function_.address()};
};

// A GPU, which this machine need not have.
class OfGpu : public Called {
 public:
  OfGpu(std::string vendor, Make make) : Called(std::move(make)), vendor_(std::move(vendor)) {}

  std::string missing() const override {
    for (const auto& entry : std::filesystem::directory_iterator("/sys/bus/pci/devices")) {
      const auto kind = oracle::read_line(entry.path() / "class");
      const bool computes = kind.starts_with("0x03") || kind.starts_with("0x12");
      if (computes && oracle::read_line(entry.path() / "vendor") == vendor_) return {};
    }
    return "no such device";
  }

 private:
  std::string vendor_;  // of the function, as sysfs has it
};

std::unique_ptr<Exporter> called(Called::Make make) {
  return std::make_unique<Called>(std::move(make));
}

std::unique_ptr<Exporter> dumb(const std::string& driver, const std::string& module) {
  return called(
      [card = card_of(driver, module)](std::uint64_t size) { return allocate_dumb(card, size); });
}

constexpr const char *nvidia = "0x10de", *amd = "0x1002", *intel = "0x8086";

std::unique_ptr<Exporter> gpu(const char* vendor, Called::Make make) {
  return std::make_unique<OfGpu>(vendor, std::move(make));
}

std::unique_ptr<Exporter> drm_gpu(const char* vendor, const std::string& driver) {
  return gpu(vendor, [driver](std::uint64_t size) {
    return allocate_drm(card_of(driver, driver), size, drm_placement::device);
  });
}

struct Known {
  std::string id;
  std::function<std::unique_ptr<Exporter>()> make;
};

const std::vector<Known>& known() {
  static const std::vector<Known> all = {
      {"bar", [] { return std::make_unique<OfRegion>("vram0", "SAMESW"); }},
      {"bar_far", [] { return std::make_unique<OfRegion>("vram0", "DRIVE0"); }},
      {"bar_without_pages", [] { return std::make_unique<WithoutPages>(); }},
      {"stolen", [] { return std::make_unique<OfRegion>("apu0", "SAMESW"); }},
      {"system", [] { return std::make_unique<SystemRegion>(); }},
      {"udmabuf", [] { return called([](std::uint64_t size) { return allocate_udmabuf(size); }); }},
      {"dma_heap",
       [] { return called([](std::uint64_t size) { return allocate_dma_heap(size); }); }},
      {"vgem", [] { return dumb("vgem", "vgem"); }},
      {"bochs", [] { return dumb("bochs-drm", "bochs"); }},
      {"virtio_gpu", [] { return dumb("virtio_gpu", "virtio-gpu"); }},
      {"vfio", [] { return std::make_unique<OfVfio>(); }},
      {"vulkan",
       [] {
         return called(
             [](std::uint64_t size) { return export_from_vulkan(vulkan(), size).memory; });
       }},
      {"cuda",
       [] { return gpu(nvidia, [](std::uint64_t size) { return allocate_cuda_memory(size); }); }},
      {"hip",
       [] { return gpu(amd, [](std::uint64_t size) { return allocate_hip_memory(size); }); }},
      {"level_zero",
       [] {
         return gpu(intel, [](std::uint64_t size) { return allocate_level_zero_memory(size); });
       }},
      {"amdgpu", [] { return drm_gpu(amd, "amdgpu"); }},
      {"i915", [] { return drm_gpu(intel, "i915"); }},
      {"xe", [] { return drm_gpu(intel, "xe"); }},
  };
  return all;
}

}  // namespace

std::vector<std::byte> Exporter::seen(const exported_memory& memory, std::uint64_t size) const {
  const int dma_buf = memory.memory().descriptor();
  if (memory.memory().exporter() == "dmabridge" && placement(dma_buf) == DMABRIDGE_PLACEMENT_DEVICE)
    return host_bytes(dma_buf, memory.offset(), size);
  const Mapping mapping(dma_buf, memory.offset() + size);
  const std::byte* bytes = mapping.data() + memory.offset();
  return {bytes, bytes + size};
}

const std::vector<std::string>& exporter_ids() {
  static const std::vector<std::string> ids = [] {
    std::vector<std::string> all;
    for (const Known& each : known()) all.push_back(each.id);
    return all;
  }();
  return ids;
}

std::unique_ptr<Exporter> make_exporter(const std::string& id) {
  const auto found = std::ranges::find(known(), id, &Known::id);
  if (found == known().end()) throw std::runtime_error("there is no exporter " + id);
  return found->make();
}

const vulkan_device& vulkan() {
  static const vulkan_device device = vulkan_device::open();
  return device;
}

}  // namespace dmabridge::test

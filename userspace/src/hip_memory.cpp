// SPDX-License-Identifier: MIT
#include "dmabridge/hip_memory.hpp"

#include <fmt/format.h>

#include <array>
#include <memory>
#include <string>
#include <utility>

#include "dmabridge/error.hpp"
#include "hip_api.hpp"
#include "memory_range.hpp"

namespace dmabridge {

hip_memory::~hip_memory() = default;

namespace {

using namespace hip;

constexpr const char* exporting = "export memory of HIP as a dma-buf";
constexpr const char* allocating = "allocate memory of HIP";

using shared_api = std::shared_ptr<const hip_api>;

// Makes a GPU the calling thread's, until it goes; then the one before is it again.
class current_device {
 public:
  current_device(const hip_api& api, int device, const char* attempted) : api_(api) {
    api_.check(attempted, "hipGetDevice", api_.hipGetDevice(&previous_));
    api_.check(attempted, "hipSetDevice", api_.hipSetDevice(device));
  }
  current_device(const current_device&) = delete;
  auto operator=(const current_device&) -> current_device& = delete;
  ~current_device() { api_.hipSetDevice(previous_); }

 private:
  const hip_api& api_;
  int previous_ = 0;
};

class device_memory {
 public:
  device_memory(shared_api api, int device, std::uint64_t size) : api_(std::move(api)) {
    const current_device here(*api_, device, allocating);
    api_->check(allocating, "hipMalloc", api_->hipMalloc(&pointer_, size));
  }
  device_memory(const device_memory&) = delete;
  auto operator=(const device_memory&) -> device_memory& = delete;
  ~device_memory() { api_->hipFree(pointer_); }  // knows its GPU

  auto pointer() const noexcept -> void* { return pointer_; }

 private:
  shared_api api_;
  void* pointer_ = nullptr;
};

struct export_result {
  int descriptor = -1;
  std::uint64_t offset = 0;
  hip_mapping mapping = hip_mapping::pcie;
  std::string note{};  // why it is not the mapping for PCIe
};

class owner final : public hip_memory {
 public:
  owner(shared_api api, std::unique_ptr<device_memory> allocation, void* pointer,
        std::uint64_t size, int device, hip_mapping mapping, std::string name)
      : api_(std::move(api)),
        allocation_(std::move(allocation)),
        pointer_(pointer),
        size_(size),
        device_(device),
        mapping_(mapping),
        name_(std::move(name)) {}

  auto name() const -> std::string override { return name_; }
  auto pointer() const noexcept -> void* override { return pointer_; }
  auto device() const noexcept -> int override { return device_; }
  auto mapping() const noexcept -> hip_mapping override { return mapping_; }

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    copy("copy into memory of HIP", offset, at(offset), from.data(), from.size(),
         hipMemcpyHostToDevice);
  }

  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    copy("copy from memory of HIP", offset, into.data(), at(offset), into.size(),
         hipMemcpyDeviceToHost);
  }

 private:
  auto at(std::uint64_t offset) const -> std::byte* {
    return static_cast<std::byte*>(pointer_) + offset;
  }

  // After all that the GPU was told to do, and until the bytes are there.
  void copy(const char* attempted, std::uint64_t offset, void* to, const void* from,
            std::size_t length, int kind) {
    check_copy(*this, size_, offset, length);
    const current_device here(*api_, device_, attempted);
    wait(attempted);
    api_->check(attempted, "hipMemcpy", api_->hipMemcpy(to, from, length, kind), error_kind::io);
    wait(attempted);
  }

  void wait(const char* attempted) {
    api_->check(attempted, "hipDeviceSynchronize", api_->hipDeviceSynchronize(), error_kind::io);
  }

  shared_api api_;
  std::unique_ptr<device_memory> allocation_;  // empty: it is the caller's
  void* pointer_;
  std::uint64_t size_;
  int device_;
  hip_mapping mapping_;
  std::string name_;
};

auto no_memory_to_export(const void* pointer, const std::string& what, std::string remedy)
    -> error {
  return error({.kind = error_kind::usage,
                .attempted = exporting,
                .detail = fmt::format("{} at address {}", what, fmt::ptr(pointer)),
                .remedies = {std::move(remedy)}});
}

// The ordinal of the GPU that has the memory.
auto locate(const hip_api& api, void* pointer) -> int {
  int device = 0;
  const auto known =
      api.hipPointerGetAttribute(&device, HIP_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer);
  if (known == hipErrorInvalidValue) {
    throw no_memory_to_export(pointer, "this process has no memory of HIP",
                              "pass an address from hipMalloc()");
  }
  api.check(exporting, "hipPointerGetAttribute(DEVICE_ORDINAL)", known);
  unsigned int managed = 0;
  api.check(exporting, "hipPointerGetAttribute(IS_MANAGED)",
            api.hipPointerGetAttribute(&managed, HIP_POINTER_ATTRIBUTE_IS_MANAGED, pointer));
  if (managed != 0) {
    throw no_memory_to_export(pointer, "there is managed memory, which moves between GPU and host,",
                              "use hipMalloc() for what is to be exported");
  }
  return device;
}

auto name_of(const hip_api& api, int device) -> std::string {
  std::array<char, 256> name{};
  api.check("use a GPU of HIP", "hipDeviceGetName",
            api.hipDeviceGetName(name.data(), static_cast<int>(name.size() - 1), device));
  return name.data();
}

auto remedies_of(hsa_status_t status) -> std::vector<std::string> {
  switch (status) {
    case HSA_STATUS_ERROR_INVALID_ALLOCATION:
      return {"name a range that is all in one allocation of hipMalloc()"};
    case HSA_STATUS_ERROR_INVALID_AGENT:
      return {"use memory of a GPU: that of the host is not exported"};
    case HSA_STATUS_ERROR_NOT_INITIALIZED:
      return {
          "let the program use one libhsa-runtime64.so.1 only, the one of its libamdhip64.so: "
          "grep hsa-runtime /proc/PID/maps"};
    default:
      return {"use a kernel whose amdgpu driver has AMDKFD_IOC_EXPORT_DMABUF (KFD interface 1.12)"};
  }
}

// HSA rather than HIP exports: hipMemGetHandleForAddressRange() does not tell the offset.
auto get_handle(const hip_api& api, const void* pointer, std::uint64_t size) -> export_result {
  export_result made;
  if (api.hsa_amd_portable_export_dmabuf_v2 != nullptr) {
    const auto by_pcie = api.hsa_amd_portable_export_dmabuf_v2(
        pointer, size, &made.descriptor, &made.offset, HSA_AMD_DMABUF_MAPPING_TYPE_PCIE);
    if (by_pcie == HSA_STATUS_SUCCESS) return made;
    made.note = fmt::format("not known to be in reach of PCIe: {}", api.hsa_text(by_pcie));
  } else {
    made.note = "not known to be in reach of PCIe: this ROCm cannot tell";
  }
  made.mapping = hip_mapping::driver_decides;
  const auto status =
      api.hsa_amd_portable_export_dmabuf(pointer, size, &made.descriptor, &made.offset);
  if (status == HSA_STATUS_SUCCESS) return made;
  throw error({.kind = error_kind::system,
               .attempted = fmt::format("{}: {} bytes at {}", exporting, size, fmt::ptr(pointer)),
               .detail = fmt::format("hsa_amd_portable_export_dmabuf: {}; {}", api.hsa_text(status),
                                     made.note),
               .remedies = remedies_of(status)});
}

auto make(const shared_api& api, std::unique_ptr<device_memory> allocation, void* pointer,
          std::uint64_t size, int device) -> exported_memory {
  const auto device_name = name_of(*api, device);
  const auto handle = get_handle(*api, pointer, size);
  // ROCm does not promise that its descriptor is close-on-exec; the duplicate is. To close it,
  // hsa_amd_portable_close_dmabuf() does no more than close().
  const fd theirs(handle.descriptor);
  auto memory = buffer::duplicate(theirs.get());
  // An allocation of ours has its last page for itself.
  const auto ours = allocation ? round_to_pages(size) : size;
  auto name = owner_name("hip", fmt::format("GPU {}, {}", device, device_name),
                         {handle.note, surroundings(memory, handle.offset, ours)});
  auto kept = std::make_unique<owner>(api, std::move(allocation), pointer, size, device,
                                      handle.mapping, std::move(name));
  return {std::move(memory), handle.offset, size, std::move(kept)};
}

}  // namespace

auto export_hip_memory(void* pointer, std::uint64_t size) -> exported_memory {
  check_address_range(exporting, reinterpret_cast<std::uintptr_t>(pointer), size);
  const auto api = std::make_shared<const hip_api>();
  const auto device = locate(*api, pointer);
  return make(api, {}, pointer, size, device);
}

auto allocate_hip_memory(std::uint64_t size, int device) -> exported_memory {
  check_new_size(allocating, size);
  const auto api = std::make_shared<const hip_api>();
  auto allocation = std::make_unique<device_memory>(api, device, round_to_pages(size));
  auto* const pointer = allocation->pointer();
  return make(api, std::move(allocation), pointer, size, device);
}

}  // namespace dmabridge

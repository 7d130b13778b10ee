// SPDX-License-Identifier: MIT
#include "dmabridge/cuda_memory.hpp"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "cuda_api.hpp"
#include "dmabridge/error.hpp"
#include "memory_range.hpp"
#include "page.hpp"
#include "sysfs.hpp"

namespace dmabridge {

cuda_memory::~cuda_memory() = default;

namespace {

using namespace cuda;

constexpr const char* exporting = "export memory of CUDA as a dma-buf";
constexpr const char* allocating = "allocate memory of CUDA";

using shared_api = std::shared_ptr<const cuda_api>;

// Makes a context the calling thread's, until it goes; then the one before is it again.
class current_context {
 public:
  current_context(const cuda_api& api, CUcontext context, const char* attempted) : api_(api) {
    api_.check(attempted, "cuCtxPushCurrent", api_.cuCtxPushCurrent_v2(context));
  }
  current_context(const current_context&) = delete;
  auto operator=(const current_context&) -> current_context& = delete;
  ~current_context() {
    CUcontext ours = nullptr;
    api_.cuCtxPopCurrent_v2(&ours);
  }

 private:
  const cuda_api& api_;
};

// A GPU's primary context, kept alive.
class primary_context {
 public:
  primary_context(shared_api api, CUdevice device) : api_(std::move(api)), device_(device) {
    api_->check("use a GPU's primary context", "cuDevicePrimaryCtxRetain",
                api_->cuDevicePrimaryCtxRetain(&context_, device_));
  }
  primary_context(const primary_context&) = delete;
  auto operator=(const primary_context&) -> primary_context& = delete;
  ~primary_context() { api_->cuDevicePrimaryCtxRelease_v2(device_); }

  auto get() const noexcept -> CUcontext { return context_; }

 private:
  shared_api api_;
  CUdevice device_;
  CUcontext context_ = nullptr;
};

struct gpu {
  int ordinal = 0;
  CUdevice device = 0;
  std::string name{};
};

auto find_gpu(const cuda_api& api, int ordinal) -> gpu {
  const auto attempted = fmt::format("use GPU {} of CUDA", ordinal);
  gpu found{.ordinal = ordinal};
  api.check(attempted.c_str(), "cuDeviceGet", api.cuDeviceGet(&found.device, ordinal));
  std::array<char, 256> name{};
  api.check(attempted.c_str(), "cuDeviceGetName",
            api.cuDeviceGetName(name.data(), static_cast<int>(name.size() - 1), found.device));
  found.name = name.data();
  return found;
}

// Freed in the context that it was allocated in.
class device_memory {
 public:
  device_memory(shared_api api, CUcontext context, std::uint64_t size)
      : api_(std::move(api)), context_(context) {
    const current_context here(*api_, context_, allocating);
    api_->check(allocating, "cuMemAlloc", api_->cuMemAlloc_v2(&pointer_, size));
  }
  device_memory(const device_memory&) = delete;
  auto operator=(const device_memory&) -> device_memory& = delete;
  ~device_memory() {
    try {
      const current_context here(*api_, context_, "free memory of CUDA");
      api_->cuMemFree_v2(pointer_);
    } catch (const error&) {
      // The context is broken, and its memory goes with it.
    }
  }

  auto pointer() const noexcept -> CUdeviceptr { return pointer_; }

 private:
  shared_api api_;
  CUcontext context_;
  CUdeviceptr pointer_ = 0;
};

// Where memory is, and the context to copy it in. `held` is empty where that is the memory's own,
// which lives as long as the memory; `allocation`, where the memory is the caller's.
struct home {
  gpu where;
  CUcontext context = nullptr;
  std::unique_ptr<primary_context> held{};
  std::unique_ptr<device_memory> allocation{};  // goes before the context
};

auto home_in_primary(const shared_api& api, int ordinal) -> home {
  home made{.where = find_gpu(*api, ordinal)};
  made.held = std::make_unique<primary_context>(api, made.where.device);
  made.context = made.held->get();
  return made;
}

struct export_result {
  int descriptor = -1;
  cuda_mapping mapping = cuda_mapping::pcie;
  std::string note{};  // why it is not the mapping for PCIe
};

class owner final : public cuda_memory {
 public:
  owner(shared_api api, home where, CUdeviceptr pointer, std::uint64_t size, cuda_mapping mapping,
        bool sync_memops, std::string name)
      : api_(std::move(api)),
        home_(std::move(where)),
        pointer_(pointer),
        size_(size),
        mapping_(mapping),
        sync_memops_(sync_memops),
        name_(std::move(name)) {}

  auto name() const -> std::string override { return name_; }
  auto pointer() const noexcept -> std::uint64_t override { return pointer_; }
  auto device() const noexcept -> int override { return home_.where.ordinal; }
  auto mapping() const noexcept -> cuda_mapping override { return mapping_; }
  auto sync_memops() const noexcept -> bool override { return sync_memops_; }

  void copy_in(std::uint64_t offset, std::span<const std::byte> from) override {
    constexpr const char* attempted = "copy into memory of CUDA";
    check_copy(*this, size_, offset, from.size());
    const current_context here(*api_, home_.context, attempted);
    wait(attempted);
    api_->check(attempted, "cuMemcpyHtoD",
                api_->cuMemcpyHtoD_v2(pointer_ + offset, from.data(), from.size()), error_kind::io);
    wait(attempted);  // the call may return when the bytes are on their way
  }

  void copy_out(std::uint64_t offset, std::span<std::byte> into) override {
    constexpr const char* attempted = "copy from memory of CUDA";
    check_copy(*this, size_, offset, into.size());
    const current_context here(*api_, home_.context, attempted);
    wait(attempted);
    api_->check(attempted, "cuMemcpyDtoH",
                api_->cuMemcpyDtoH_v2(into.data(), pointer_ + offset, into.size()), error_kind::io);
  }

 private:
  // For all that the context was told to do.
  void wait(const char* attempted) {
    api_->check(attempted, "cuCtxSynchronize", api_->cuCtxSynchronize(), error_kind::io);
  }

  shared_api api_;
  home home_;
  CUdeviceptr pointer_;
  std::uint64_t size_;
  cuda_mapping mapping_;
  bool sync_memops_;
  std::string name_;
};

// What the kernel module says that it is; empty if it is not to be read.
auto kernel_module() -> std::string {
  const auto version = read_file("/proc/driver/nvidia/version");
  if (!version) return {};
  const auto line = version.text->substr(0, version.text->find('\n'));
  const auto open = line.find("Open Kernel Module") != std::string::npos;
  return fmt::format("; its kernel module is the {} one: {}", open ? "open" : "closed", line);
}

auto export_remedies() -> std::vector<std::string> {
  return {
      "use NVIDIA's open kernel modules, on a GPU of Turing or newer: the closed ones export "
      "no dma-bufs",
      "use a driver of CUDA 11.7 or newer (515), and a kernel of 5.12 or newer"};
}

void check_exports(const cuda_api& api, const gpu& where) {
  int supported = 0;
  api.check(
      exporting, "cuDeviceGetAttribute(DMA_BUF_SUPPORTED)",
      api.cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED, where.device));
  if (supported != 0) return;
  throw error({.kind = error_kind::system,
               .attempted = exporting,
               .code = EOPNOTSUPP,
               .detail = fmt::format("the driver says that GPU {} ({}) exports no dma-bufs "
                                     "(CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED is 0){}",
                                     where.ordinal, where.name, kernel_module()),
               .remedies = export_remedies()});
}

auto no_memory_to_export(CUdeviceptr pointer, const std::string& what, std::string remedy)
    -> error {
  return error({.kind = error_kind::usage,
                .attempted = exporting,
                .detail = fmt::format("{} at address {:#x}", what, pointer),
                .remedies = {std::move(remedy)}});
}

template <typename Value>
void get_attribute(const cuda_api& api, Value& value, int attribute, const char* call,
                   CUdeviceptr pointer) {
  api.check(exporting, call, api.cuPointerGetAttribute(&value, attribute, pointer));
}

void check_kind(const cuda_api& api, CUdeviceptr pointer) {
  unsigned int kind = 0;
  const auto known = api.cuPointerGetAttribute(&kind, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer);
  if (known == CUDA_ERROR_INVALID_VALUE) {
    throw no_memory_to_export(pointer, "this process has no memory of CUDA",
                              "pass an address from cuMemAlloc() or cudaMalloc()");
  }
  api.check(exporting, "cuPointerGetAttribute(MEMORY_TYPE)", known);
  unsigned int managed = 0;
  get_attribute(api, managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, "cuPointerGetAttribute(IS_MANAGED)",
                pointer);
  if (managed != 0) {
    throw no_memory_to_export(pointer, "there is managed memory, which moves between GPU and host,",
                              "use cuMemAlloc() or cudaMalloc() for what is to be exported");
  }
  if (kind != CU_MEMORYTYPE_DEVICE) {
    throw no_memory_to_export(pointer, "there is host memory of CUDA",
                              "use memory of a udmabuf, which CUDA can register with "
                              "cuMemHostRegister(), for what is to be in the host");
  }
}

auto locate(const shared_api& api, CUdeviceptr pointer) -> home {
  check_kind(*api, pointer);
  int ordinal = 0;
  get_attribute(*api, ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                "cuPointerGetAttribute(DEVICE_ORDINAL)", pointer);
  CUcontext context = nullptr;
  const auto owned = api->cuPointerGetAttribute(&context, CU_POINTER_ATTRIBUTE_CONTEXT, pointer);
  // Memory of cuMemCreate() and of pools is in no context.
  if (owned != CUDA_SUCCESS || context == nullptr) return home_in_primary(api, ordinal);
  return {.where = find_gpu(*api, ordinal), .context = context};
}

// What a platform or a driver says that lacks the flag: those before CUDA 12.8 know none.
auto refuses_flag(CUresult result) -> bool {
  return result == CUDA_ERROR_NOT_SUPPORTED || result == CUDA_ERROR_INVALID_VALUE;
}

auto get_handle(const cuda_api& api, CUdeviceptr first, std::uint64_t size) -> export_result {
  constexpr const char* call = "cuMemGetHandleForAddressRange";
  export_result made;
  const auto by_pcie = api.cuMemGetHandleForAddressRange(
      &made.descriptor, first, size, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD,
      CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE);
  if (by_pcie == CUDA_SUCCESS) return made;
  if (!refuses_flag(by_pcie)) throw api.failure(exporting, call, by_pcie);
  made.mapping = cuda_mapping::driver_decides;
  made.note = fmt::format("not mapped for PCIe: {}", api.text(by_pcie));
  const auto by_driver = api.cuMemGetHandleForAddressRange(&made.descriptor, first, size,
                                                           CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0);
  if (by_driver == CUDA_SUCCESS) return made;
  auto remedies = export_remedies();
  remedies.insert(remedies.begin(),
                  "let the range be mapped all over, in memory of one GPU and one kind; from "
                  "cuMemCreate(), with allocFlags.gpuDirectRDMACapable set");
  throw error({.kind = error_kind::system,
               .attempted = fmt::format("{} of {} bytes at {:#x}", exporting, size, first),
               .detail = fmt::format("{}: {}; and with the mapping for PCIe: {}{}", call,
                                     api.text(by_driver), api.text(by_pcie), kernel_module()),
               .remedies = std::move(remedies)});
}

// Whether the driver took it.
auto set_sync_memops(const cuda_api& api, CUdeviceptr pointer) -> bool {
  const unsigned int yes = 1;
  const auto set = api.cuPointerSetAttribute(&yes, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, pointer);
  if (set == CUDA_ERROR_NOT_SUPPORTED) return false;
  api.check(exporting, "cuPointerSetAttribute(SYNC_MEMOPS)", set);
  return true;
}

auto make(const shared_api& api, home where, CUdeviceptr pointer, std::uint64_t size)
    -> exported_memory {
  const auto offset = pointer % page_size();
  const current_context here(*api, where.context, exporting);
  const auto sync_memops = set_sync_memops(*api, pointer);
  const auto handle = get_handle(*api, pointer - offset, round_to_pages(offset + size));
  // CUDA does not promise that its descriptor is close-on-exec; the duplicate is.
  const fd theirs(handle.descriptor);
  auto memory = buffer::duplicate(theirs.get());
  // An allocation of ours has its last page for itself.
  const auto ours = where.allocation ? round_to_pages(size) : size;
  auto name = owner_name(
      "cuda", fmt::format("GPU {}, {}", where.where.ordinal, where.where.name),
      {handle.note, sync_memops ? "" : "without SYNC_MEMOPS", surroundings(memory, offset, ours)});
  auto kept = std::make_unique<owner>(api, std::move(where), pointer, size, handle.mapping,
                                      sync_memops, std::move(name));
  return {std::move(memory), offset, size, std::move(kept)};
}

}  // namespace

auto export_cuda_memory(std::uint64_t pointer, std::uint64_t size) -> exported_memory {
  check_address_range(exporting, pointer, size);
  const auto api = std::make_shared<const cuda_api>();
  auto where = locate(api, pointer);
  check_exports(*api, where.where);
  return make(api, std::move(where), pointer, size);
}

auto export_cuda_memory(const void* pointer, std::uint64_t size) -> exported_memory {
  return export_cuda_memory(reinterpret_cast<std::uintptr_t>(pointer), size);
}

auto allocate_cuda_memory(std::uint64_t size, int device) -> exported_memory {
  check_new_size(allocating, size);
  const auto api = std::make_shared<const cuda_api>();
  auto where = home_in_primary(api, device);
  check_exports(*api, where.where);
  // CUDA aligns to less than a page; with one more there is room to begin at one.
  where.allocation =
      std::make_unique<device_memory>(api, where.context, round_to_pages(size) + page_size());
  const auto first = round_to_pages(where.allocation->pointer());
  return make(api, std::move(where), first, size);
}

}  // namespace dmabridge

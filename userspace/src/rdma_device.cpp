// SPDX-License-Identifier: MIT
#include "rdma_device.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdint>

#include "dmabridge/error.hpp"
#include "system_calls.hpp"
#include "uverbs.hpp"
#include "verbs.hpp"

namespace dmabridge {
namespace {

// By which ibv_query_device() tells the software devices (drivers/infiniband/sw: rxe/rxe_param.h,
// siw/siw.h).
constexpr std::uint32_t rxe_vendor = 0xffffff;
constexpr std::uint32_t siw_vendor = 0x626d74;

// What a link names; empty if there is none.
auto read_link(const std::string& link) -> std::string {
  std::string target;
  return sys().read_link(link.c_str(), target) < 0 ? std::string() : target;
}

// The PCI function that it is, or is a part of: a subfunction of mlx5 is no function itself, and
// has its DMA done by one. Nothing: none.
auto function_of(const ibv_device& listed) -> std::optional<pci_address> {
  auto path = read_link(listed.ibdev_path);
  while (!path.empty()) {
    const auto slash = path.rfind('/');
    const auto name = slash == std::string::npos ? path : path.substr(slash + 1);
    const auto address = pci_address::parse(name);
    // In full: a name may look like a shorter form by chance.
    if (address && to_string(*address) == name) return address;
    path.resize(slash == std::string::npos ? 0 : slash);
  }
  return {};
}

// -1 is no dma-buf, and so nothing is registered. Who has no dma-buf MRs says so before it looks at
// that: the provider library if it lacks the call, the kernel if the driver does.
auto ask_for_dmabuf_mr(ibv_pd* domain) -> int {
  int error = 0;
  auto* const region = verbs().reg_dmabuf_mr(domain, 0, 1, 0, -1, IBV_ACCESS_LOCAL_WRITE, error);
  if (region != nullptr) verbs().dereg_mr(region);
  return error == EBADF ? 0 : error;
}

// A library without the call says EOPNOTSUPP, and so does the driver, through a library that has it.
auto gap_of(const ibv_pd& domain, int error) -> dmabuf_mr_gap {
  if (error != EOPNOTSUPP) return dmabuf_mr_gap::unknown;
  switch (ask_driver_for_dmabuf_mr(domain)) {
    case driver_answer::has:
      return dmabuf_mr_gap::provider_library;
    case driver_answer::lacks:
      return dmabuf_mr_gap::driver;
    case driver_answer::unknown:
      break;
  }
  return dmabuf_mr_gap::unknown;
}

auto reason_code(dmabuf_mr_gap gap) -> std::uint32_t {
  switch (gap) {
    case dmabuf_mr_gap::driver:
      return DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR;
    case dmabuf_mr_gap::provider_library:
      return DMABRIDGE_REASON_PROVIDER_NO_DMABUF_MR;
    case dmabuf_mr_gap::unknown:
      break;
  }
  return DMABRIDGE_REASON_NO_DMABUF_MR;
}

}  // namespace

auto rdma_device::why_no_dmabuf_mr() const -> std::vector<reason> {
  std::vector<reason> why;
  if (has_dmabuf_mr()) return why;
  why.push_back({.code = reason_code(gap),
                 .blocks_p2p = true,
                 .device = function,
                 .value = static_cast<std::uint64_t>(dmabuf_error),
                 .name = name});
  if (by_cpu) {
    why.push_back({.code = DMABRIDGE_REASON_BY_CPU, .blocks_p2p = true, .name = driver});
  }
  return why;
}

auto identify(ibv_pd* domain) -> rdma_device {
  const auto& listed = *domain->context->device;
  rdma_device device{.name = listed.name};
  std::uint32_t vendor = 0;
  if (const auto code = verbs().query_vendor(domain->context, vendor); code != 0) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("ask RDMA device {} what it is", device.name),
                 .code = code});
  }
  device.by_cpu = vendor == rxe_vendor || vendor == siw_vendor;
  device.ignores_iova = vendor == siw_vendor;
  if (device.by_cpu) {
    // Whatever its network device hangs on, that one does not touch the memory.
    device.driver = vendor == rxe_vendor ? "rdma_rxe" : "siw";
  } else {
    device.function = function_of(listed);
    if (device.function) {
      const auto driver =
          read_link("/sys/bus/pci/devices/" + to_string(*device.function) + "/driver");
      device.driver = driver.substr(driver.rfind('/') + 1);
    }
  }
  device.dmabuf_error = ask_for_dmabuf_mr(domain);
  device.gap = gap_of(*domain, device.dmabuf_error);
  return device;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "uverbs.hpp"

#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/rdma_user_ioctl_cmds.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "system_calls.hpp"

namespace dmabridge {
namespace {

// A command has to name the driver (enum rdma_driver_id), and libibverbs keeps that to itself. One
// for another driver ends with EINVAL before anything else of it is looked at
// (drivers/infiniband/core/uverbs_ioctl.c), so each is tried. Linux 7.3 has 22 of them.
constexpr std::uint32_t driver_ids = 64;

// Small values lie in the attribute itself.
auto attribute(std::uint16_t id, std::uint16_t length, std::uint64_t data) -> ib_uverbs_attr {
  ib_uverbs_attr made{};
  made.attr_id = id;
  made.len = length;
  made.flags = UVERBS_ATTR_F_MANDATORY;
  made.data = data;
  return made;
}

// A negative errno: nothing is registered.
auto try_driver(const ibv_pd& domain, std::uint32_t driver) noexcept -> int {
  std::uint32_t lkey = 0;
  std::uint32_t rkey = 0;
  const auto at = [](const std::uint32_t& key) { return reinterpret_cast<std::uintptr_t>(&key); };
  constexpr std::uint16_t u64 = sizeof(std::uint64_t);
  constexpr std::uint16_t u32 = sizeof(std::uint32_t);
  const auto attributes = std::to_array<ib_uverbs_attr>({
      attribute(UVERBS_ATTR_REG_DMABUF_MR_HANDLE, 0, 0),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_PD_HANDLE, 0, domain.handle),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_OFFSET, u64, 0),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_LENGTH, u64, 1),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_IOVA, u64, 0),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_FD, u32, static_cast<std::uint32_t>(-1)),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_ACCESS_FLAGS, u32, IB_UVERBS_ACCESS_LOCAL_WRITE),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_RESP_LKEY, u32, at(lkey)),
      attribute(UVERBS_ATTR_REG_DMABUF_MR_RESP_RKEY, u32, at(rkey)),
  });
  alignas(ib_uverbs_ioctl_hdr)
      std::array<std::byte, sizeof(ib_uverbs_ioctl_hdr) + sizeof(attributes)>
          command{};
  ib_uverbs_ioctl_hdr header{};
  header.length = command.size();
  header.object_id = UVERBS_OBJECT_MR;
  header.method_id = UVERBS_METHOD_REG_DMABUF_MR;
  header.num_attrs = attributes.size();
  header.driver_id = driver;
  std::memcpy(command.data(), &header, sizeof(header));
  std::memcpy(command.data() + sizeof(header), attributes.data(), sizeof(attributes));
  return sys().ioctl(domain.context->cmd_fd, RDMA_VERBS_IOCTL, command.data());
}

}  // namespace

auto ask_driver_for_dmabuf_mr(const ibv_pd& domain) noexcept -> driver_answer {
  for (std::uint32_t driver = 0; driver < driver_ids; ++driver) {
    switch (try_driver(domain, driver)) {
      case -EINVAL:
        break;
      case -EBADF:
        return driver_answer::has;
      case -EOPNOTSUPP:
      case -EPROTONOSUPPORT:  // before Linux 5.12
        return driver_answer::lacks;
      default:
        return driver_answer::unknown;
    }
  }
  return driver_answer::unknown;
}

}  // namespace dmabridge

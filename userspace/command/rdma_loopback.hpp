// SPDX-License-Identifier: MIT
// An RDMA device that this process has opened, and a reliable connection of it with itself: one
// process plays both peers.
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace dmabridge::command {

template <auto Close>
struct verbs_closer {
  void operator()(auto* object) const { Close(object); }
};

// A device with a protection domain, and the port of it that is up.
class open_rdma_device {
 public:
  // The device of that name; without one the only device there is. Throws dmabridge::error, of kind
  // usage with the names of all devices if it is not clear which is meant.
  explicit open_rdma_device(std::string_view name);

  auto name() const -> std::string { return ibv_get_device_name(context_->device); }
  auto context() const noexcept -> ibv_context* { return context_.get(); }
  auto domain() const noexcept -> ibv_pd* { return domain_.get(); }
  // How packets get from the port to itself.
  auto way_to_itself() const noexcept -> const ibv_ah_attr& { return way_; }
  auto mtu() const noexcept -> ibv_mtu { return mtu_; }
  // RDMA reads and atomics that a queue pair may have under way, at most 16.
  auto reads_at_once() const noexcept -> std::uint8_t { return reads_at_once_; }

 private:
  void find_port();

  std::unique_ptr<ibv_context, verbs_closer<ibv_close_device>> context_;
  std::unique_ptr<ibv_pd, verbs_closer<ibv_dealloc_pd>> domain_;
  ibv_ah_attr way_{};
  ibv_mtu mtu_ = IBV_MTU_256;
  std::uint8_t reads_at_once_ = 1;
};

// RC, both ends in this process. After a work request that failed it is of no more use.
class rdma_loopback {
 public:
  // Work requests that may be posted and not yet completed.
  static constexpr std::uint32_t depth = 16;

  // `device` has to outlive it. Throws dmabridge::error.
  explicit rdma_loopback(const open_rdma_device& device);

  // The peer at this end does what `request` says; every one gives a completion. Throws
  // dmabridge::error.
  void post(ibv_send_wr& request);
  // A completion that is there; nothing is waited for. False: there is none. Throws
  // dmabridge::error.
  auto poll(ibv_wc& completion) -> bool;

 private:
  using queue_pair = std::unique_ptr<ibv_qp, verbs_closer<ibv_destroy_qp>>;

  static auto make_end(const open_rdma_device& device, ibv_cq* completions) -> queue_pair;
  static void connect(const open_rdma_device& device, ibv_qp& from, const ibv_qp& to);

  std::unique_ptr<ibv_cq, verbs_closer<ibv_destroy_cq>> completions_;
  std::array<queue_pair, 2> ends_;
};

}  // namespace dmabridge::command

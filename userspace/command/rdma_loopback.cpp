// SPDX-License-Identifier: MIT
#include "rdma_loopback.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "dmabridge/error.hpp"

namespace dmabridge::command {
namespace {

constexpr std::uint8_t most_reads_at_once = 16;
constexpr int everything = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

[[noreturn]] void fail(int code, std::string attempted) {
  throw error({.kind = error_kind::system, .attempted = std::move(attempted), .code = code});
}

// `result`: as verbs that give an errno do.
void check(int result, const char* attempted) {
  if (result != 0) fail(result, attempted);
}

struct device_list {
  device_list() : all(ibv_get_device_list(&count)) {
    if (all == nullptr) fail(errno, "list the RDMA devices");
  }
  device_list(const device_list&) = delete;
  auto operator=(const device_list&) -> device_list& = delete;
  ~device_list() { ibv_free_device_list(all); }

  auto devices() const -> std::span<ibv_device* const> {
    return {all, static_cast<std::size_t>(count)};
  }

  int count = 0;
  ibv_device** all;
};

auto names_of(std::span<ibv_device* const> devices) -> std::vector<std::string> {
  std::vector<std::string> names;
  for (auto* const device : devices) names.emplace_back(ibv_get_device_name(device));
  return names;
}

[[noreturn]] void ambiguous(std::string_view name, std::span<ibv_device* const> devices) {
  if (devices.empty()) {
    throw error(
        {.kind = error_kind::usage,
         .attempted = "open an RDMA device",
         .detail = "this machine has none",
         .remedies = {"load the driver of the RDMA device; or make one in software, as root: "
                      "modprobe rdma_rxe; rdma link add rxe0 type rxe netdev INTERFACE"}});
  }
  throw error({.kind = error_kind::usage,
               .attempted = "open an RDMA device",
               .detail = name.empty() ? "there are several" : fmt::format("there is no {}", name),
               .remedies = {fmt::format("choose by --device one of: {}",
                                        fmt::join(names_of(devices), ", "))}});
}

auto choose(std::string_view name, std::span<ibv_device* const> devices) -> ibv_device* {
  if (name.empty() && devices.size() == 1) return devices.front();
  for (auto* const device : devices) {
    if (name == ibv_get_device_name(device)) return device;
  }
  ambiguous(name, devices);
}

auto is_ipv4(const ibv_gid& gid) -> bool {
  constexpr std::array<std::uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::ranges::equal(mapped, std::span(gid.raw).first(mapped.size()));
}

// Over Ethernet by an address by IPv4 if it has one, as a route by a link-local one may lead
// nowhere; over InfiniBand by its LID.
auto way_to_itself(ibv_context* context, std::uint8_t number, const ibv_port_attr& port)
    -> std::optional<ibv_ah_attr> {
  ibv_ah_attr way{};
  way.port_num = number;
  if (port.link_layer != IBV_LINK_LAYER_ETHERNET) {
    way.dlid = port.lid;
    return way;
  }
  way.is_global = 1;
  way.grh.hop_limit = 1;
  bool found = false;
  for (int index = 0; index < port.gid_tbl_len; ++index) {
    ibv_gid gid{};
    if (ibv_query_gid(context, number, index, &gid) != 0 || gid.global.interface_id == 0) continue;
    if (found && !is_ipv4(gid)) continue;
    way.grh.dgid = gid;
    way.grh.sgid_index = static_cast<std::uint8_t>(index);
    found = true;
    if (is_ipv4(gid)) break;
  }
  if (!found) return {};
  return way;
}

}  // namespace

open_rdma_device::open_rdma_device(std::string_view name) {
  const device_list list;
  auto* const device = choose(name, list.devices());
  context_.reset(ibv_open_device(device));
  if (!context_) {
    const auto code = errno;
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("open RDMA device {}", ibv_get_device_name(device)),
                 .code = code,
                 .remedies = {"see who may open /dev/infiniband/uverbs*"}});
  }
  domain_.reset(ibv_alloc_pd(context_.get()));
  if (!domain_) fail(errno, "make a protection domain on RDMA device " + this->name());
  find_port();
}

void open_rdma_device::find_port() {
  ibv_device_attr device{};
  check(ibv_query_device(context_.get(), &device), "ask an RDMA device for its limits");
  reads_at_once_ = static_cast<std::uint8_t>(std::clamp<int>(
      std::min(device.max_qp_rd_atom, device.max_qp_init_rd_atom), 1, most_reads_at_once));
  for (std::uint8_t number = 1; number <= device.phys_port_cnt; ++number) {
    ibv_port_attr port{};
    check(ibv_query_port(context_.get(), number, &port), "ask an RDMA device about its port");
    if (port.state != IBV_PORT_ACTIVE) continue;
    if (const auto way = dmabridge::command::way_to_itself(context_.get(), number, port)) {
      way_ = *way;
      mtu_ = port.active_mtu;
      return;
    }
  }
  throw error({.kind = error_kind::system,
               .attempted = "connect RDMA device " + name() + " with itself",
               .detail = "no port of it is up and has an address",
               .remedies = {"set its link up and give its network interface an address; "
                            "ibv_devinfo -v shows both"}});
}

rdma_loopback::rdma_loopback(const open_rdma_device& device)
    : completions_(ibv_create_cq(device.context(), depth, nullptr, nullptr, 0)) {
  if (!completions_) fail(errno, "make a completion queue");
  for (auto& end : ends_) end = make_end(device, completions_.get());
  connect(device, *ends_[0], *ends_[1]);
  connect(device, *ends_[1], *ends_[0]);
}

auto rdma_loopback::make_end(const open_rdma_device& device, ibv_cq* completions) -> queue_pair {
  ibv_qp_init_attr attributes{};
  attributes.send_cq = attributes.recv_cq = completions;
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap = {.max_send_wr = depth,
                    .max_recv_wr = 1,
                    .max_send_sge = 1,
                    .max_recv_sge = 1,
                    .max_inline_data = 0};
  attributes.sq_sig_all = 1;
  queue_pair end(ibv_create_qp(device.domain(), &attributes));
  if (!end) fail(errno, "make a queue pair");
  return end;
}

// The steps are those of ibv_modify_qp(3) for RC.
void rdma_loopback::connect(const open_rdma_device& device, ibv_qp& from, const ibv_qp& to) {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = device.way_to_itself().port_num;
  attributes.qp_access_flags = everything;
  check(ibv_modify_qp(&from, &attributes,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
        "bring a queue pair to INIT");
  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = device.mtu();
  attributes.dest_qp_num = to.qp_num;
  attributes.max_dest_rd_atomic = device.reads_at_once();
  attributes.min_rnr_timer = 12;
  attributes.ah_attr = device.way_to_itself();
  check(ibv_modify_qp(&from, &attributes,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
        "bring a queue pair to RTR");
  attributes.qp_state = IBV_QPS_RTS;
  attributes.timeout = 18;
  attributes.retry_cnt = 7;
  attributes.rnr_retry = 7;
  attributes.max_rd_atomic = device.reads_at_once();
  check(ibv_modify_qp(&from, &attributes,
                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
        "bring a queue pair to RTS");
}

void rdma_loopback::post(ibv_send_wr& request) {
  ibv_send_wr* bad = nullptr;
  check(ibv_post_send(ends_[0].get(), &request, &bad), "post a work request");
}

auto rdma_loopback::poll(ibv_wc& completion) -> bool {
  const auto got = ibv_poll_cq(completions_.get(), 1, &completion);
  if (got < 0) fail(EIO, "poll for completions");
  return got > 0;
}

}  // namespace dmabridge::command

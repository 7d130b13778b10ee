// SPDX-License-Identifier: MIT
#include "soft_rdma.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "fixture.hpp"
#include "patience.hpp"

namespace dmabridge::test {
namespace {

constexpr int everything = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                           IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

void run(const std::string& command) {
  const Output output = shell(command);
  if (output.status != 0) throw std::runtime_error(command + ": " + output.text);
}

void check(int error, const char* what) {
  if (error != 0) throw std::runtime_error(fmt::format("{}: {}", what, std::strerror(error)));
}

void connect(const OpenRdma& device, ibv_qp* from, const ibv_qp* to) {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = 1;
  attributes.qp_access_flags = everything;
  check(ibv_modify_qp(from, &attributes,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
        "queue pair to INIT");
  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = IBV_MTU_1024;
  attributes.dest_qp_num = to->qp_num;
  attributes.max_dest_rd_atomic = 16;
  attributes.min_rnr_timer = 12;
  attributes.ah_attr.is_global = 1;
  attributes.ah_attr.port_num = 1;
  attributes.ah_attr.grh.dgid = device.gid();
  attributes.ah_attr.grh.sgid_index = device.gid_index();
  attributes.ah_attr.grh.hop_limit = 1;
  check(ibv_modify_qp(from, &attributes,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
        "queue pair to RTR");
  attributes.qp_state = IBV_QPS_RTS;
  attributes.timeout = 18;
  attributes.retry_cnt = 7;
  attributes.rnr_retry = 7;
  attributes.max_rd_atomic = 16;
  check(ibv_modify_qp(from, &attributes,
                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
        "queue pair to RTS");
}

}  // namespace

SoftRdma::SoftRdma(const std::string& name) : name_(name), netdev_("n" + name) {
  static int networks = 0;
  run("modprobe -a rdma_rxe ib_uverbs dummy");
  run(
      fmt::format("ip link add {0} type dummy && ip address add 10.77.{1}.1/24 dev {0} && "
                  "ip link set {0} up",
                  netdev_, ++networks));
  run(fmt::format("rdma link add {} type rxe netdev {}", name_, netdev_));
  there_ = true;
}

SoftRdma::~SoftRdma() {
  if (there_) shell("rdma link delete " + name_);
  shell("ip link delete " + netdev_);
}

void SoftRdma::remove() {
  run("rdma link delete " + name_);
  there_ = false;
}

OpenRdma::OpenRdma(const std::string& name) {
  int count = 0;
  ibv_device** const list = ibv_get_device_list(&count);
  for (int i = 0; i < count; i++) {
    if (name == ibv_get_device_name(list[i])) context_.reset(ibv_open_device(list[i]));
  }
  ibv_free_device_list(list);
  if (!context_) throw std::runtime_error("cannot open RDMA device " + name);
  domain_.reset(ibv_alloc_pd(context_.get()));
  if (!domain_) throw std::runtime_error("no protection domain on " + name);
  // It comes some time after the network device's address.
  if (!eventually([&] { return find_gid(); }))
    throw std::runtime_error(name + " has no address by IPv4");
}

bool OpenRdma::find_gid() {
  constexpr std::array<std::uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  for (int index = 0; index < 16; index++) {
    if (ibv_query_gid(context_.get(), 1, index, &gid_) != 0) break;
    gid_index_ = static_cast<std::uint8_t>(index);
    if (std::ranges::equal(mapped, std::span(gid_.raw).first(mapped.size()))) return true;
  }
  return false;
}

PlainMemory::PlainMemory(const OpenRdma& device, std::size_t size)
    : bytes_(size), region_(ibv_reg_mr(device.domain(), bytes_.data(), size, everything)) {
  if (region_ == nullptr) check(errno, "register ordinary memory");
}

PlainMemory::~PlainMemory() {
  ibv_dereg_mr(region_);
}

Loopback::Loopback(const OpenRdma& device)
    : completions_(ibv_create_cq(device.context(), 16, nullptr, nullptr, 0)) {
  if (completions_ == nullptr) check(errno, "completion queue");
  for (ibv_qp*& end : ends_) {
    ibv_qp_init_attr attributes{};
    attributes.send_cq = attributes.recv_cq = completions_;
    attributes.qp_type = IBV_QPT_RC;
    attributes.cap = {16, 16, 1, 1, 0};
    end = ibv_create_qp(device.domain(), &attributes);
    if (end == nullptr) check(errno, "queue pair");
  }
  connect(device, ends_[0], ends_[1]);
  connect(device, ends_[1], ends_[0]);
}

Loopback::~Loopback() {
  for (ibv_qp* end : ends_) ibv_destroy_qp(end);
  ibv_destroy_cq(completions_);
}

ibv_wc_status Loopback::run(ibv_send_wr& request) {
  request.send_flags = IBV_SEND_SIGNALED;
  ibv_send_wr* bad = nullptr;
  check(ibv_post_send(ends_[0], &request, &bad), "post a work request");
  ibv_wc completion{};
  int got = 0;
  if (!eventually([&] { return (got = ibv_poll_cq(completions_, 1, &completion)) != 0; },
                  std::chrono::seconds(60)) ||
      got < 0)
    throw std::runtime_error("a work request does not complete");
  return completion.status;
}

ibv_wc_status Loopback::move(ibv_wr_opcode way, PlainMemory& here, std::uint64_t length,
                             std::uint64_t address, std::uint32_t rkey) {
  ibv_sge piece{here.address(), static_cast<std::uint32_t>(length), here.lkey()};
  ibv_send_wr request{};
  request.opcode = way;
  request.sg_list = &piece;
  request.num_sge = 1;
  request.wr.rdma = {address, rkey};
  return run(request);
}

ibv_wc_status Loopback::read(PlainMemory& into, std::uint64_t length, std::uint64_t address,
                             std::uint32_t rkey) {
  return move(IBV_WR_RDMA_READ, into, length, address, rkey);
}

ibv_wc_status Loopback::write(PlainMemory& from, std::uint64_t length, std::uint64_t address,
                              std::uint32_t rkey) {
  return move(IBV_WR_RDMA_WRITE, from, length, address, rkey);
}

ibv_wc_status Loopback::fetch_add(PlainMemory& into, std::uint64_t address, std::uint32_t rkey,
                                  std::uint64_t add) {
  ibv_sge piece{into.address(), 8, into.lkey()};
  ibv_send_wr request{};
  request.opcode = IBV_WR_ATOMIC_FETCH_AND_ADD;
  request.sg_list = &piece;
  request.num_sge = 1;
  request.wr.atomic = {address, add, 0, rkey};
  return run(request);
}

}  // namespace dmabridge::test

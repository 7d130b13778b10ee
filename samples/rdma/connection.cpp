// SPDX-License-Identifier: MIT
#include "connection.hpp"

#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace sample {
namespace {

[[noreturn]] void fail(int code, const char* what) {
  throw std::system_error(code, std::generic_category(), what);
}

void check(int code, const char* what) {
  if (code != 0) fail(code, what);
}

auto is_ipv4(const ibv_gid& gid) -> bool {
  constexpr std::array<std::uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  return std::ranges::equal(mapped, std::span(gid.raw).first(mapped.size()));
}

auto to_text(const ibv_gid& gid) -> std::string {
  std::string text;
  for (const auto byte : gid.raw) text += fmt::format("{:02x}", byte);
  return text;
}

auto to_gid(const std::string& text) -> ibv_gid {
  ibv_gid gid{};
  if (text.size() != 2 * sizeof(gid.raw)) throw std::runtime_error("the peer's address is none");
  for (std::size_t i = 0; i < sizeof(gid.raw); ++i) {
    gid.raw[i] = static_cast<std::uint8_t>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
  }
  return gid;
}

auto piece_of(std::span<const std::byte> bytes, std::uint32_t lkey) -> ibv_sge {
  return {.addr = reinterpret_cast<std::uintptr_t>(bytes.data()),
          .length = static_cast<std::uint32_t>(bytes.size()),
          .lkey = lkey};
}

}  // namespace

device::device(const std::string& name) {
  int count = 0;
  auto** const list = ibv_get_device_list(&count);
  for (int i = 0; i < count; ++i) {
    if (name == ibv_get_device_name(list[i])) context_.reset(ibv_open_device(list[i]));
  }
  if (list != nullptr) ibv_free_device_list(list);
  if (!context_) throw std::runtime_error("cannot open RDMA device " + name + " (see ibv_devices)");
  domain_.reset(ibv_alloc_pd(context_.get()));
  if (!domain_) fail(errno, "protection domain");
  ibv_port_attr port{};
  check(ibv_query_port(context_.get(), 1, &port), "port 1");
  for (int index = 0; index < port.gid_tbl_len; ++index) {
    if (ibv_query_gid(context_.get(), 1, index, &gid_) != 0 || !is_ipv4(gid_)) continue;
    gid_index_ = static_cast<std::uint8_t>(index);
    return;
  }
  throw std::runtime_error(name + " has no address by IPv4");
}

auto line_socket::connect(const std::string& host, const std::string& port) -> line_socket {
  addrinfo wanted{};
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const auto code = ::getaddrinfo(host.c_str(), port.c_str(), &wanted, &found); code != 0) {
    throw std::runtime_error(host + ": " + ::gai_strerror(code));
  }
  const std::unique_ptr<addrinfo, closer<::freeaddrinfo>> list(found);
  line_socket made(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (made.descriptor_ < 0 || ::connect(made.descriptor_, found->ai_addr, found->ai_addrlen) != 0) {
    fail(errno, "connect to the server");
  }
  return made;
}

line_socket::line_socket(line_socket&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

line_socket::~line_socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void line_socket::send(const std::string& line) {
  const auto text = line + "\n";
  if (::send(descriptor_, text.data(), text.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(text.size())) {
    fail(errno, "send to the peer");
  }
}

auto line_socket::receive() -> std::string {
  std::string line;
  for (;;) {
    char next = 0;
    const auto got = ::recv(descriptor_, &next, 1, 0);
    if (got < 0) fail(errno, "receive from the peer");
    if (got == 0) fail(ECONNRESET, "the peer is gone");
    if (next == '\n') return line;
    line += next;
  }
}

auto line_socket::is_closed() const -> bool {
  pollfd waited{.fd = descriptor_, .events = POLLRDHUP, .revents = 0};
  return ::poll(&waited, 1, 0) > 0 && (waited.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

connection::connection(const device& on, line_socket& peer)
    : on_(on), peer_(peer), completions_(ibv_create_cq(on.context(), 16, nullptr, nullptr, 0)) {
  if (!completions_) fail(errno, "completion queue");
  ibv_qp_init_attr attributes{};
  attributes.send_cq = attributes.recv_cq = completions_.get();
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap = {.max_send_wr = 4,
                    .max_recv_wr = 1,
                    .max_send_sge = 1,
                    .max_recv_sge = 1,
                    .max_inline_data = 0};
  end_.reset(ibv_create_qp(on.domain(), &attributes));
  if (!end_) fail(errno, "queue pair");
}

void connection::establish() {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = 1;
  attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  check(ibv_modify_qp(end_.get(), &attributes,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
        "queue pair to INIT");
  // Before the peer can send anything.
  ibv_recv_wr notice{};
  ibv_recv_wr* bad = nullptr;
  check(ibv_post_recv(end_.get(), &notice, &bad), "post a receive");

  peer_.send(fmt::format("{} {}", end_->qp_num, to_text(on_.gid())));
  std::istringstream told(peer_.receive());
  std::string gid;
  told >> attributes.dest_qp_num >> gid;

  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = IBV_MTU_1024;
  attributes.max_dest_rd_atomic = 1;
  attributes.min_rnr_timer = 12;
  attributes.ah_attr.is_global = 1;
  attributes.ah_attr.port_num = 1;
  attributes.ah_attr.grh.dgid = to_gid(gid);
  attributes.ah_attr.grh.sgid_index = on_.gid_index();
  attributes.ah_attr.grh.hop_limit = 64;
  check(ibv_modify_qp(end_.get(), &attributes,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
        "queue pair to RTR");
  attributes.qp_state = IBV_QPS_RTS;
  attributes.timeout = 18;
  attributes.retry_cnt = 7;
  attributes.rnr_retry = 7;
  attributes.max_rd_atomic = 1;
  check(ibv_modify_qp(end_.get(), &attributes,
                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC),
        "queue pair to RTS");
  // So that neither end begins before the other one can answer.
  peer_.send("ready");
  if (peer_.receive() != "ready") throw std::runtime_error("the peer is not ready");
}

void connection::post(ibv_send_wr& request) {
  request.send_flags = IBV_SEND_SIGNALED;
  ibv_send_wr* bad = nullptr;
  check(ibv_post_send(end_.get(), &request, &bad), "post a work request");
}

void connection::complete(const char* what) {
  ibv_wc completion{};
  for (;;) {
    const auto got = ibv_poll_cq(completions_.get(), 1, &completion);
    if (got < 0) throw std::runtime_error("cannot poll for completions");
    if (got > 0) break;
    if (peer_.is_closed()) fail(ECONNRESET, "the peer is gone");
    ::usleep(100);
  }
  if (completion.status != IBV_WC_SUCCESS) {
    throw std::runtime_error(fmt::format("{}: {}", what, ibv_wc_status_str(completion.status)));
  }
}

void connection::move(ibv_wr_opcode way, ibv_sge here, remote_memory there) {
  ibv_send_wr request{};
  request.opcode = way;
  request.sg_list = &here;
  request.num_sge = 1;
  request.wr.rdma = {.remote_addr = there.address, .rkey = there.key};
  post(request);
}

void connection::read(std::span<std::byte> into, std::uint32_t lkey, remote_memory from) {
  move(IBV_WR_RDMA_READ, piece_of(into, lkey), from);
  complete("RDMA read");
}

void connection::write(std::span<const std::byte> from, std::uint32_t lkey, remote_memory to) {
  move(IBV_WR_RDMA_WRITE, piece_of(from, lkey), to);
  complete("RDMA write");
}

void connection::notify() {
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND;
  post(request);
  complete("send");
}

void connection::wait_for_notice() {
  complete("receive");
}

auto checksum(std::span<const std::byte> bytes) -> std::uint64_t {
  std::uint64_t sum = 0xcbf29ce484222325U;  // FNV-1a
  for (const auto byte : bytes) sum = (sum ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
  return sum;
}

}  // namespace sample

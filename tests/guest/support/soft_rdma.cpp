// SPDX-License-Identifier: MIT
#include "soft_rdma.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <stdexcept>

#include "dmabridge/error.hpp"
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

// Its address comes some time after the network device's.
bool is_usable(const std::string& name) {
  try {
    const OpenRdma device(name);
    return true;
  } catch (const error&) {
    return false;
  }
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
  if (!eventually([&] { return is_usable(name); }))
    throw std::runtime_error(name + " does not come up");
}

SoftRdma::~SoftRdma() {
  if (there_) shell("rdma link delete " + name_);
  shell("ip link delete " + netdev_);
}

void SoftRdma::remove() {
  run("rdma link delete " + name_);
  there_ = false;
}

PlainMemory::PlainMemory(const OpenRdma& device, std::size_t size)
    : bytes_(size), region_(ibv_reg_mr(device.domain(), bytes_.data(), size, everything)) {
  if (region_ == nullptr) check(errno, "register ordinary memory");
}

PlainMemory::~PlainMemory() {
  ibv_dereg_mr(region_);
}

ibv_wc_status Loopback::run(ibv_send_wr& request) {
  connection_.post(request);
  ibv_wc completion{};
  if (!eventually([&] { return connection_.poll(completion); }, std::chrono::seconds(60)))
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

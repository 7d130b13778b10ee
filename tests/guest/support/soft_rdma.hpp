// SPDX-License-Identifier: MIT
//
// An RDMA device in software (rxe), and what a program does with it.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "rdma_loopback.hpp"

namespace dmabridge::test {

// Over a network device of its own, which leads nowhere but to itself.
class SoftRdma {
 public:
  // Waits until it can be used. Throws std::runtime_error.
  explicit SoftRdma(const std::string& name);
  ~SoftRdma();
  SoftRdma(const SoftRdma&) = delete;
  SoftRdma& operator=(const SoftRdma&) = delete;

  const std::string& name() const { return name_; }
  // Waits until no process has it open.
  void remove();

 private:
  std::string name_;
  std::string netdev_;
  bool there_ = false;
};

using OpenRdma = command::open_rdma_device;

// Ordinary memory that peers may do anything with.
class PlainMemory {
 public:
  PlainMemory(const OpenRdma& device, std::size_t size);
  ~PlainMemory();
  PlainMemory(const PlainMemory&) = delete;
  PlainMemory& operator=(const PlainMemory&) = delete;

  std::span<std::byte> bytes() { return bytes_; }
  std::uint64_t address() const { return reinterpret_cast<std::uintptr_t>(bytes_.data()); }
  std::uint32_t lkey() const { return region_->lkey; }

 private:
  std::vector<std::byte> bytes_;
  ibv_mr* region_;
};

// After an operation that failed it is of no more use.
class Loopback {
 public:
  explicit Loopback(const OpenRdma& device) : connection_(device) {}

  // What a peer with that memory does to `address`. Give what the completion says.
  ibv_wc_status read(PlainMemory& into, std::uint64_t length, std::uint64_t address,
                     std::uint32_t rkey);
  ibv_wc_status write(PlainMemory& from, std::uint64_t length, std::uint64_t address,
                      std::uint32_t rkey);
  ibv_wc_status fetch_add(PlainMemory& into, std::uint64_t address, std::uint32_t rkey,
                          std::uint64_t add);

 private:
  ibv_wc_status move(ibv_wr_opcode way, PlainMemory& here, std::uint64_t length,
                     std::uint64_t address, std::uint32_t rkey);
  ibv_wc_status run(ibv_send_wr& request);

  command::rdma_loopback connection_;
};

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
//
// An RDMA device in software (rxe), and what a program does with it: a protection domain, ordinary
// memory, and two queue pairs that are connected with each other.
#pragma once

#include <infiniband/verbs.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dmabridge::test {

// Over a network device of its own, which leads nowhere but to itself.
class SoftRdma {
 public:
  // Throws std::runtime_error.
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

// An RDMA device that this process has opened. Throws std::runtime_error.
class OpenRdma {
 public:
  explicit OpenRdma(const std::string& name);

  ibv_context* context() const { return context_.get(); }
  ibv_pd* domain() const { return domain_.get(); }
  // The port's address by IPv4, and its index.
  ibv_gid gid() const { return gid_; }
  std::uint8_t gid_index() const { return gid_index_; }

 private:
  bool find_gid();

  template <auto Close>
  struct Closer {
    void operator()(auto* object) const { Close(object); }
  };
  std::unique_ptr<ibv_context, Closer<ibv_close_device>> context_;
  std::unique_ptr<ibv_pd, Closer<ibv_dealloc_pd>> domain_;
  ibv_gid gid_{};
  std::uint8_t gid_index_ = 0;
};

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

// RC, both ends in this process. After an operation that failed it is of no more use.
class Loopback {
 public:
  explicit Loopback(const OpenRdma& device);
  ~Loopback();
  Loopback(const Loopback&) = delete;
  Loopback& operator=(const Loopback&) = delete;

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

  ibv_cq* completions_;
  ibv_qp* ends_[2];
};

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// A buffer, or a part of one, as a memory region (MR) of an RDMA device.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>

#include "dmabridge/api.hpp"
#include "dmabridge/registration.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge {

// An MR and all that keeps it true. Move-only; made by rdma_importer. The destructor deregisters,
// and ignores errors. The buffer's memory stays until the MR is gone, whoever closes what before.
//
// One that was moved from, or is deregistered, can only be destroyed and assigned to. In a forked
// child it is no MR: its device belongs to the parent, and so the child deregisters nothing.
class DMABRIDGE_API memory_region {
 public:
  struct state;  // the library's own

  memory_region(memory_region&& other) noexcept;
  auto operator=(memory_region&& other) noexcept -> memory_region&;
  ~memory_region();

  // Whether there is an MR.
  explicit operator bool() const noexcept { return state_ != nullptr; }

  auto lkey() const noexcept -> std::uint32_t;
  auto rkey() const noexcept -> std::uint32_t;
  // Of the first byte, for work requests here and at peers.
  auto address() const noexcept -> std::uint64_t;
  auto length() const noexcept -> std::uint64_t;
  // Stays this object's.
  auto native() const noexcept -> ibv_mr*;

  auto method() const noexcept -> registration_method;
  // Confirmed by the kernel if the buffer is one of ours; else predicted.
  auto verdict() const noexcept -> const dmabridge::verdict&;
  // The buffer's when it was registered; 0 if it is not one of ours.
  auto generation() const noexcept -> std::uint64_t;
  // Whether the buffer has neither moved nor been revoked since; always so if it is not one of
  // ours, about which nothing is told. One system call. Throws dmabridge::error.
  auto current() const -> bool;

  // Throws dmabridge::error if the device does not let go of it; it is then as before.
  void deregister();

 private:
  friend class rdma_importer;
  explicit memory_region(std::unique_ptr<state> all) noexcept;

  std::unique_ptr<state> state_;
};

}  // namespace dmabridge

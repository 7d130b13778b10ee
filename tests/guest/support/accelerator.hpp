// SPDX-License-Identifier: MIT
//
// The sample driver (samples/accelerator) as tests use it: its node, its parameters and its knobs.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "fd.hpp"

namespace dmabridge::test {

// Loads the sample driver, and sets its parameters: those not named are as they are by default.
void set_accelerator_parameters(const std::map<std::string, std::string>& parameters);

// The files in debugfs of a function that is bound to the sample driver.
class Knobs {
 public:
  explicit Knobs(const std::string& address)
      : dir_("/sys/kernel/debug/accelerator-" + address + "/") {}

  // 0 or -errno.
  int set(const std::string& knob, std::uint64_t value) const;
  std::uint64_t get(const std::string& knob) const;
  // "suspend", "resume" or "lose": 0 or -errno.
  int control(const std::string& command) const;

 private:
  std::string dir_;
};

// The driver's node. Handles are of this object, and go with it.
class Accelerator {
 public:
  // Throws std::system_error.
  explicit Accelerator(const std::string& address);

  int fd() const { return fd_.get(); }
  // 0 or -errno; *handle is filled in.
  int create(std::uint64_t size, std::uint32_t policy, std::uint32_t memory,
             std::uint32_t* handle) const;
  int destroy(std::uint32_t handle) const;
  int evict(std::uint32_t handle) const;
  int fill(std::uint32_t handle, std::uint64_t offset, std::uint64_t length,
           std::uint64_t value) const;
  // The sum goes to the buffer, at this offset.
  int checksum(std::uint32_t handle, std::uint64_t offset, std::uint64_t length,
               std::uint64_t to) const;
  // The dma-buf. Throws std::system_error.
  Fd dma_buf(std::uint32_t handle) const;

  struct Entry {
    std::uint32_t placement;
    std::uint64_t offset;
    std::uint64_t updates;
  };
  // What the driver's page table says. Throws std::system_error.
  Entry look_up(std::uint32_t handle, std::uint64_t page) const;

 private:
  Fd fd_;
};

}  // namespace dmabridge::test

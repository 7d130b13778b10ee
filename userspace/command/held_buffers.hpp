// SPDX-License-Identifier: MIT
// The buffers of dmabridge that processes of this machine have open.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace dmabridge::command {

// A descriptor of a buffer.
struct holder {
  pid_t pid = 0;
  std::string command{};
  int descriptor = -1;
};
// As buffer::from_spec() takes it.
auto spec_of(const holder& who) -> std::string;

struct held_buffer {
  std::uint64_t inode = 0;  // one per buffer
  std::uint64_t size = 0;
  std::string name{};             // DMA_BUF_SET_NAME
  std::vector<holder> holders{};  // ascending by process
};

struct census {
  std::vector<held_buffer> buffers{};  // ascending by inode
  unsigned hidden = 0;                 // processes whose descriptors this one may not see
};

// `proc`: where procfs is mounted. Buffers that only a mapping, a binding or a driver keeps have no
// descriptor, and are not seen. Processes that end meanwhile are passed over.
auto find_held_buffers(const std::string& proc) -> census;

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
//
// The kernel's ABI as tests call it: thin, without any library of the project between test and
// kernel.
#pragma once

#include <dmabridge.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fd.hpp"

namespace dmabridge::test {

// /dev/dmabridge, kept open from the first call on.
int control();
// Lets go of it, as it keeps the module from being unloaded.
void close_control();

// ioctl() that gives 0 or -errno.
int call(int fd, unsigned long request, void* argument);

// The regions that there are now.
std::vector<dmabridge_region_info> regions();
// Whether nothing is left of those that their driver has unregistered: then it can be bound again.
bool unregistered_are_gone();
// The first region. Throws std::runtime_error if there is none.
dmabridge_region_info first_region();
std::string region_node(const dmabridge_region_info& region);
// "0000:04:00.0", from the ABI's number.
std::string pci_address(std::uint64_t device);

// A new buffer. Throws std::system_error.
Fd allocate_in(const dmabridge_region_info& region, std::uint64_t size,
               std::uint32_t policy = DMABRIDGE_POLICY_PREFER);
// In the first region.
Fd allocate(std::uint64_t size, std::uint32_t policy = DMABRIDGE_POLICY_PREFER);

struct Query {
  dmabridge_query head;
  std::vector<dmabridge_chunk> chunks;
  std::vector<dmabridge_user> users;
};
// Throws std::system_error.
Query query(int buffer);
std::uint32_t placement(int buffer);

// 0 or -errno; *verdict is filled in either case.
int move(int buffer, std::uint32_t placement, dmabridge_verdict* verdict = nullptr);

struct Hold {
  int error;
  Fd fd;
  dmabridge_verdict verdict;
};
Hold hold(int buffer, std::uint32_t placement);

struct Watch {
  int error;
  Fd fd;
  std::uint64_t generation;
};
Watch watch(int buffer, int eventfd = -1);
// read(): the bytes it gave, or -errno.
int read_event(int watch, dmabridge_event* event);

struct Binding {
  int error;  // 0 or -errno
  Fd fd;
  dmabridge_verdict verdict;
};
Binding bind(int buffer, int target, std::uint32_t policy = DMABRIDGE_POLICY_REQUIRE,
             std::uint32_t flags = DMABRIDGE_BIND_READ);
// Throws std::system_error.
dmabridge_binding_info binding_info(int binding);

// What the kernel says in advance.
struct Answer {
  int error;  // 0 or -errno
  std::uint32_t placement;
  dmabridge_verdict verdict;
};
// Of the buffer behind an fd, or of one of 64 KiB that a region would make.
Answer ask_file(int buffer, int target, std::uint32_t policy = DMABRIDGE_POLICY_REQUIRE,
                std::uint32_t flags = DMABRIDGE_NEGOTIATE_READ);
Answer ask_file(const dmabridge_region_info& region, int target,
                std::uint32_t policy = DMABRIDGE_POLICY_REQUIRE,
                std::uint32_t flags = DMABRIDGE_NEGOTIATE_READ,
                std::uint32_t buffer_policy = DMABRIDGE_POLICY_PREFER);
Answer ask_function(int buffer, std::uint64_t device, std::uint32_t flags,
                    std::uint32_t policy = DMABRIDGE_POLICY_PREFER);
Answer ask_function(const dmabridge_region_info& region, std::uint64_t device, std::uint32_t flags,
                    std::uint32_t policy = DMABRIDGE_POLICY_PREFER,
                    std::uint32_t buffer_policy = DMABRIDGE_POLICY_PREFER);

const dmabridge_reason* find_reason(const dmabridge_verdict& verdict, std::uint32_t code);
// For messages: route, and every reason with its evidence.
std::string describe(const dmabridge_verdict& verdict);

}  // namespace dmabridge::test

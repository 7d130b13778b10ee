// SPDX-License-Identifier: MIT
#include "registration_check.hpp"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "page.hpp"

namespace dmabridge {
namespace {

// What the kernel takes for dma-buf MRs (drivers/infiniband/core/uverbs_std_types_mr.c); pinned
// mappings get no more, so that a request does not depend on the device.
constexpr int known_access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                             IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC |
                             IBV_ACCESS_RELAXED_ORDERING;
constexpr int remote_writes = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;

class checker {
 public:
  checker(const registration_request& wanted, const rdma_device& device)
      : wanted_(wanted), device_(device) {}

  void check_range(std::uint64_t buffer_size) const {
    if (wanted_.length == 0) reject("it is empty", "register one byte at least");
    if (wanted_.offset > buffer_size || wanted_.length > buffer_size - wanted_.offset) {
      reject(fmt::format("the buffer has {} bytes, and {} are asked for from byte {} on",
                         buffer_size, wanted_.length, wanted_.offset),
             "stay inside the buffer");
    }
    if (wanted_.length > std::numeric_limits<std::size_t>::max()) {
      reject("this processor cannot address so much", "register it in parts");
    }
  }

  void check_iova() const {
    if (!wanted_.iova) return;
    if (device_.ignores_iova) {
      reject(fmt::format("peers of a {} device name memory by the address of its mapping, whatever "
                         "iova says",
                         device_.driver),
             "leave iova out, and tell peers memory_region::address()");
    }
    if (wanted_.length - 1 > std::numeric_limits<std::uint64_t>::max() - *wanted_.iova) {
      reject(fmt::format("from iova {:#x} on it does not fit into 64 bits", *wanted_.iova),
             "choose a lower iova");
    }
    const auto page = page_size();
    const auto at = wanted_.offset % page;
    if (*wanted_.iova % page != at) {
      reject(fmt::format("iova {:#x} is byte {} of a page, offset {} is byte {} of one",
                         *wanted_.iova, *wanted_.iova % page, wanted_.offset, at),
             fmt::format("choose an iova that is byte {} of a page of {} bytes, or leave it out",
                         at, page));
    }
  }

  void check_access() const {
    if ((wanted_.access & IBV_ACCESS_ON_DEMAND) != 0) {
      reject(
          "on-demand paging registers without a look at the memory, and fails when a peer first "
          "touches it",
          "leave IBV_ACCESS_ON_DEMAND out");
    }
    if (const auto unknown = wanted_.access & ~known_access; unknown != 0) {
      reject(fmt::format("access flags {:#x} are not for buffers", unknown),
             "use no others than IBV_ACCESS_LOCAL_WRITE, REMOTE_WRITE, REMOTE_READ, REMOTE_ATOMIC "
             "and RELAXED_ORDERING");
    }
    if ((wanted_.access & remote_writes) != 0 && (wanted_.access & IBV_ACCESS_LOCAL_WRITE) == 0) {
      reject("what peers may write, the device itself has to be allowed to",
             "add IBV_ACCESS_LOCAL_WRITE");
    }
  }

 private:
  [[noreturn]] void reject(std::string detail, std::string remedy) const {
    throw error({.kind = error_kind::usage,
                 .attempted = describe(wanted_, device_),
                 .detail = std::move(detail),
                 .remedies = {std::move(remedy)}});
  }

  const registration_request& wanted_;
  const rdma_device& device_;
};

}  // namespace

auto describe(const registration_request& wanted, const rdma_device& device) -> std::string {
  return fmt::format("register {} at offset {} of the buffer with RDMA device {}",
                     format_size(wanted.length), wanted.offset, device.name);
}

void check(const registration_request& wanted, std::uint64_t buffer_size,
           const rdma_device& device) {
  const checker request(wanted, device);
  request.check_range(buffer_size);
  request.check_iova();
  request.check_access();
}

}  // namespace dmabridge

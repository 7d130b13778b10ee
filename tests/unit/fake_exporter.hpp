// SPDX-License-Identifier: MIT
// An exporter other than ours behind every dma-buf of a fake module.
#pragma once

#include <gmock/gmock.h>
#include <linux/dma-buf.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "mock_system_calls.hpp"

namespace dmabridge::test {

constexpr int fdinfo_fd = 104;

class fake_exporter {
 public:
  // Is called so in fdinfo, and lets its dma-bufs be mapped: to `bytes`, all of them.
  fake_exporter(fake_module& module, const std::string& name)
      : bytes(static_cast<std::size_t>(module.buffer_size)) {
    using testing::_;
    using testing::Return;
    using testing::StartsWith;
    auto& calls = module.calls;
    ON_CALL(calls, open(StartsWith("/proc/self/fdinfo/"), _, _)).WillByDefault([this](auto...) {
      told_ = false;
      return fdinfo_fd;
    });
    ON_CALL(calls, read(fdinfo_fd, _, _))
        .WillByDefault([this, name](int, void* to, std::size_t room) -> std::int64_t {
          if (std::exchange(told_, true)) return 0;
          const auto text = "size:\t1048576\nexp_name:\t" + name + "\n";
          const auto length = std::min(room, text.size());
          std::memcpy(to, text.data(), length);
          return static_cast<std::int64_t>(length);
        });
    ON_CALL(calls, mmap(_, _, buffer_fd, _)).WillByDefault([this](auto, auto, auto, void** at) {
      *at = bytes.data();
      return 0;
    });
    ON_CALL(calls, ioctl(buffer_fd, DMA_BUF_IOCTL_SYNC, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          syncs.push_back(static_cast<dma_buf_sync*>(argument)->flags);
          return 0;
        });
  }

  std::vector<std::byte> bytes;
  std::vector<std::uint64_t> syncs;  // flags of DMA_BUF_IOCTL_SYNC

 private:
  bool told_ = false;
};

}  // namespace dmabridge::test

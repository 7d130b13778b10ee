// SPDX-License-Identifier: MIT
// A provider library with a driver below it that do what a test tells them. No RDMA device is
// behind them: what passes here is only that libibverbs is called rightly, and its answers are
// understood.
#pragma once

#include <gmock/gmock.h>
#include <infiniband/verbs.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "verbs.hpp"

namespace dmabridge::test {

class mock_verbs : public verbs_calls {
 public:
  MOCK_METHOD(int, query_vendor, (ibv_context*, std::uint32_t&), (override));
  MOCK_METHOD(int, dereg_mr, (ibv_mr*), (override));
  MOCK_METHOD(ibv_mr*, reg_dmabuf_mr,
              (ibv_pd*, std::uint64_t, std::size_t, std::uint64_t, int, int, int&), (override));
  MOCK_METHOD(ibv_mr*, reg_mr, (ibv_pd*, void*, std::size_t, std::uint64_t, int, int&), (override));
};

constexpr int verbs_fd = 140;  // of the device, for the kernel
constexpr std::uint32_t nic_vendor = 0x02c9;
constexpr std::uint32_t rxe_vendor = 0xffffff;
constexpr std::uint32_t siw_vendor = 0x626d74;

// One device and a protection domain of it. Unless a test says otherwise everything works: dma-buf
// MRs if `dmabuf_error` is 0, others always.
class fake_provider {
 public:
  explicit fake_provider(std::uint32_t of_vendor = nic_vendor, int no_dmabuf = 0)
      : vendor(of_vendor), dmabuf_error(no_dmabuf) {
    using testing::_;
    std::snprintf(device.name, sizeof(device.name), "nic0");
    std::snprintf(device.ibdev_path, sizeof(device.ibdev_path), "/sys/class/infiniband/nic0");
    context.device = &device;
    context.cmd_fd = verbs_fd;
    domain.context = &context;
    ON_CALL(calls, query_vendor).WillByDefault([this](ibv_context*, std::uint32_t& found) {
      found = vendor;
      return 0;
    });
    ON_CALL(calls, reg_dmabuf_mr)
        .WillByDefault([this](ibv_pd*, std::uint64_t, std::size_t, std::uint64_t, int descriptor,
                              int, int& error) {
          error = dmabuf_error != 0 ? dmabuf_error : descriptor < 0 ? EBADF : 0;
          return error == 0 ? next() : nullptr;
        });
    ON_CALL(calls, reg_mr)
        .WillByDefault([this](ibv_pd*, void*, std::size_t, std::uint64_t, int, int& error) {
          error = 0;
          return next();
        });
    ON_CALL(calls, dereg_mr).WillByDefault([this](ibv_mr*) {
      ++deregistered;
      return 0;
    });
  }

  // An MR that nobody had before.
  auto next() -> ibv_mr* {
    const auto number = registered++;
    auto& made = regions.at(number % regions.size());
    made.lkey = 0x100 + static_cast<std::uint32_t>(number);
    made.rkey = 0x200 + static_cast<std::uint32_t>(number);
    return &made;
  }

  testing::NiceMock<mock_verbs> calls;
  verbs_override active{calls};
  std::uint32_t vendor;
  int dmabuf_error;  // of every dma-buf MR
  ibv_device device{};
  ibv_context context{};
  ibv_pd domain{};
  std::array<ibv_mr, 4096> regions{};
  std::atomic<std::size_t> registered = 0;
  std::atomic<std::size_t> deregistered = 0;
};

}  // namespace dmabridge::test

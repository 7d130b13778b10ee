// SPDX-License-Identifier: MIT
// A machine with one buffer of ours and one RDMA device.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rdma/rdma_user_ioctl_cmds.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "dmabridge/rdma_importer.hpp"
#include "fake_provider.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::test {

constexpr int hold_fd = 130;
constexpr int watch_fd = 131;
constexpr std::uint64_t nic_function = 0x000500;  // 0000:05:00.0
constexpr std::uint64_t MiB = std::uint64_t{1} << 20;
constexpr std::uint64_t GiB = std::uint64_t{1} << 30;

// The buffer is on its device and moves as a hold says. Its mapping begins at `mapped`, and is
// touched by nobody.
class rdma_fixture : public testing::Test {
 protected:
  explicit rdma_fixture(std::uint32_t vendor = nic_vendor, int no_dmabuf = 0)
      : provider_(vendor, no_dmabuf) {
    using testing::_;
    using testing::Return;
    using testing::StrEq;
    // Where a test expects one close, there are others too.
    EXPECT_CALL(module_.calls, close).Times(testing::AnyNumber());
    module_.add_region("vram0", 64 * GiB);
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          return query(*static_cast<dmabridge_query*>(argument));
        });
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_HOLD, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          return hold(*static_cast<dmabridge_hold*>(argument));
        });
    ON_CALL(module_.calls, ioctl(verbs_fd, RDMA_VERBS_IOCTL, _))
        .WillByDefault([this](int, unsigned long, void*) { return -driver_error_; });
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_WATCH, _))
        .WillByDefault([](int, unsigned long, void* argument) {
          auto& raw = *static_cast<dmabridge_watch*>(argument);
          raw.watch_fd = watch_fd;
          raw.generation = 7;
          return 0;
        });
    ON_CALL(module_.calls, poll(watch_fd, _, _, _)).WillByDefault(Return(0));
    ON_CALL(module_.calls, duplicate(buffer_fd)).WillByDefault(Return(buffer_fd));
    ON_CALL(module_.calls, mmap).WillByDefault([](std::size_t, int, int, void** result) {
      *result = mapped;
      return 0;
    });
    ON_CALL(module_.calls, read_link(StrEq("/sys/class/infiniband/nic0"), _))
        .WillByDefault([this](const char*, std::string& target) {
          target = place_;
          return 0;
        });
    ON_CALL(module_.calls, read_link(StrEq("/sys/bus/pci/devices/0000:05:00.0/driver"), _))
        .WillByDefault([this](const char*, std::string& target) {
          target = "../../../bus/pci/drivers/" + driver_;
          return 0;
        });
  }

  auto query(dmabridge_query& raw) -> int {
    if (query_error_ != 0) return -query_error_;
    std::snprintf(raw.region, sizeof(raw.region), "vram0");
    raw.region_id = module_.regions.front().id;
    raw.size = static_cast<std::uint64_t>(module_.buffer_size);
    raw.placement = placement_;
    raw.policy = static_cast<std::uint32_t>(policy_);
    raw.flags = revoked_ ? DMABRIDGE_BUFFER_REVOKED : 0;
    raw.last_refused = last_refused_;
    raw.nr_users = static_cast<std::uint32_t>(users_.size());
    if (!users_.empty()) {
      std::memcpy(reinterpret_cast<void*>(raw.users), users_.data(),
                  users_.size() * sizeof(dmabridge_user));
    }
    return 0;
  }

  auto hold(dmabridge_hold& raw) -> int {
    holds_.push_back(raw.placement);
    if (raw.placement == refused_hold_) {
      raw.verdict.nr_reasons = 1;
      raw.verdict.reasons[0].code = DMABRIDGE_REASON_HELD;
      return -EBUSY;
    }
    placement_ = raw.placement;
    raw.hold_fd = hold_fd;
    return 0;
  }

  // An attachment of that function, or of a device that is none, told that route.
  void attach(std::optional<std::uint64_t> function, std::uint32_t route,
              std::uint32_t kind = DMABRIDGE_USER_DYNAMIC) {
    dmabridge_user user{};
    user.kind = kind;
    if (function) user.flags = DMABRIDGE_USER_HAS_DEVICE;
    user.device = function.value_or(0);
    user.verdict.route = route;
    user.verdict.policy = DMABRIDGE_POLICY_PREFER;
    users_.push_back(user);
  }

  auto take() -> buffer { return buffer::from_fd(fd(buffer_fd)); }

  static auto has(const std::vector<reason>& reasons, std::uint32_t code) -> const reason* {
    for (const auto& why : reasons) {
      if (why.code == code) return &why;
    }
    return nullptr;
  }

  static inline void* const mapped = reinterpret_cast<void*>(std::uintptr_t{0x7000'0000'0000});

  fake_module module_;
  fake_provider provider_;
  std::string driver_ = "mlx5_core";
  std::string place_ = "../../devices/pci0000:00/0000:00:01.0/0000:05:00.0/infiniband/nic0";
  int driver_error_ = EOPNOTSUPP;  // what the kernel's driver says to an fd that is none
  int query_error_ = 0;
  bool revoked_ = false;
  policy policy_ = policy::prefer;
  std::uint32_t placement_ = DMABRIDGE_PLACEMENT_DEVICE;
  std::uint32_t refused_hold_ = DMABRIDGE_PLACEMENT_NONE;
  std::vector<std::uint32_t> holds_{};
  std::vector<dmabridge_user> users_{};
  dmabridge_user last_refused_{};
  const control control_{};
};

}  // namespace dmabridge::test

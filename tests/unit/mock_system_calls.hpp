// SPDX-License-Identifier: MIT
// A kernel that does what a test tells it.
#pragma once

#include <gmock/gmock.h>
#include <unistd.h>

#include <dmabridge/uapi.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "system_calls.hpp"

namespace dmabridge::test {

class mock_system_calls : public system_calls {
 public:
  // Unless a test says otherwise: closing and unlinking work, nothing else exists.
  mock_system_calls() {
    using testing::_;
    using testing::Return;
    ON_CALL(*this, open).WillByDefault(Return(-ENOENT));
    ON_CALL(*this, duplicate).WillByDefault(Return(-EBADF));
    ON_CALL(*this, ioctl).WillByDefault(Return(-ENOTTY));
    ON_CALL(*this, poll).WillByDefault(Return(-EBADF));
    ON_CALL(*this, read).WillByDefault(Return(-EBADF));
    ON_CALL(*this, pread).WillByDefault(Return(-EBADF));
    ON_CALL(*this, pwrite).WillByDefault(Return(-EBADF));
    ON_CALL(*this, seek).WillByDefault(Return(-ESPIPE));
    ON_CALL(*this, read_link).WillByDefault(Return(-ENOENT));
    ON_CALL(*this, access).WillByDefault(Return(-ENOENT));
    ON_CALL(*this, stat).WillByDefault(Return(-ENOENT));
    ON_CALL(*this, fstat).WillByDefault(Return(-EBADF));
    ON_CALL(*this, statx).WillByDefault(Return(-EBADF));
    ON_CALL(*this, mmap).WillByDefault(Return(-ENODEV));
    ON_CALL(*this, memfd_create).WillByDefault(Return(-ENOSYS));
    ON_CALL(*this, get_seals).WillByDefault(Return(-EINVAL));
    ON_CALL(*this, add_seals).WillByDefault(Return(-EINVAL));
    ON_CALL(*this, pidfd_open).WillByDefault(Return(-ESRCH));
    ON_CALL(*this, pidfd_getfd).WillByDefault(Return(-EBADF));
  }

  MOCK_METHOD(int, open, (const char*, int, mode_t), (override));
  MOCK_METHOD(int, close, (int), (override));
  MOCK_METHOD(int, duplicate, (int), (override));
  MOCK_METHOD(int, ioctl, (int, unsigned long, void*), (override));
  MOCK_METHOD(int, poll, (int, short, int, short&), (override));
  MOCK_METHOD(std::int64_t, read, (int, void*, std::size_t), (override));
  MOCK_METHOD(std::int64_t, pread, (int, void*, std::size_t, std::uint64_t), (override));
  MOCK_METHOD(std::int64_t, pwrite, (int, const void*, std::size_t, std::uint64_t), (override));
  MOCK_METHOD(std::int64_t, seek, (int, std::int64_t, int), (override));
  MOCK_METHOD(int, read_link, (const char*, std::string&), (override));
  MOCK_METHOD(int, access, (const char*, int), (override));
  MOCK_METHOD(int, stat, (const char*, struct stat*), (override));
  MOCK_METHOD(int, fstat, (int, struct stat*), (override));
  MOCK_METHOD(int, statx, (int, unsigned, struct statx&), (override));
  MOCK_METHOD(int, mmap, (std::size_t, int, int, void**), (override));
  MOCK_METHOD(int, munmap, (void*, std::size_t), (override));
  MOCK_METHOD(int, memfd_create, (const char*, unsigned), (override));
  MOCK_METHOD(int, get_seals, (int), (override));
  MOCK_METHOD(int, add_seals, (int, int), (override));
  MOCK_METHOD(int, pidfd_open, (pid_t), (override));
  MOCK_METHOD(int, pidfd_getfd, (int, int), (override));
  MOCK_METHOD(int, fallocate, (int, std::uint64_t), (override));
  MOCK_METHOD(int, ftruncate, (int, std::uint64_t), (override));
  MOCK_METHOD(int, fchmod, (int, mode_t), (override));
  MOCK_METHOD(int, fsync, (int), (override));
  MOCK_METHOD(int, rename, (const char*, const char*, bool), (override));
  MOCK_METHOD(int, unlink, (const char*), (override));
};

// The numbers of the descriptors that a fake module hands out.
constexpr int control_fd = 100;
constexpr int region_fd = 101;
constexpr int buffer_fd = 102;
constexpr int binding_fd = 103;

// A machine with the module loaded and one buffer behind every fd that is duplicated or fetched.
class fake_module {
 public:
  fake_module() {
    using testing::_;
    using testing::Return;
    using testing::StrEq;
    ON_CALL(calls, open(StrEq("/dev/dmabridge"), _, _)).WillByDefault(Return(control_fd));
    ON_CALL(calls, ioctl(control_fd, DMABRIDGE_IOCTL_INFO, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& info = *static_cast<dmabridge_info*>(argument);
          info.abi_version = abi_version;
          info.importers = 1U << DMABRIDGE_IMPORTER_BLOCK;
          info.nr_regions = static_cast<std::uint32_t>(regions.size());
          return 0;
        });
    ON_CALL(calls, ioctl(control_fd, DMABRIDGE_IOCTL_REGION, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& wanted = *static_cast<dmabridge_region_info*>(argument);
          for (const auto& region : regions) {
            if (region.id < wanted.id) continue;
            wanted = region;
            return 0;
          }
          return -ENOENT;
        });
    ON_CALL(calls, duplicate).WillByDefault(Return(buffer_fd));
    ON_CALL(calls, read_link).WillByDefault([](const char*, std::string& target) {
      target = "/dmabuf:";
      return 0;
    });
    ON_CALL(calls, seek(buffer_fd, 0, SEEK_END)).WillByDefault([this](auto...) {
      return buffer_size;
    });
    ON_CALL(calls, fstat(buffer_fd, _)).WillByDefault([this](int, struct stat* result) {
      result->st_ino = buffer_inode;
      return 0;
    });
  }

  auto add_region(const char* name, std::uint64_t size) -> dmabridge_region_info& {
    dmabridge_region_info region{};
    region.id = static_cast<std::uint32_t>(regions.size() * 2 + 1);
    region.kind = DMABRIDGE_REGION_BAR;
    region.flags = DMABRIDGE_REGION_HAS_PAGES;
    region.device = 0x000300 + static_cast<std::uint32_t>(regions.size()) * 0x100;
    region.bar = 2;
    region.size = region.available = region.limit = size;
    std::snprintf(region.name, sizeof(region.name), "%s", name);
    std::snprintf(region.driver, sizeof(region.driver), "dmabridge_pci");
    regions.push_back(region);
    return regions.back();
  }

  testing::NiceMock<mock_system_calls> calls;
  system_calls_override active{calls};
  std::uint32_t abi_version = DMABRIDGE_ABI_VERSION;
  std::vector<dmabridge_region_info> regions;
  std::int64_t buffer_size = 1 << 20;
  std::uint64_t buffer_inode = 4711;
};

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
#include "raid.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/major.h>
#include <linux/raid/md_u.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "fixture.hpp"

namespace dmabridge::test {
namespace {

// From linux/raid/md_p.h, which C++ does not take.
constexpr int state_clean = 1 << 0;
constexpr int disk_active = 1 << 1, disk_in_sync = 1 << 2;

constexpr const char* array_name = "md127";

void check(int result, const std::string& what) {
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
}

void load(int level) {
  const Output loaded = shell(fmt::format("modprobe md_mod && modprobe raid{}", level));
  if (loaded.status != 0) throw std::runtime_error("cannot load md: " + loaded.text);
}

Fd make_node() {
  const int error = write_text("/sys/module/md_mod/parameters/new_array", array_name);
  if (error != 0 && error != -EEXIST)
    throw std::system_error(-error, std::generic_category(), "new_array");
  const std::string path = fmt::format("/dev/{}", array_name);
  if (!eventually([&] { return access(path.c_str(), F_OK) == 0; }))
    throw std::runtime_error(path + " does not appear");
  return open_file(path, O_RDWR);
}

void add_disk(int array, int number, const std::string& path) {
  struct stat status{};
  check(stat(path.c_str(), &status), path);
  mdu_disk_info_t disk{};
  disk.number = disk.raid_disk = number;
  disk.major = static_cast<int>(major(status.st_rdev));
  disk.minor = static_cast<int>(minor(status.st_rdev));
  disk.state = disk_active | disk_in_sync;
  check(ioctl(array, ADD_NEW_DISK, &disk), "ADD_NEW_DISK " + path);
}

}  // namespace

RaidArray::RaidArray(int level, const std::vector<std::string>& disks) : name_(array_name) {
  load(level);
  fd_ = make_node();
  mdu_array_info_t array{};
  array.minor_version = 90;
  array.level = level;
  array.nr_disks = array.raid_disks = array.active_disks = array.working_disks =
      static_cast<int>(disks.size());
  array.not_persistent = 1;
  array.state = state_clean;  // else a mirror would be written
  array.chunk_size = level == 0 ? 64 << 10 : 0;
  check(ioctl(fd_.get(), SET_ARRAY_INFO, &array), "SET_ARRAY_INFO");
  for (std::size_t i = 0; i < disks.size(); i++) add_disk(fd_.get(), static_cast<int>(i), disks[i]);
  check(ioctl(fd_.get(), RUN_ARRAY, nullptr), "RUN_ARRAY");
}

RaidArray::~RaidArray() {
  if (ioctl(fd_.get(), STOP_ARRAY, nullptr) != 0)
    fmt::print(stderr, "cannot stop {}: errno {}\n", path(), errno);
}

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
#include "accelerator.hpp"

#include <accelerator_ioctl.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

#include "abi.hpp"
#include "fixture.hpp"
#include "machine.hpp"

namespace dmabridge::test {
namespace {

const std::map<std::string, std::string> defaults{
    {"engine", "Y"}, {"offset", "0"},     {"size", "0"},
    {"pages", "Y"},  {"move_limit", "0"}, {"system_limit", "0"},
    {"deny", "\n"},  {"deny_value", "0"}, {"take_unrevocable", "N"},
};

void check(int error, const std::string& what) {
  if (error != 0) throw std::system_error(-error, std::generic_category(), what);
}

}  // namespace

void set_accelerator_parameters(const std::map<std::string, std::string>& parameters) {
  const Output loaded = shell("modprobe dmabridge_accelerator");
  if (loaded.status != 0)
    throw std::runtime_error("cannot load dmabridge_accelerator: " + loaded.text);
  auto all = parameters;
  all.insert(defaults.begin(), defaults.end());
  for (const auto& [name, value] : all)
    check(write_text("/sys/module/dmabridge_accelerator/parameters/" + name, value), name);
}

int Knobs::set(const std::string& knob, std::uint64_t value) const {
  return write_text(dir_ + knob, std::to_string(value));
}

std::uint64_t Knobs::get(const std::string& knob) const {
  return std::stoull(oracle::read_line(dir_ + knob));
}

int Knobs::control(const std::string& command) const {
  return write_text(dir_ + "control", command);
}

Accelerator::Accelerator(const std::string& address)
    : fd_(open_file("/dev/accelerator-" + address, O_RDWR)) {}

int Accelerator::create(std::uint64_t size, std::uint32_t policy, std::uint32_t memory,
                        std::uint32_t* handle) const {
  accelerator_create argument{};
  argument.size = size;
  argument.policy = policy;
  argument.memory = memory;
  const int error = call(fd(), ACCELERATOR_IOCTL_CREATE, &argument);
  *handle = argument.handle;
  return error;
}

int Accelerator::destroy(std::uint32_t handle) const {
  accelerator_handle argument{handle, 0};
  return call(fd(), ACCELERATOR_IOCTL_DESTROY, &argument);
}

int Accelerator::evict(std::uint32_t handle) const {
  accelerator_handle argument{handle, 0};
  return call(fd(), ACCELERATOR_IOCTL_EVICT, &argument);
}

int Accelerator::fill(std::uint32_t handle, std::uint64_t offset, std::uint64_t length,
                      std::uint64_t value) const {
  accelerator_run argument{handle, ACCELERATOR_JOB_FILL, offset, length, value};
  return call(fd(), ACCELERATOR_IOCTL_RUN, &argument);
}

int Accelerator::checksum(std::uint32_t handle, std::uint64_t offset, std::uint64_t length,
                          std::uint64_t to) const {
  accelerator_run argument{handle, ACCELERATOR_JOB_CHECKSUM, offset, length, to};
  return call(fd(), ACCELERATOR_IOCTL_RUN, &argument);
}

Fd Accelerator::dma_buf(std::uint32_t handle) const {
  accelerator_handle argument{handle, 0};
  const int fd = ioctl(fd_.get(), ACCELERATOR_IOCTL_EXPORT, &argument);
  if (fd < 0) throw std::system_error(errno, std::generic_category(), "ACCELERATOR_IOCTL_EXPORT");
  return Fd(fd);
}

Accelerator::Entry Accelerator::look_up(std::uint32_t handle, std::uint64_t page) const {
  accelerator_lookup argument{};
  argument.handle = handle;
  argument.page = page;
  check(call(fd(), ACCELERATOR_IOCTL_LOOKUP, &argument), "ACCELERATOR_IOCTL_LOOKUP");
  return {argument.placement, argument.offset, argument.updates};
}

}  // namespace dmabridge::test

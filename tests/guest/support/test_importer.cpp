// SPDX-License-Identifier: MIT
#include "test_importer.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <system_error>

#include "abi.hpp"
#include "fixture.hpp"
#include "machine.hpp"

namespace dmabridge::test {
namespace {

Fd node_fd;
std::mutex node_lock;

void check(int error, const char* what) {
  if (error != 0) throw std::system_error(-error, std::generic_category(), what);
}

int node() {
  const std::lock_guard guard(node_lock);
  if (!node_fd) {
    const Output loaded = shell("modprobe dmabridge_test_importer");
    if (loaded.status != 0)
      throw std::runtime_error("cannot load dmabridge_test_importer: " + loaded.text);
    node_fd = open_file("/dev/dmabridge-test-importer", O_RDWR);
  }
  return node_fd.get();
}

int cpu(test_importer_cpu argument) {
  return call(node(), TEST_IMPORTER_IOCTL_CPU, &argument);
}

}  // namespace

Client nvme(const std::string& serial) {
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/nvme")) {
    if (oracle::read_line(entry.path() / "serial").find(serial) != 0) continue;
    const std::string address = oracle::read_line(entry.path() / "address");
    unsigned domain = 0, bus = 0, device = 0, function = 0;
    if (std::sscanf(address.c_str(), "%x:%x:%x.%x", &domain, &bus, &device, &function) != 4)
      throw std::runtime_error("not a PCI address: " + address);
    return {std::uint64_t(domain) << 16 | bus << 8 | device << 3 | function, true};
  }
  throw std::runtime_error("no NVMe drive has the serial number " + serial);
}

std::uint64_t Table::length() const {
  return std::accumulate(
      segments.begin(), segments.end(), std::uint64_t(0),
      [](std::uint64_t sum, const test_importer_segment& each) { return sum + each.length; });
}

bool Table::has_pages() const {
  return std::ranges::any_of(segments, [](const auto& each) { return each.has_page != 0; });
}

int Attachment::map(std::uint32_t* id, std::uint32_t direction) {
  test_importer_map argument{};
  argument.direction = direction;
  const int error = call(fd_.get(), TEST_IMPORTER_IOCTL_MAP, &argument);
  *id = argument.id;
  return error;
}

std::uint32_t Attachment::map(std::uint32_t direction) {
  std::uint32_t id = 0;
  check(map(&id, direction), "TEST_IMPORTER_IOCTL_MAP");
  return id;
}

int Attachment::unmap(std::uint32_t id) {
  return call(fd_.get(), TEST_IMPORTER_IOCTL_UNMAP, &id);
}

int Attachment::table(std::uint32_t id, Table* table) const {
  test_importer_sg argument{};
  std::uint32_t room = 64;
  for (;;) {
    table->segments.resize(room);
    argument.id = id;
    argument.max = room;
    argument.segments = reinterpret_cast<std::uintptr_t>(table->segments.data());
    argument.same_as = 0;
    const int error = call(fd_.get(), TEST_IMPORTER_IOCTL_SG, &argument);
    if (error != 0) return error;
    if (argument.nents <= room) break;
    room = argument.nents;
  }
  table->segments.resize(argument.nents);
  table->orig_nents = argument.orig_nents;
  table->invalidations = argument.invalidations;
  table->same_as = argument.same_as;
  return 0;
}

Table Attachment::table(std::uint32_t id) const {
  Table found{};
  check(table(id, &found), "TEST_IMPORTER_IOCTL_SG");
  return found;
}

int Attachment::pin() {
  return call(fd_.get(), TEST_IMPORTER_IOCTL_PIN, nullptr);
}

int Attachment::unpin() {
  return call(fd_.get(), TEST_IMPORTER_IOCTL_UNPIN, nullptr);
}

test_importer_events Attachment::events() const {
  test_importer_events events{};
  check(call(fd_.get(), TEST_IMPORTER_IOCTL_EVENTS, &events), "TEST_IMPORTER_IOCTL_EVENTS");
  return events;
}

void Attachment::add_fence(std::uint32_t usage) {
  check(call(fd_.get(), TEST_IMPORTER_IOCTL_ADD_FENCE, &usage), "TEST_IMPORTER_IOCTL_ADD_FENCE");
}

void Attachment::signal() {
  check(call(fd_.get(), TEST_IMPORTER_IOCTL_SIGNAL, nullptr), "TEST_IMPORTER_IOCTL_SIGNAL");
}

test_importer_bench Attachment::bench(std::uint32_t rounds, std::uint32_t direction) {
  test_importer_bench argument{};
  argument.direction = direction;
  argument.rounds = rounds;
  check(call(fd_.get(), TEST_IMPORTER_IOCTL_BENCH, &argument), "TEST_IMPORTER_IOCTL_BENCH");
  return argument;
}

std::uint64_t Attachment::translate(std::uint64_t address) const {
  test_importer_translate argument{address, 0};
  const int error = call(fd_.get(), TEST_IMPORTER_IOCTL_TRANSLATE, &argument);
  if (error == -ENODEV) return address;
  check(error, "TEST_IMPORTER_IOCTL_TRANSLATE");
  return argument.phys;
}

Attached attach(int buffer, const ImporterKind& kind, const Client& client,
                std::uint32_t on_invalidate) {
  test_importer_attach argument{};
  argument.fd = buffer;
  argument.kind = kind.kind;
  argument.flags = kind.flags | (client.pci ? TEST_IMPORTER_PCI : 0);
  argument.on_invalidate = on_invalidate;
  argument.device = client.function;
  argument.mask_bits = client.mask_bits;
  argument.max_segment = client.max_segment;
  const int error = call(node(), TEST_IMPORTER_IOCTL_ATTACH, &argument);
  return {error, error == 0 ? Attachment(Fd(argument.attachment_fd)) : Attachment(),
          argument.peer2peer != 0};
}

int begin_cpu_access(int buffer, std::uint32_t direction) {
  return cpu({buffer, TEST_IMPORTER_BEGIN_CPU_ACCESS, direction, 0, 0, 0});
}

int end_cpu_access(int buffer, std::uint32_t direction) {
  return cpu({buffer, TEST_IMPORTER_END_CPU_ACCESS, direction, 0, 0, 0});
}

int vmap_read(int buffer, std::uint64_t offset, void* to, std::uint32_t length) {
  return cpu(
      {buffer, TEST_IMPORTER_VMAP_READ, 0, length, offset, reinterpret_cast<std::uintptr_t>(to)});
}

int vmap_write(int buffer, std::uint64_t offset, const void* from, std::uint32_t length) {
  return cpu({buffer, TEST_IMPORTER_VMAP_WRITE, 0, length, offset,
              reinterpret_cast<std::uintptr_t>(from)});
}

void close_test_importer() {
  const std::lock_guard guard(node_lock);
  node_fd.reset();
}

}  // namespace dmabridge::test

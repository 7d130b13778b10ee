// SPDX-License-Identifier: MIT
#include "abi.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace dmabridge::test {
namespace {

Fd control_fd;

void check(int error, const char* what) {
  if (error != 0) throw std::system_error(-error, std::generic_category(), what);
}

// About the buffer of an fd.
dmabridge_negotiate question_about(int buffer, std::uint32_t policy) {
  dmabridge_negotiate question{};
  question.fd = buffer;
  question.policy = policy;
  question.target_fd = -1;
  return question;
}

dmabridge_negotiate question_about(const dmabridge_region_info& region, std::uint32_t policy,
                                   std::uint32_t buffer_policy) {
  auto question = question_about(-1, policy);
  question.region_id = region.id;
  question.size = 64 << 10;
  question.buffer_policy = buffer_policy;
  return question;
}

Answer ask(dmabridge_negotiate question) {
  const int error = call(control(), DMABRIDGE_IOCTL_NEGOTIATE, &question);
  return {error, question.placement, question.verdict};
}

Answer ask_file(dmabridge_negotiate question, int target, std::uint32_t flags) {
  question.kind = DMABRIDGE_NEGOTIATE_FILE;
  question.target_fd = target;
  question.flags = flags;
  return ask(question);
}

Answer ask_function(dmabridge_negotiate question, std::uint64_t device, std::uint32_t flags) {
  question.kind = DMABRIDGE_NEGOTIATE_PCI;
  question.device = device;
  question.flags = flags;
  return ask(question);
}

}  // namespace

int call(int fd, unsigned long request, void* argument) {
  return ioctl(fd, request, argument) < 0 ? -errno : 0;
}

int control() {
  if (!control_fd) control_fd = Fd(open("/dev/dmabridge", O_RDWR | O_CLOEXEC));
  if (!control_fd)
    throw std::runtime_error("cannot open /dev/dmabridge: the module dmabridge is not loaded");
  return control_fd.get();
}

void close_control() {
  control_fd.reset();
}

std::vector<dmabridge_region_info> regions() {
  std::vector<dmabridge_region_info> found;
  for (std::uint32_t id = 0;; id = found.back().id + 1) {
    dmabridge_region_info info{};
    info.id = id;
    const int error = call(control(), DMABRIDGE_IOCTL_REGION, &info);
    if (error == -ENOENT) return found;
    check(error, "DMABRIDGE_IOCTL_REGION");
    found.push_back(info);
  }
}

bool unregistered_are_gone() {
  return std::ranges::none_of(regions(), [](const dmabridge_region_info& region) {
    return (region.flags & DMABRIDGE_REGION_UNREGISTERED) != 0;
  });
}

dmabridge_region_info first_region() {
  const auto found = regions();
  if (found.empty())
    throw std::runtime_error("there is no region: no function is bound to dmabridge_pci");
  return found.front();
}

std::string region_node(const dmabridge_region_info& region) {
  return fmt::format("/dev/dmabridge-{}", region.name);
}

std::string pci_address(std::uint64_t device) {
  return fmt::format("{:04x}:{:02x}:{:02x}.{}", device >> 16, device >> 8 & 0xff,
                     device >> 3 & 0x1f, device & 7);
}

Fd allocate(std::uint64_t size, std::uint32_t policy) {
  return allocate_in(first_region(), size, policy);
}

Fd allocate_in(const dmabridge_region_info& region, std::uint64_t size, std::uint32_t policy) {
  const Fd node(open(region_node(region).c_str(), O_RDWR | O_CLOEXEC));
  if (!node) throw std::system_error(errno, std::generic_category(), "region node");
  dmabridge_alloc alloc{};
  alloc.size = size;
  alloc.policy = policy;
  check(call(node.get(), DMABRIDGE_IOCTL_ALLOC, &alloc), "DMABRIDGE_IOCTL_ALLOC");
  return Fd(alloc.fd);
}

Query query(int buffer) {
  Query result{};
  result.chunks.resize(4096);
  result.users.resize(64);
  result.head.fd = buffer;
  result.head.chunks = reinterpret_cast<std::uintptr_t>(result.chunks.data());
  result.head.max_chunks = static_cast<std::uint32_t>(result.chunks.size());
  result.head.users = reinterpret_cast<std::uintptr_t>(result.users.data());
  result.head.max_users = static_cast<std::uint32_t>(result.users.size());
  result.head.user_size = sizeof(dmabridge_user);
  check(call(control(), DMABRIDGE_IOCTL_QUERY, &result.head), "DMABRIDGE_IOCTL_QUERY");
  if (result.head.nr_chunks > result.chunks.size() || result.head.nr_users > result.users.size()) {
    throw std::runtime_error("more chunks or users than the test has room for");
  }
  result.chunks.resize(result.head.nr_chunks);
  result.users.resize(result.head.nr_users);
  return result;
}

std::uint32_t placement(int buffer) {
  return query(buffer).head.placement;
}

int move(int buffer, std::uint32_t placement, dmabridge_verdict* verdict) {
  dmabridge_move argument{};
  argument.fd = buffer;
  argument.placement = placement;
  const int error = call(control(), DMABRIDGE_IOCTL_MOVE, &argument);
  if (verdict != nullptr) *verdict = argument.verdict;
  return error;
}

Hold hold(int buffer, std::uint32_t placement) {
  dmabridge_hold argument{};
  argument.fd = buffer;
  argument.placement = placement;
  const int error = call(control(), DMABRIDGE_IOCTL_HOLD, &argument);
  return {error, error == 0 ? Fd(argument.hold_fd) : Fd(), argument.verdict};
}

Watch watch(int buffer, int eventfd) {
  dmabridge_watch argument{};
  argument.fd = buffer;
  argument.eventfd = eventfd;
  const int error = call(control(), DMABRIDGE_IOCTL_WATCH, &argument);
  return {error, error == 0 ? Fd(argument.watch_fd) : Fd(), argument.generation};
}

int read_event(int watch, dmabridge_event* event) {
  const ssize_t got = read(watch, event, sizeof(*event));
  return got < 0 ? -errno : static_cast<int>(got);
}

Binding bind(int buffer, int target, std::uint32_t policy, std::uint32_t flags) {
  dmabridge_bind argument{};
  argument.fd = buffer;
  argument.target_fd = target;
  argument.importer = DMABRIDGE_IMPORTER_BLOCK;
  argument.policy = policy;
  argument.flags = flags;
  const int error = call(control(), DMABRIDGE_IOCTL_BIND, &argument);
  return {error, error == 0 ? Fd(argument.binding_fd) : Fd(), argument.verdict};
}

dmabridge_binding_info binding_info(int binding) {
  dmabridge_binding_info info{};
  check(call(binding, DMABRIDGE_IOCTL_BINDING, &info), "DMABRIDGE_IOCTL_BINDING");
  return info;
}

Answer ask_file(int buffer, int target, std::uint32_t policy, std::uint32_t flags) {
  return ask_file(question_about(buffer, policy), target, flags);
}

Answer ask_file(const dmabridge_region_info& region, int target, std::uint32_t policy,
                std::uint32_t flags, std::uint32_t buffer_policy) {
  return ask_file(question_about(region, policy, buffer_policy), target, flags);
}

Answer ask_function(int buffer, std::uint64_t device, std::uint32_t flags, std::uint32_t policy) {
  return ask_function(question_about(buffer, policy), device, flags);
}

Answer ask_function(const dmabridge_region_info& region, std::uint64_t device, std::uint32_t flags,
                    std::uint32_t policy, std::uint32_t buffer_policy) {
  return ask_function(question_about(region, policy, buffer_policy), device, flags);
}

const dmabridge_reason* find_reason(const dmabridge_verdict& verdict, std::uint32_t code) {
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(verdict.nr_reasons, DMABRIDGE_MAX_REASONS);
       i++) {
    if (verdict.reasons[i].code == code) return &verdict.reasons[i];
  }
  return nullptr;
}

std::string describe(const dmabridge_verdict& verdict) {
  std::string text = fmt::format("route {}, policy {}, distance {}", verdict.route, verdict.policy,
                                 verdict.distance);
  for (std::uint32_t i = 0; i < std::min<std::uint32_t>(verdict.nr_reasons, DMABRIDGE_MAX_REASONS);
       i++) {
    const dmabridge_reason& reason = verdict.reasons[i];
    text += fmt::format("; reason {} (flags {:#x}, value {:#x}, device {}, name '{}')", reason.code,
                        reason.flags, reason.value, pci_address(reason.device), reason.name);
  }
  return text;
}

}  // namespace dmabridge::test

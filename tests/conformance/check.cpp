// SPDX-License-Identifier: MIT
#include "check.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "machine.hpp"
#include "support/abi.hpp"

namespace dmabridge::test::conformance {
namespace {

namespace fs = std::filesystem;

constexpr ImporterKind kinds[] = {static_importer, dynamic, revocable, p2p, p2p_revocable};
constexpr const char* kind_names[] = {"static", "dynamic", "dynamic, revocable", "P2P",
                                      "P2P, revocable"};
static_assert(std::size(kinds) == std::size(kind_names));

std::uint64_t parse_address(const std::string& address) {
  unsigned domain = 0, bus = 0, device = 0, function = 0;
  if (std::sscanf(address.c_str(), "%x:%x:%x.%x", &domain, &bus, &device, &function) != 4)
    throw std::runtime_error("not a PCI address: " + address + " (it looks like 0000:04:00.0)");
  return std::uint64_t(domain) << 16 | bus << 8 | device << 3 | function;
}

bool is_translated(const std::string& address) {
  const std::string type = "/sys/bus/pci/devices/" + address + "/iommu_group/type";
  return fs::exists(type) && oracle::read_line(type) != "identity";
}

std::string first_drive() {
  std::vector<std::string> found;
  if (fs::exists("/sys/class/nvme"))
    for (const auto& entry : fs::directory_iterator("/sys/class/nvme"))
      found.push_back(oracle::read_line(entry.path() / "address"));
  return found.empty() ? "" : *std::ranges::min_element(found);
}

}  // namespace

void require(bool condition, const std::string& otherwise) {
  if (!condition) throw Verdict{{Outcome::fail, otherwise}};
}

void succeed(int error, const std::string& what) {
  require(error == 0, what + ": " + errno_name(error));
}

void lacks(int error, const std::string& what) {
  throw Verdict{{Outcome::lacks, error == 0 ? what : what + ": " + errno_name(error)}};
}

void untried(const std::string& reason) {
  throw Verdict{{Outcome::untried, reason}};
}

Result yes_or_no(int error, const std::string& detail) {
  if (error == 0) return {Outcome::yes, detail};
  return {Outcome::no, errno_name(error)};
}

std::string errno_name(int error) {
  const char* name = strerrorname_np(error < 0 ? -error : error);
  return name != nullptr ? name : fmt::format("error {}", error < 0 ? -error : error);
}

std::optional<Function> find_function(const std::string& wanted) {
  const std::string address = wanted.empty() ? first_drive() : wanted;
  if (address.empty()) return std::nullopt;
  Client client;
  client.function = parse_address(address);
  client.pci = true;
  if (!fs::exists("/sys/bus/pci/devices/" + address))
    throw std::runtime_error("there is no PCI function " + address + " (see lspci -D)");
  return Function{address, client, is_translated(address)};
}

int Context::buffer() {
  if (!buffer_) buffer_ = exporter_.make();
  return buffer_.get();
}

Fd Context::take() {
  buffer();
  return std::move(buffer_);
}

std::uint64_t Context::size() {
  const off_t size = lseek(buffer(), 0, SEEK_END);
  if (size < 0) throw std::system_error(errno, std::generic_category(), "lseek(SEEK_END)");
  return static_cast<std::uint64_t>(size);
}

std::vector<Importer> Context::importers() const {
  std::vector<Importer> found;
  for (std::size_t i = 0; i < std::size(kinds); i++)
    found.push_back({kinds[i], no_bus, fmt::format("{}, no bus", kind_names[i])});
  for (std::size_t i = 0; function_ && i < std::size(kinds); i++)
    found.push_back({kinds[i], function_->client, fmt::format("{}, PCI", kind_names[i])});
  return found;
}

Attached Context::try_importer(const Importer& importer, std::uint32_t on_invalidate) {
  Attached attached = attach(buffer(), importer.kind, importer.client, on_invalidate);
  std::uint32_t id = 0;
  if (attached.error == 0) attached.error = attached.attachment.map(&id);
  if (attached.error == 0) attached.error = attached.attachment.unmap(id);
  return attached;
}

bool Context::each_of(bool pci, const std::function<void(const Importer&, Attachment&)>& body) {
  bool any = false;
  for (const Importer& importer : importers()) {
    if (importer.client.pci != pci) continue;
    Attached attached = try_importer(importer, TEST_IMPORTER_UNMAP);
    if (attached.error != 0) continue;
    any = true;
    body(importer, attached.attachment);
  }
  return any;
}

void Context::each_attached(const std::function<void(const Importer&, Attachment&)>& body) {
  const bool here = each_of(false, body);
  if (!each_of(true, body) && !here) untried("no importer can attach and map");
}

void Context::each_attached_here(const std::function<void(const Importer&, Attachment&)>& body) {
  if (!each_of(false, body) && !each_of(true, body)) untried("no importer can attach and map");
}

std::pair<Importer, Attachment> Context::any_attached(std::uint32_t on_invalidate,
                                                      bool must_be_revocable) {
  std::vector<Importer> wanted = importers();
  // The most able first, as it can be served where the buffer is.
  std::ranges::reverse(wanted);
  int error = 0;
  for (const Importer& importer : wanted) {
    if (must_be_revocable && !importer.kind.revocable()) continue;
    Attached attached = try_importer(importer, on_invalidate);
    if (attached.error == 0) return {importer, std::move(attached.attachment)};
    error = attached.error;
  }
  untried(fmt::format("no {}importer can attach and map: {}", must_be_revocable ? "revocable " : "",
                      errno_name(error)));
}

Mapping Context::map_whole() {
  try {
    return Mapping(buffer(), size());
  } catch (const std::system_error& error) {
    lacks(error.code().value(), "mmap");
  }
}

std::vector<Check> all_checks() {
  std::vector<Check> all;
  for (const auto& checks :
       {attach_checks(), cpu_checks(), fence_checks(), lifetime_checks(), move_checks()})
    all.insert(all.end(), checks.begin(), checks.end());
  return all;
}

}  // namespace dmabridge::test::conformance

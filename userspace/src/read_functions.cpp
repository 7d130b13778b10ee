// SPDX-License-Identifier: MIT
#include "read_functions.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string_view>

#include "sysfs.hpp"

extern "C" {
#include <pci/pci.h>
}

namespace dmabridge {
namespace {

struct cleanup {
  void operator()(pci_access* access) const { pci_cleanup(access); }
};
using access_ptr = std::unique_ptr<pci_access, cleanup>;

// libpci ends the program unless this does not return. Its callers are plain C, which exceptions
// can pass through: they keep nothing that has to be given back, but for a file now and then.
[[noreturn]] void throw_error(char* format, ...) {
  std::array<char, 512> text{};
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text.data(), text.size(), format, arguments);
  va_end(arguments);
  throw std::runtime_error(text.data());
}

// What it warns of is found by those who look for it.
void ignore_warning(char*, ...) {}

auto open_libpci(const std::string& folder) -> access_ptr {
  access_ptr access(pci_alloc());
  access->method = PCI_ACCESS_SYS_BUS_PCI;
  access->error = throw_error;
  access->warning = ignore_warning;
  access->debug = ignore_warning;
  std::string name = "sysfs.path";
  std::string value = folder;
  pci_set_param(access.get(), name.data(), value.data());
  pci_init(access.get());
  pci_scan_bus(access.get());
  return access;
}

// Flags of a resource that libpci passes on without a name of its own (linux/ioport.h).
constexpr pciaddr_t resource_disabled = 0x10000000;
constexpr pciaddr_t resource_unset = 0x20000000;

auto address_of(const pci_dev& device) -> pci_address {
  return {.domain = static_cast<std::uint32_t>(device.domain),
          .bus = device.bus,
          .device = device.dev,
          .function = device.func};
}

// How much of its configuration space the caller may read. The kernel keeps all but the first 64
// bytes for root.
enum class config_extent : std::uint8_t { none, header, conventional, whole };

struct function_reader {
  pci_dev* device;
  std::string folder;  // in /sys/bus/pci/devices
  topology& machine;
  unsigned& hidden_endpoints;

  auto read() const -> pci_function;

 private:
  auto name() const -> std::string { return to_string(address_of(*device)); }
  void miss(const std::string& what, const std::string& why, const std::string& remedy) const {
    machine.unread.push_back({.what = what, .why = why, .remedy = remedy});
  }
  auto extent() const -> config_extent;
  auto port(config_extent seen, bool type_one) const -> pci_port;
  auto port_by_services() const -> pci_port;
  auto acs(config_extent seen) const -> std::optional<pci_acs>;
  void read_config(pci_function& made) const;
  void read_bars(pci_function& made) const;
};

auto function_reader::extent() const -> config_extent {
  std::array<u8, 64> header{};
  std::array<u8, 4> more{};
  if (pci_read_block(device, 0, header.data(), header.size()) == 0) return config_extent::none;
  if (pci_read_block(device, 0x40, more.data(), more.size()) == 0) return config_extent::header;
  if (pci_read_block(device, 0x100, more.data(), more.size()) != 0) return config_extent::whole;
  return config_extent::conventional;
}

// The services of a PCIe port are devices of their own. Their names, 0000:00:01.0:pcie204, give the
// port's type less 4 before the service (portdrv.c: get_descriptor_id()), and everybody may read
// them.
auto function_reader::port_by_services() const -> pci_port {
  const auto prefix = name() + ":pcie";
  for (const auto& entry : names_in(folder)) {
    if (!entry.starts_with(prefix) || entry.size() != prefix.size() + 3) continue;
    switch (entry[prefix.size()]) {
      case '0':
        return pci_port::root;
      case '1':
        return pci_port::upstream;
      case '2':
        return pci_port::downstream;
    }
  }
  return pci_port::unknown;
}

auto function_reader::port(config_extent seen, bool type_one) const -> pci_port {
  const auto host_bridge = device->device_class == PCI_CLASS_BRIDGE_HOST;
  if (seen >= config_extent::conventional) {
    const auto* express = pci_find_cap(device, PCI_CAP_ID_EXP, PCI_CAP_NORMAL);
    if (express == nullptr) return type_one || host_bridge ? pci_port::bridge : pci_port::endpoint;
    const auto flags = pci_read_word(device, static_cast<int>(express->addr + PCI_EXP_FLAGS));
    switch ((flags & PCI_EXP_FLAGS_TYPE) >> 4) {
      case PCI_EXP_TYPE_ROOT_PORT:
        return pci_port::root;
      case PCI_EXP_TYPE_UPSTREAM:
        return pci_port::upstream;
      case PCI_EXP_TYPE_DOWNSTREAM:
        return pci_port::downstream;
      case PCI_EXP_TYPE_PCI_BRIDGE:
      case PCI_EXP_TYPE_PCIE_BRIDGE:
        return pci_port::bridge;
    }
  }
  if (type_one) return port_by_services();
  return host_bridge ? pci_port::bridge : pci_port::endpoint;
}

auto function_reader::acs(config_extent seen) const -> std::optional<pci_acs> {
  if (seen < config_extent::conventional) return {};
  // Extended capabilities come with PCI Express only.
  if (pci_find_cap(device, PCI_CAP_ID_EXP, PCI_CAP_NORMAL) == nullptr) return pci_acs{};
  if (seen == config_extent::conventional) {
    // Of a size of 256, that is all there is, and the kernel sees no more than that.
    std::error_code ec;
    const auto size = std::filesystem::file_size(folder + "/config", ec);
    if (ec || size != 256) return {};
    return pci_acs{};
  }
  const auto* found = pci_find_cap(device, PCI_EXT_CAP_ID_ACS, PCI_CAP_EXTENDED);
  if (found == nullptr) return pci_acs{};
  const auto at = static_cast<int>(found->addr);
  return pci_acs{.present = true,
                 .capabilities = pci_read_word(device, at + PCI_ACS_CAP),
                 .control = pci_read_word(device, at + PCI_ACS_CTRL)};
}

void function_reader::read_config(pci_function& made) const {
  constexpr unsigned multi_function = 0x80;
  constexpr auto as_root = "run this as root";
  constexpr auto hidden = "its configuration space past the first 64 bytes is for root";
  const auto seen = extent();
  if (seen == config_extent::none) {
    miss("configuration space of " + name(), "/sys has none to read, or nothing answers there",
         as_root);
    return;
  }
  const auto header = pci_read_byte(device, PCI_HEADER_TYPE);
  const auto command = pci_read_word(device, PCI_COMMAND);
  if (command == 0xffff && pci_read_word(device, PCI_VENDOR_ID) == 0xffff) {
    miss("configuration space of " + name(),
         "it reads as ones only: the device is asleep or does not answer", "wake it up");
    return;
  }
  // A virtual function's bit is always off; the physical one's SR-IOV capability has the real one.
  if (!made.physical) made.memory_enabled = (command & PCI_COMMAND_MEMORY) != 0;

  const auto type_one = (header & ~multi_function) != PCI_HEADER_TYPE_NORMAL;
  made.port = port(seen, type_one);
  if (made.port == pci_port::unknown) miss("port type of " + name(), hidden, as_root);
  if (type_one) {
    made.acs = acs(seen);
    if (!made.acs) miss("ACS of " + name(), hidden, as_root);
  } else if ((header & multi_function) != 0 || made.address.function != 0) {
    // Some devices have the bit in their first function only.
    made.acs = acs(seen);
    if (!made.acs) ++hidden_endpoints;
  }
}

void function_reader::read_bars(pci_function& made) const {
  for (unsigned number = 0; number < 6; ++number) {
    const auto flags = device->flags[number];
    if (device->size[number] == 0 || (flags & PCI_IORESOURCE_MEM) == 0) continue;
    const auto assigned = (flags & (resource_unset | resource_disabled)) == 0;
    made.bars.push_back({.number = number,
                         .start = assigned ? device->base_addr[number] & PCI_ADDR_MEM_MASK : 0,
                         .size = device->size[number],
                         .prefetchable = (flags & PCI_IORESOURCE_PREFETCH) != 0});
  }
}

auto to_group(const char* text) -> std::optional<std::uint32_t> {
  if (text == nullptr) return {};
  const std::string_view digits = text;
  std::uint32_t group = 0;
  const auto [end, ec] = std::from_chars(digits.data(), digits.data() + digits.size(), group);
  if (ec != std::errc{} || end != digits.data() + digits.size()) return {};
  return group;
}

auto function_reader::read() const -> pci_function {
  pci_fill_info(device, PCI_FILL_IDENT | PCI_FILL_BASES | PCI_FILL_SIZES | PCI_FILL_IO_FLAGS |
                            PCI_FILL_CLASS | PCI_FILL_CLASS_EXT | PCI_FILL_PARENT |
                            PCI_FILL_NUMA_NODE | PCI_FILL_IOMMU_GROUP | PCI_FILL_DRIVER |
                            PCI_FILL_CAPS | PCI_FILL_EXT_CAPS);
  pci_function made{.address = address_of(*device),
                    .vendor = device->vendor_id,
                    .device = device->device_id,
                    .class_code = std::uint32_t{device->device_class} << 8 | device->prog_if};
  // The kernel puts virtual functions below their physical one's bridge, whatever their bus.
  if (device->parent != nullptr) made.parent = address_of(*device->parent);
  made.physical = pci_address::parse(link_name(folder + "/physfn"));
  if (const auto* driver = pci_get_string_property(device, PCI_FILL_DRIVER); driver != nullptr)
    made.driver = driver;
  if (device->numa_node >= 0) made.numa_node = device->numa_node;
  made.iommu_group = to_group(pci_get_string_property(device, PCI_FILL_IOMMU_GROUP));
  if (const auto bits = read_number(folder + "/dma_mask_bits"); bits && *bits > 0 && *bits <= 64)
    made.dma_mask_bits = static_cast<unsigned>(*bits);
  read_config(made);
  read_bars(made);
  return made;
}

}  // namespace

void read_functions(const machine_roots& roots, topology& machine) {
  const auto folder = roots.sys + "/bus/pci";
  if (!exists(folder + "/devices")) {
    machine.unread.push_back({.what = "PCI functions",
                              .why = folder + "/devices is not there: no PCI here, or a container "
                                              "that hides it",
                              .remedy = "outside of a container, nothing is to be done"});
    return;
  }
  access_ptr access;
  try {
    access = open_libpci(folder);
  } catch (const std::runtime_error& failure) {
    machine.unread.push_back({.what = "PCI functions", .why = failure.what()});
    return;
  }
  unsigned hidden_endpoints = 0;
  for (auto* device = access->devices; device != nullptr; device = device->next) {
    const auto name = to_string(address_of(*device));
    try {
      machine.functions.push_back(
          function_reader{device, folder + "/devices/" + name, machine, hidden_endpoints}.read());
    } catch (const std::runtime_error& failure) {
      machine.unread.push_back({.what = name, .why = failure.what(), .remedy = "read again"});
    }
  }
  if (hidden_endpoints != 0) {
    machine.unread.push_back(
        {.what = fmt::format("ACS of {} functions of multi-function devices", hidden_endpoints),
         .why = "their configuration space past the first 64 bytes is for root",
         .remedy = "run this as root"});
  }
  std::ranges::sort(machine.functions, {}, &pci_function::address);
}

}  // namespace dmabridge

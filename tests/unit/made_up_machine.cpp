// SPDX-License-Identifier: MIT
#include "made_up_machine.hpp"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <fstream>

namespace dmabridge::test {

namespace filesystem = std::filesystem;

namespace {

// Places of capabilities, as good as any other.
constexpr std::size_t express_at = 0x40;
constexpr std::size_t acs_at = 0x100;
constexpr std::uint16_t has_capabilities = 0x10;

}  // namespace

config_space::config_space(std::uint8_t header_type) : space_(4096, '\0') {
  put16(0x00, 0x1af4);
  put16(0x02, 0x1110);
  space_[0x0e] = static_cast<char>(header_type);
}

auto config_space::command(std::uint16_t value) -> config_space& {
  put16(0x04, value);
  return *this;
}

auto config_space::express(unsigned type) -> config_space& {
  put16(0x06, has_capabilities);
  space_[0x34] = express_at;
  put16(express_at, 0x0010);  // id 0x10, the last
  put16(express_at + 2, static_cast<std::uint16_t>(2 | type << 4));
  return *this;
}

auto config_space::acs(std::uint16_t capabilities, std::uint16_t control) -> config_space& {
  put16(acs_at, 0x000d);
  put16(acs_at + 2, 0x0001);  // version 1, the last
  put16(acs_at + 4, capabilities);
  put16(acs_at + 6, control);
  return *this;
}

auto config_space::bytes(reach limit) const -> std::string {
  return space_.substr(0, static_cast<std::size_t>(limit));
}

void config_space::put16(std::size_t at, std::uint16_t value) {
  space_[at] = static_cast<char>(value & 0xff);
  space_[at + 1] = static_cast<char>(value >> 8);
}

made_up_machine::made_up_machine() {
  std::string name = filesystem::temp_directory_path() / "dmabridge-machine-XXXXXX";
  root_ = ::mkdtemp(name.data());
  folder("sys/devices");
  folder("sys/bus/pci/devices");
}

made_up_machine::~made_up_machine() {
  filesystem::remove_all(root_);
}

void made_up_machine::folder(const std::string& path) const {
  filesystem::create_directories(root_ / path);
}

void made_up_machine::write(const std::string& file, const std::string& content) const {
  filesystem::create_directories((root_ / file).parent_path());
  std::ofstream(root_ / file, std::ios::binary) << content;
}

void made_up_machine::link(const std::string& path, const std::string& target) const {
  const auto from = root_ / path;
  filesystem::create_directories(from.parent_path());
  // Relative, as those in /sys are.
  filesystem::create_symlink(filesystem::relative(root_ / target, from.parent_path()), from);
}

void made_up_machine::forbid(const std::string& file) const {
  // Root may read everything; a folder in a file's place nobody can read as one.
  filesystem::remove(root_ / file);
  folder(file);
}

auto made_up_machine::add(const std::string& address, const made_up_function& function) const
    -> std::string {
  const auto own = fmt::format("{}/{}", function.parent, address);
  write(own + "/vendor", fmt::format("{:#06x}\n", function.vendor));
  write(own + "/device", fmt::format("{:#06x}\n", function.device));
  write(own + "/class", fmt::format("{:#08x}\n", function.class_code));
  write(own + "/revision", "0x00\n");
  write(own + "/irq", "0\n");
  write(own + "/subsystem_vendor", "0x0000\n");
  write(own + "/subsystem_device", "0x0000\n");
  write(own + "/config", function.config.bytes(function.reach));
  write(own + "/numa_node", fmt::format("{}\n", function.numa_node));
  write(own + "/dma_mask_bits", "64\n");
  auto resource = function.resource;
  for (auto lines = std::count(resource.begin(), resource.end(), '\n'); lines < 7; ++lines)
    resource += "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
  write(own + "/resource", resource);
  if (!function.driver.empty()) {
    folder("sys/bus/pci/drivers/" + function.driver);
    link(own + "/driver", "sys/bus/pci/drivers/" + function.driver);
  }
  if (function.iommu_group >= 0) {
    const auto group = fmt::format("sys/kernel/iommu_groups/{}", function.iommu_group);
    folder(group);
    link(own + "/iommu_group", group);
  }
  link("sys/bus/pci/devices/" + address, own);
  return own;
}

auto made_up_machine::roots() const -> machine_roots {
  return {.sys = root_ / "sys",
          .proc = root_ / "proc",
          .boot = root_ / "boot",
          .modules = root_ / "lib/modules",
          .architecture = "x86_64",
          .encrypts_as_guest = false};
}

void write_plain_facts(const made_up_machine& machine) {
  machine.write("proc/sys/kernel/osrelease", "7.2.12-test\n");
  machine.write("proc/cmdline", "root=UUID=0f quiet iommu=pt BOOTIF=01-00-a0-c9-11-22-33\n");
  machine.write("proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n"
                "flags\t\t: fpu vme\n\nprocessor\t: 1\nvendor_id\t: other\n");
  machine.write("boot/config-7.2.12-test", "CONFIG_PCI=y\nCONFIG_PCI_P2PDMA=y\n");
  machine.folder("sys/firmware/acpi");
  machine.write("sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
}

}  // namespace dmabridge::test

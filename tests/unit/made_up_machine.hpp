// SPDX-License-Identifier: MIT
// A machine made of files, for those who read /sys and /proc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "dmabridge/pci_address.hpp"
#include "machine_roots.hpp"

namespace dmabridge::test {

// The configuration space of a function.
class config_space {
 public:
  enum class reach : std::uint16_t { hidden = 64, conventional = 256, whole = 4096 };

  explicit config_space(std::uint8_t header_type = 0);

  auto command(std::uint16_t value) -> config_space&;
  // PCI Express capability with this type of port.
  auto express(unsigned type) -> config_space&;
  auto acs(std::uint16_t capabilities, std::uint16_t control) -> config_space&;
  // As much of it as the caller may read.
  auto bytes(reach limit) const -> std::string;

 private:
  void put16(std::size_t at, std::uint16_t value);

  std::string space_;
};

struct made_up_function {
  std::string parent{};  // folder of the function or root bus above, below sys/devices
  std::uint16_t vendor = 0x1af4;
  std::uint16_t device = 0x1110;
  std::uint32_t class_code = 0x050000;
  config_space config = config_space();
  config_space::reach reach = config_space::reach::whole;
  std::string resource{};  // lines of the file of that name
  std::string driver{};
  int numa_node = -1;
  int iommu_group = -1;
};

class made_up_machine {
 public:
  made_up_machine();
  made_up_machine(const made_up_machine&) = delete;
  auto operator=(const made_up_machine&) -> made_up_machine& = delete;
  ~made_up_machine();

  // Below the machine's root: "proc/cpuinfo". Folders are made as needed.
  void write(const std::string& file, const std::string& content) const;
  void folder(const std::string& path) const;
  // Both below the root.
  void link(const std::string& path, const std::string& target) const;
  void forbid(const std::string& file) const;

  // Returns its folder, "sys/devices/pci0000:00/0000:00:01.0".
  auto add(const std::string& address, const made_up_function& function) const -> std::string;

  auto roots() const -> machine_roots;
  auto path() const -> std::string { return root_; }

 private:
  std::filesystem::path root_;
};

// What an x86 machine of today says without being asked twice.
void write_plain_facts(const made_up_machine& machine);

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// What a machine is made of, as far as it decides who can reach whose memory. Plain data: read from
// this machine (read_topology()), or from a recording of another (recording.hpp), and the same from
// there on. What could not be read is absent here and named in topology::unread; it is never
// guessed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dmabridge/api.hpp"
#include "dmabridge/pci_address.hpp"

namespace dmabridge {

// What kind of port a PCI function is, by its PCI Express capability.
enum class pci_port : std::uint8_t {
  unknown,     // the capability was not readable
  endpoint,    // also one that is integrated in the root complex, and a conventional device
  root,        // PCIe root port
  upstream,    // of a switch, towards the root
  downstream,  // of a switch, towards a device
  bridge,      // any other bridge: PCIe to PCI or back, conventional, host bridge
};

// A bridge's Access Control Services (PCIe 7.7.11), or that it has none.
struct pci_acs {
  bool present = false;
  std::uint16_t capabilities = 0;
  std::uint16_t control = 0;

  auto operator==(const pci_acs&) const -> bool = default;
};

struct pci_bar {
  unsigned number = 0;      // 0 to 5
  std::uint64_t start = 0;  // CPU address, as in sysfs; 0: not assigned
  std::uint64_t size = 0;   // bytes
  bool prefetchable = false;

  auto operator==(const pci_bar&) const -> bool = default;
};

struct pci_function {
  pci_address address{};
  std::optional<pci_address> parent{};  // the bridge above; nothing: it is on a root bus
  // Of an SR-IOV virtual function: the physical one. Its parent is that one's, whatever its bus.
  std::optional<pci_address> physical{};
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint32_t class_code = 0;  // 24 bits
  pci_port port = pci_port::unknown;
  std::optional<pci_acs>
      acs{};             // nothing: not readable. Asked of bridges and of multi-function devices
  std::string driver{};  // empty: none
  std::optional<int> numa_node{};
  std::optional<std::uint32_t> iommu_group{};
  std::optional<unsigned> dma_mask_bits{};
  std::optional<bool> memory_enabled{};  // answers to accesses to its BARs
  std::vector<pci_bar> bars{};

  auto operator==(const pci_function&) const -> bool = default;
};

// How the devices of an IOMMU group are translated (sysfs: iommu_groups/N/type).
enum class iommu_domain : std::uint8_t {
  unknown,
  identity,
  strict,  // "DMA"
  lazy,    // "DMA-FQ"
  blocked,
  unmanaged,  // vfio and the like
};

enum class block_kind : std::uint8_t { disk, partition, md, dm, loop, multipath, other };

// A block device. A disk has a function behind it; what is stacked has legs, by name.
struct block_node {
  std::string name{};  // as in /dev
  block_kind kind = block_kind::other;
  std::string disk{};               // of a partition: the disk that it is of
  std::vector<std::string> legs{};  // of md, dm, loop, multipath
  std::string level{};  // of md: "raid1"; of dm: its kind as its uuid tells, "LVM", "CRYPT"
  std::optional<pci_address> function{};
  // Of NVMe and others without a driver of their own: the function's. "nvme-tcp" and the like over
  // fabrics; "virtio_blk", "sd".
  std::string driver{};
  std::optional<bool> stable_writes{};
  std::optional<bool> integrity{};
  std::optional<std::uint64_t> size{};  // bytes

  auto operator==(const block_node&) const -> bool = default;
};

struct rdma_node {
  std::string name{};  // "mlx5_0"
  std::optional<pci_address> function{};
  std::string driver{};   // "mlx5_core", "rdma_rxe", "siw"
  bool software = false;  // it touches memory by the CPU
  std::vector<std::string> netdevs{};

  auto operator==(const rdma_node&) const -> bool = default;
};

struct drm_node {
  std::string card{};    // "card0"; empty: there is none
  std::string render{};  // "renderD128"
  std::optional<pci_address> function{};
  std::string driver{};

  auto operator==(const drm_node&) const -> bool = default;
};

struct net_node {
  std::string name{};
  std::optional<pci_address> function{};
  std::string driver{};

  auto operator==(const net_node&) const -> bool = default;
};

struct machine_facts {
  std::string kernel{};  // uname -r
  std::string architecture{};
  std::string command_line{};  // of it, what concerns PCI, IOMMU, memory, modules and their drivers
  std::string cpu_vendor{};    // "AuthenticAMD"
  std::optional<unsigned> cpu_family{};
  std::optional<bool> config_p2pdma{};      // CONFIG_PCI_P2PDMA
  std::optional<std::string> hypervisor{};  // empty: none; "unknown": there is one
  std::optional<bool> memory_encryption{};  // SEV, TDX, SME
  std::optional<bool> secure_boot{};
  std::optional<std::string> lockdown{};  // "none", "integrity", "confidentiality"

  auto operator==(const machine_facts&) const -> bool = default;
};

// A fact that was asked for and not had.
struct unread_fact {
  std::string what{};    // "ACS of bridge 0000:00:01.0"
  std::string why{};     // "its extended configuration space is for root"
  std::string remedy{};  // "run this as root"; empty: there is none

  auto operator==(const unread_fact&) const -> bool = default;
};

// Pairs of functions that the administrator keeps from P2P, as in
// /sys/module/dmabridge/parameters/deny.
struct denied_pair {
  pci_address one{};
  std::optional<pci_address> other{};  // nothing: with anyone

  auto operator==(const denied_pair&) const -> bool = default;
};

struct DMABRIDGE_API topology {
  machine_facts machine{};
  std::vector<pci_function> functions{};  // ascending by address
  std::map<std::uint32_t, iommu_domain> iommu_groups{};
  std::vector<block_node> blocks{};
  std::vector<rdma_node> rdma{};
  std::vector<drm_node> drm{};
  std::vector<net_node> nets{};
  std::vector<denied_pair> denied{};
  std::vector<unread_fact> unread{};

  auto operator==(const topology&) const -> bool = default;

  // nullptr: there is none. Logarithmic; functions have to be in order.
  auto find(const pci_address& address) const noexcept -> const pci_function*;
  auto find_block(std::string_view name) const noexcept -> const block_node*;
  auto find_rdma(std::string_view name) const noexcept -> const rdma_node*;
  // By card or render node.
  auto find_drm(std::string_view name) const noexcept -> const drm_node*;
  auto find_net(std::string_view name) const noexcept -> const net_node*;
};

// This machine, as far as the caller may read it. Never fails for a fact that is missing: that is
// in topology::unread. Throws dmabridge::error if there is no /sys at all.
DMABRIDGE_API auto read_topology() -> topology;

}  // namespace dmabridge

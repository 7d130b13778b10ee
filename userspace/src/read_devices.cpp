// SPDX-License-Identifier: MIT
#include "read_devices.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <string_view>

#include "sysfs.hpp"

namespace dmabridge {
namespace {

auto driver_of(const std::string& device) -> std::string {
  return link_name(device + "/driver");
}

// PCI drivers of RDMA devices that reach memory by DMA of their own.
constexpr auto dma_drivers = std::to_array<std::string_view>(
    {"mlx5_core", "mlx4_core",      "ib_mthca", "bnxt_en",    "bnxt_re", "ice",
     "i40e",      "idpf",           "irdma",    "cxgb4",      "efa",     "erdma",
     "hns3",      "hns_roce_hw_v2", "hns_roce", "ionic",      "mana",    "be2net",
     "qede",      "vmw_pvrdma",     "enic",     "usnic_verbs"});
// And of those where the CPU copies, as rdmavt does.
constexpr auto copying_drivers = std::to_array<std::string_view>({"hfi1", "ib_qib"});

// Sets the driver and whether it is software, which may stand below the function of the network
// card that it borrows. Of a subfunction the driver is its function's. False: cannot tell.
auto classify(const machine_roots& roots, const std::string& folder, rdma_node& made) -> bool {
  const auto description = read_file(folder + "/node_desc").text.value_or("");
  made.software = true;
  if (exists(folder + "/parent")) {
    made.driver = "rdma_rxe";
    return true;
  }
  if (description == "Software iWARP stack") {
    made.driver = "siw";
    return true;
  }
  if (!made.function) {
    made.driver = driver_of(folder + "/device");
    return true;
  }
  made.driver = driver_of(roots.sys + "/bus/pci/devices/" + to_string(*made.function));
  if (std::ranges::find(copying_drivers, made.driver) != copying_drivers.end()) return true;
  made.software = false;
  return std::ranges::find(dma_drivers, made.driver) != dma_drivers.end();
}

auto netdevs_of(const std::string& folder) -> std::vector<std::string> {
  std::vector<std::string> netdevs;
  for (const auto& port : names_in(folder + "/ports")) {
    const auto entries = folder + "/ports/" + port + "/gid_attrs/ndevs";
    for (const auto& index : names_in(entries)) {
      const auto name = read_file(entries + "/" + index);
      if (!name || name.text->empty()) continue;
      if (std::ranges::find(netdevs, *name.text) == netdevs.end()) netdevs.push_back(*name.text);
    }
  }
  if (const auto parent = read_file(folder + "/parent"); netdevs.empty() && parent)
    netdevs.push_back(*parent.text);
  return netdevs;
}

auto is_numbered(std::string_view name, std::string_view prefix) -> bool {
  return name.starts_with(prefix) && name.size() > prefix.size() &&
         name.find_first_not_of("0123456789", prefix.size()) == std::string_view::npos;
}

}  // namespace

void read_rdma(const machine_roots& roots, topology& machine) {
  for (const auto& name : names_in(roots.sys + "/class/infiniband")) {
    const auto folder = roots.sys + "/class/infiniband/" + name;
    rdma_node made{.name = name, .function = function_of(folder), .netdevs = netdevs_of(folder)};
    if (!classify(roots, folder, made)) {
      // Whoever takes it for hardware has to look at this first.
      machine.unread.push_back({.what = fmt::format("whether {} reaches memory by DMA", name),
                                .why = fmt::format("its driver ({}) is none that is known here",
                                                   made.driver.empty() ? "none" : made.driver),
                                .remedy = {}});
    }
    machine.rdma.push_back(std::move(made));
  }
}

void read_nets(const machine_roots& roots, topology& machine) {
  for (const auto& name : names_in(roots.sys + "/class/net")) {
    const auto device = roots.sys + "/class/net/" + name + "/device";
    // Bridges, tunnels and the like have no device.
    if (!exists(device)) continue;
    net_node made{.name = name, .function = function_of(device), .driver = driver_of(device)};
    machine.nets.push_back(std::move(made));
  }
}

void read_drm(const machine_roots& roots, topology& machine) {
  // Card and render node of one device.
  std::map<std::string, drm_node> devices;
  for (const auto& name : names_in(roots.sys + "/class/drm")) {
    const auto card = is_numbered(name, "card");
    if (!card && !is_numbered(name, "renderD")) continue;
    const auto device = roots.sys + "/class/drm/" + name + "/device";
    std::error_code ec;
    const auto path = std::filesystem::canonical(device, ec).string();
    auto& made = devices[ec ? name : path];
    (card ? made.card : made.render) = name;
    made.function = function_of(device);
    made.driver = driver_of(device);
  }
  for (auto& [device, made] : devices) machine.drm.push_back(std::move(made));
  std::ranges::sort(machine.drm, {},
                    [](const auto& node) { return std::pair(node.card, node.render); });
}

}  // namespace dmabridge

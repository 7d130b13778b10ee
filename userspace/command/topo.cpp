// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <ostream>

#include "devices.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/recording.hpp"
#include "dmabridge/size.hpp"
#include "dot.hpp"
#include "json.hpp"
#include "machine.hpp"
#include "matrix.hpp"
#include "memory.hpp"
#include "subcommands.hpp"
#include "unread.hpp"

namespace dmabridge::command {
namespace {

constexpr auto proximity_legend =
    "  X     itself\n"
    "  PIX   at most one PCIe bridge between them\n"
    "  PXB   several PCIe bridges, no host bridge\n"
    "  PHB   a PCIe host bridge\n"
    "  NODE  several host bridges of one NUMA node\n"
    "  SYS   the link between NUMA nodes\n"
    "  ?     not known\n";
constexpr auto p2p_legend =
    "  yes   below one switch or root port: the bytes stay there\n"
    "  hb    through a host bridge that the kernel lets peers through\n"
    "  no    not peer to peer; dmabridge explain ROW COLUMN says why, and what would help\n"
    "  ?     what decides could not be read\n"
    "  *     as far as the path goes: something else could not be read, explain says what\n";

auto joined(const std::vector<std::string>& names) -> std::string {
  std::string list;
  for (const auto& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

auto heading(const machine_view& view) -> std::string {
  const auto& facts = view.facts.machine;
  const auto or_unknown = [](const std::string& text) {
    return text.empty() ? std::string("unknown") : printable(text);
  };
  auto text = fmt::format("machine     {}\n", view.is_here() ? "this one" : "of " + view.file);
  text += fmt::format("kernel      {}, PCI P2PDMA {}\n", or_unknown(facts.kernel),
                      !facts.config_p2pdma   ? "unknown"
                      : *facts.config_p2pdma ? "built in"
                                             : "not built in: nothing is peer to peer");
  text += fmt::format("CPU         {}{}\n", or_unknown(facts.cpu_vendor),
                      facts.cpu_family ? fmt::format(", family {}", *facts.cpu_family) : "");
  if (facts.hypervisor && !facts.hypervisor->empty()) {
    text += fmt::format(
        "guest       of {}: how the host routes its own buses cannot be seen from here\n",
        *facts.hypervisor == "unknown" ? "an unknown hypervisor" : printable(*facts.hypervisor));
  }
  if (!view.module) text += fmt::format("module      {}\n", printable(view.why_no_module));
  return text;
}

auto description(const device& entry) -> std::string {
  auto text = joined(entry.names);
  if (entry.memory != nullptr && has_p2p_row(entry)) {
    text += fmt::format("{}BAR {}, {}", text.empty() ? "" : "; ", entry.memory->number,
                        format_size(entry.memory->size));
  }
  return printable(text);
}

auto device_table(const topology& machine, std::span<const device> devices) -> std::string {
  auto text = fmt::format("{:<10}{:<14}{:<6}{:<7}{:<15}{}\n", "device", "function", "NUMA", "IOMMU",
                          "driver", "what");
  for (const auto& entry : devices) {
    const auto* function = machine.find(entry.function);
    const auto number = [](const auto& value) {
      return value ? std::to_string(*value) : std::string("-");
    };
    const auto what = description(entry);
    text += fmt::format("{:<10}{:<14}{:<6}{:<7}{:<15}{}\n", entry.label, to_string(entry.function),
                        number(function->numa_node), number(function->iommu_group),
                        entry.driver.empty() ? "-" : printable(entry.driver),
                        what.empty() ? "-" : what);
  }
  return text;
}

// What was looked for and not found: an empty table would leave a reader guessing.
auto absent(const machine_view& view, std::span<const device> devices) -> std::string {
  struct kind_of_device {
    device_kind kind;
    const char* missing;
  };
  constexpr auto kinds = std::to_array<kind_of_device>(
      {{device_kind::gpu, "no GPU: no DRM node, display controller or accelerator on PCI"},
       {device_kind::drive, "no drive on PCI: no NVMe function and no disk of a PCI function"},
       {device_kind::rdma, "no RDMA device on PCI"},
       {device_kind::net, "no network device on PCI without RDMA"}});
  std::string text;
  for (const auto& [kind, missing] : kinds) {
    if (std::ranges::find(devices, kind, &device::kind) == devices.end()) {
      text += fmt::format("  {}\n", missing);
    }
  }
  if (view.regions.empty()) {
    text += view.module ? "  no region of dmabridge: no driver exports memory to it (the generic "
                          "one, as root: modprobe dmabridge_pci)\n"
                        : fmt::format("  no region of dmabridge: {}\n", view.why_no_module);
  }
  return text;
}

auto without_function(std::span<const region_info> regions) -> std::string {
  std::string text;
  for (const auto& region : regions) {
    if (region.device) continue;
    text += fmt::format(
        "  region {} is on no PCI function: everybody reaches it as system memory\n", region.name);
  }
  return text;
}

auto machine_text(const machine_view& view, std::span<const device> devices,
                  std::optional<unsigned> columns) -> std::string {
  auto text = heading(view) + '\n';
  if (!devices.empty()) {
    text += device_table(view.facts, devices) + '\n' +
            to_text(proximity_rows(view.facts, devices), devices, "", columns) + '\n' +
            proximity_legend + '\n';
    const auto rows = p2p_rows(view.facts, devices);
    if (!rows.empty()) {
      text += "peer to peer: memory of the row, DMA by the column\n" +
              to_text(rows, devices, "", columns) + '\n' + p2p_legend;
      const auto has_ram = std::ranges::any_of(rows, [](const matrix_row& row) {
        return std::ranges::find(row.cells, "ram") != row.cells.end();
      });
      if (has_ram) text += "  ram   the RAM behind the BAR: no peer traffic, and no copy\n";
      text +=
          "  Rows without a region of dmabridge tell of the path alone: explain also looks at what "
          "the driver exports.\n\n";
    }
  }
  const auto missing = absent(view, devices) + without_function(view.regions);
  if (!missing.empty()) {
    text += fmt::format("looked for among {} PCI functions, and not found\n{}\n",
                        view.facts.functions.size(), missing);
  }
  const auto unread = to_text(view.facts.unread, "  ");
  if (!unread.empty()) text += "could not be read\n" + unread;
  while (text.ends_with("\n\n")) text.pop_back();
  return text;
}

auto machine_json(const machine_view& view, std::span<const device> devices) -> json {
  json object = {{"source", view.is_here() ? json(nullptr) : json(view.file)},
                 {"machine", to_json(view.facts.machine)},
                 {"functions", view.facts.functions.size()},
                 {"module", view.module.has_value()},
                 {"devices", json::array()},
                 {"proximity", json::object()},
                 {"p2p", json::object()},
                 {"unread", json::array()}};
  for (const auto& entry : devices) {
    object["devices"].push_back(to_json(entry, *view.facts.find(entry.function)));
  }
  for (const auto& row : proximity_rows(view.facts, devices)) {
    auto& cells = object["proximity"][devices[row.device].label] = json::object();
    for (std::size_t i = 0; i < devices.size(); ++i) cells[devices[i].label] = row.cells[i];
  }
  for (const auto& memory : devices) {
    if (!has_p2p_row(memory)) continue;
    auto& cells = object["p2p"][memory.label] = json::object();
    for (const auto& column : devices) {
      if (&column == &memory) continue;
      const auto answer = p2p_between(view.facts, memory, column);
      auto& cell = cells[column.label] = to_json(answer.path);
      cell["p2p"] = answer.cell;
      cell["verdict"] = to_json(answer.word);
    }
  }
  for (const auto& fact : view.facts.unread) object["unread"].push_back(to_json(fact));
  return object;
}

auto mark(const machine_view& view, std::span<const device> devices,
          const std::vector<std::string>& ends) -> marked_path {
  const auto memory = find_memory(view, devices, ends[0], 0, policy::prefer);
  const auto* labelled = find_device(devices, ends[1]);
  const auto importer = importer_named(
      view.facts, labelled != nullptr ? labelled->importer : ends[1], policy::prefer);
  if (!memory.facts.device || importer.functions.empty()) {
    throw error({.kind = error_kind::usage,
                 .attempted = fmt::format("mark the path from {} to {}", ends[0], ends[1]),
                 .detail = fmt::format("{} is on no PCI function",
                                       memory.facts.device ? ends[1] : ends[0])});
  }
  return {.memory = *memory.facts.device,
          .importer = importer.functions.front(),
          .path = find_path(view.facts, *memory.facts.device, importer.functions.front()),
          .word = negotiate(view.facts, memory.facts, std::array{importer}).importers.front()};
}

void write_recording(const topology& machine, const std::string& path, surroundings& around) {
  const auto text = record(machine);
  if (path == "-") {
    around.out() << text << (text.ends_with('\n') ? "" : "\n");
    return;
  }
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << (text.ends_with('\n') ? "" : "\n");
  file.close();
  if (!file) {
    throw error({.kind = error_kind::system,
                 .attempted = "write the recording to " + path,
                 .code = errno,
                 .remedies = {"name a file in a folder that you may write to, or - for the "
                              "standard output"}});
  }
  around.out() << fmt::format(
      "recorded {} PCI functions in {}, without serial numbers and MAC addresses\n",
      machine.functions.size(), path);
  if (!machine.unread.empty()) {
    around.out() << "not in it, as it could not be read\n" << to_text(machine.unread, "  ");
  }
}

}  // namespace

auto topo(const topo_arguments& wanted, surroundings& around) -> int {
  const auto view = view_machine(wanted.from, around);
  if (!wanted.record.empty()) {
    write_recording(view.facts, wanted.record, around);
    return exit_ok;
  }
  const auto devices = list_devices(view.facts, view.regions);
  if (wanted.dot) {
    std::optional<marked_path> marked;
    if (!wanted.path.empty()) marked = mark(view, devices, wanted.path);
    around.out() << to_dot(view.facts, devices, marked);
  } else if (wanted.json) {
    around.out() << dump(machine_json(view, devices));
  } else {
    around.out() << machine_text(view, devices, around.out_columns());
  }
  return exit_ok;
}

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#include "arguments.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>
#include <memory>
#include <sstream>

#include "dmabridge/size.hpp"

namespace dmabridge::command {
namespace {

constexpr auto load_examples =
    "Examples:\n"
    "  dmabridge load model.bin                       load, report how, release the buffer\n"
    "  dmabridge load model.bin --policy require      peer to peer, or nothing and why\n"
    "  dmabridge load model.bin --keep                for other processes, until Ctrl-C\n"
    "  dmabridge load model.bin -- ./train            ./train gets the buffer as fd "
    "$DMABRIDGE_BUFFER_FD\n"
    "  dmabridge load /dev/nvme0n1 --offset 1M --length 64M --region 0000:03:00.0\n"
    "  dmabridge load model.bin --into vulkan         by the best way into memory of a GPU's "
    "driver\n";
constexpr auto save_examples =
    "Examples:\n"
    "  dmabridge save out.bin --buffer pid:4711:5     a buffer that process 4711 has as fd 5\n"
    "  dmabridge save out.bin --buffer fd:3 --length 1000000\n"
    "  dmabridge save /dev/nvme0n1 --buffer fd:3 --offset 1M --force\n";
constexpr auto bench_rdma_examples =
    "Examples:\n"
    "  dmabridge bench rdma\n"
    "  dmabridge bench rdma --device mlx5_0 --region vram0 --policy require --size 256M\n";
constexpr auto info_examples =
    "Examples:\n"
    "  dmabridge info                                 all regions\n"
    "  dmabridge info --buffer pid:4711:5             where a buffer is, who uses it, and why\n"
    "  dmabridge info --json\n";
constexpr auto topo_examples =
    "Examples:\n"
    "  dmabridge topo                                 who is near whom, and who reaches whose "
    "memory\n"
    "  dmabridge topo --dot --path GPU0 nvme0n1 | dot -Tsvg >tree.svg\n"
    "  sudo dmabridge topo --record machine.json      to attach to a report, or to look at "
    "elsewhere\n"
    "  sudo lspci -D -nn -vvv >machine.txt; dmabridge topo --from machine.txt\n";
constexpr auto explain_examples =
    "Examples:\n"
    "  dmabridge explain GPU0 nvme0n1                 can the drive reach the GPU, and if not "
    "why?\n"
    "  dmabridge explain vram0 /mnt/data/model.bin --prove\n"
    "  dmabridge explain card0 nvme0n1 mlx5_0         both at once: one may move the buffer for "
    "all\n"
    "  dmabridge explain pid:4711:5 mlx5_0 --policy require\n"
    "  dmabridge explain --from machine.json 0000:17:00.0 0000:18:00.0\n";
constexpr auto from_help =
    "read the machine from FILE instead: what topo --record wrote,\n"
    "or the output of lspci -D -nn -vvv; - is the standard input";
constexpr auto buffer_help =
    "fd:N: inherited fd N; pid:PID:FD: fd number FD of process PID.\n"
    "Without it: fd:$DMABRIDGE_BUFFER_FD where that is set";
constexpr auto into_help =
    "allocate by another API: udmabuf, dma-heap[:HEAP], drm:NODE, vulkan[:NAME],\n"
    "cuda[:GPU], hip[:GPU], level-zero[:GPU]; needs no kernel module";
constexpr auto policy_help =
    "require: peer to peer or refuse; prefer (the default): peer to peer,\n"
    "else through system memory; forbid: never peer to peer";
constexpr auto for_help =
    "what drives and files are wanted for: read (as load does),\n"
    "write (as save does), or both (the default)";
constexpr auto help_help = "show this text";

// Names and values as a manual page has them; CLI11 adds its types, checks and rules.
class plain_formatter final : public CLI::Formatter {
 public:
  plain_formatter() { label("Positionals", "Arguments"); }

  auto make_option_opts(const CLI::Option* option) const -> std::string override {
    const auto type = option->get_type_name();
    return type.empty() || option->get_positional() ? "" : " " + type;
  }
};

auto size_of(const std::string& name, const std::string& text) -> std::uint64_t {
  const auto bytes = parse_size(text);
  if (!bytes) {
    throw CLI::ValidationError(
        name, fmt::format("\"{}\" is no size; write bytes, or 64K, 1M, 2GiB, 5MB …", text));
  }
  return *bytes;
}

template <typename Target>
void add_size(CLI::App& app, const std::string& name, Target& target, const std::string& help) {
  app.add_option_function<std::string>(
         name, [&target, name](const std::string& text) { target = size_of(name, text); }, help)
      ->type_name("SIZE");
}

// A whole number from 1 to `most`.
auto count_of(const std::string& name, const std::string& text, unsigned most) -> unsigned {
  unsigned count = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, ec] = std::from_chars(text.data(), end, count);
  if (ec != std::errc{} || rest != end || count == 0 || count > most) {
    throw CLI::ValidationError(name,
                               fmt::format("\"{}\" is no whole number from 1 to {}", text, most));
  }
  return count;
}

void add_count(CLI::App& app, const std::string& name, unsigned& target, unsigned most,
               const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [&target, name, most](const std::string& text) { target = count_of(name, text, most); },
         help)
      ->type_name("N");
}

void add_policy(CLI::App& app, policy& into) {
  app.add_option_function<std::string>(
         "--policy",
         [&into](const std::string& text) {
           const auto wanted = parse_policy(text);
           if (!wanted) {
             throw CLI::ValidationError(
                 "--policy", fmt::format("\"{}\" is none of require, prefer, forbid", text));
           }
           into = *wanted;
         },
         policy_help)
      ->type_name("POLICY");
}

void add_way(CLI::App& app, direction& into) {
  app.add_option_function<std::string>(
         "--for",
         [&into](const std::string& text) {
           if (text == "read") {
             into = direction::read;
           } else if (text == "write") {
             into = direction::write;
           } else if (text == "both") {
             into = direction::both;
           } else {
             throw CLI::ValidationError("--for",
                                        fmt::format("\"{}\" is none of read, write, both", text));
           }
         },
         for_help)
      ->type_name("USE");
}

void add_transfer(CLI::App& app, transfer_arguments& into) {
  app.add_flag("--json", into.json, "print one JSON object");
  add_size(app, "--offset", into.offset, "where to begin in the file or block device (default 0)");
  add_size(app, "--length", into.length, "how many bytes (default: all)");
  add_size(app, "--at", into.at, "where to begin in the buffer (default 0)");
  add_policy(app, into.policy);
  add_count(app, "--depth", into.depth, 4096, "commands in flight, 1 to 4096 (default 16)");
  app.add_option_function<std::string>(
         "--block-size",
         [&into](const std::string& text) {
           const auto bytes = size_of("--block-size", text);
           if (bytes == 0 || bytes > std::numeric_limits<std::uint32_t>::max()) {
             throw CLI::ValidationError("--block-size", "must be above 0 and below 4G");
           }
           into.block_size = static_cast<std::uint32_t>(bytes);
         },
         "bytes of one command (default 1M)")
      ->type_name("SIZE");
}

// CLI11's own words are "--policy: 1 required POLICY missing".
auto missing_value(const CLI::App& app, const CLI::ArgumentMismatch& stop) -> std::string {
  const std::string said = stop.what();
  const auto name = said.substr(0, said.find(':'));
  for (const auto* chosen = &app; !chosen->get_subcommands().empty();) {
    chosen = chosen->get_subcommands().front();
    const auto* option = chosen->get_option_no_throw(name);
    if (option == nullptr) continue;
    auto meaning = option->get_description();
    std::ranges::replace(meaning, '\n', ' ');
    return fmt::format("{} needs a value after it, {}: {}", name, option->get_type_name(), meaning);
  }
  return said;
}

// CLI11 would take what follows "--" for more files.
auto cut_successor(std::vector<std::string>& command_line)
    -> std::optional<std::vector<std::string>> {
  if (command_line.size() < 2 || command_line[1] != "load") return {};
  const auto dashes = std::ranges::find(command_line, "--");
  if (dashes == command_line.end()) return {};
  std::vector<std::string> successor(std::next(dashes), command_line.end());
  command_line.erase(dashes, command_line.end());
  return successor;
}

}  // namespace

auto parse(const std::vector<std::string>& command_line) -> arguments {
  auto own = command_line;
  const auto successor = cut_successor(own);

  CLI::App app(
      "Moves files between drives and GPU memory, peer to peer where the machine can, and "
      "says why where it cannot.",
      "dmabridge");
  // Subcommands inherit both.
  app.formatter(std::make_shared<plain_formatter>());
  app.set_help_flag("-h,--help", help_help);
  app.set_version_flag("--version", "dmabridge " DMABRIDGE_VERSION, "show the version");
  app.require_subcommand(0, 1);
  app.footer(
      "Manual pages: dmabridge(1), dmabridge-bench(1), dmabridge-explain(1), dmabridge-info(1),\n"
      "dmabridge-load(1), dmabridge-save(1), dmabridge-topo(1)");

  auto* bench_app =
      app.add_subcommand("bench", "measure what buffers cost, beside ordinary memory");
  bench_app->require_subcommand(1);
  bench_rdma_arguments bench_rdma;
  auto* bench_rdma_app = bench_app->add_subcommand(
      "rdma", "registrations, bandwidth and latency, between a device and itself");
  bench_rdma_app->add_flag("--json", bench_rdma.json, "print one JSON object");
  bench_rdma_app->add_option("--device", bench_rdma.device, "RDMA device (default: the only one)")
      ->type_name("DEVICE");
  bench_rdma_app
      ->add_option("--region", bench_rdma.region,
                   "allocate there: name, node or PCI address (default: the only one)")
      ->type_name("REGION");
  add_size(*bench_rdma_app, "--size", bench_rdma.size, "of the buffer (default 16M)");
  add_policy(*bench_rdma_app, bench_rdma.policy);
  add_count(*bench_rdma_app, "--turns", bench_rdma.turns, 1000,
            "of which the median is shown, 1 to 1000 (default 9)");
  bench_rdma_app->usage("Usage: dmabridge bench rdma [OPTION]...");
  bench_rdma_app->footer(bench_rdma_examples);

  explain_arguments explain;
  auto* explain_app = app.add_subcommand(
      "explain", "can these devices reach that memory peer to peer, and if not why");
  explain_app
      ->add_option("MEMORY", explain.memory,
                   "a region, a buffer (fd:N, pid:PID:FD), or a GPU or other PCI function")
      ->required();
  explain_app
      ->add_option("IMPORTER", explain.importers,
                   "who wants to reach it: a drive, file, RDMA device, GPU or PCI function")
      ->required();
  explain_app->add_flag("--json", explain.json, "print one JSON object");
  add_policy(*explain_app, explain.policy);
  add_way(*explain_app, explain.way);
  add_size(*explain_app, "--size", explain.size,
           "of the buffer to plan for, and how much --prove compares (default 1M)");
  auto* explain_from =
      explain_app->add_option("--from", explain.from, from_help)->type_name("FILE");
  explain_app
      ->add_flag("--prove", explain.prove,
                 "read from drives and files by the route and through system memory, and compare")
      ->excludes(explain_from);
  explain_app->usage("Usage: dmabridge explain [OPTION]... MEMORY IMPORTER...");
  explain_app->footer(explain_examples);

  info_arguments info;
  auto* info_app = app.add_subcommand("info", "show regions, and a buffer with all who use it");
  info_app->add_flag("--json", info.json, "print one JSON object");
  info_app->add_option("--region", info.region, "only this: its name, node or PCI address")
      ->type_name("REGION");
  info_app->add_option("--buffer", info.buffer, buffer_help)->type_name("SPEC");
  info_app->usage("Usage: dmabridge info [OPTION]...");
  info_app->footer(info_examples);

  load_arguments load;
  auto* load_app = app.add_subcommand("load", "load a file or block device into device memory");
  load_app->add_option("FILE", load.path, "file or block device to read")->required();
  auto* load_region =
      load_app
          ->add_option("--region", load.region,
                       "allocate there: name, node or PCI address (default: the only one)")
          ->type_name("REGION");
  auto* load_buffer = load_app->add_option("--buffer", load.buffer, buffer_help)->type_name("SPEC");
  load_buffer->excludes(load_region);
  load_app->add_option("--into", load.into, into_help)
      ->type_name("API")
      ->excludes(load_region)
      ->excludes(load_buffer);
  add_size(*load_app, "--size", load.size,
           "of the buffer to allocate (default: as much as is loaded)");
  load_app->get_option("--size")->excludes(load_buffer);
  add_transfer(*load_app, load);
  auto* keep = load_app->add_flag(
      "--keep", load.keep, "stay until SIGINT or SIGTERM, so that others can use the buffer");
  load_app->usage("Usage: dmabridge load [OPTION]... FILE [-- COMMAND ARG...]");
  load_app->footer(load_examples);

  save_arguments save;
  auto* save_app = app.add_subcommand("save", "save device memory to a file or block device");
  save_app->add_option("FILE", save.path, "file or block device to write")->required();
  save_app->add_option("--buffer", save.buffer, buffer_help)->type_name("SPEC");
  save_app->add_flag("--force", save.force, "replace a file that exists; write to a block device");
  add_transfer(*save_app, save);
  save_app->usage("Usage: dmabridge save [OPTION]... FILE");
  save_app->footer(save_examples);

  topo_arguments topo;
  auto* topo_app = app.add_subcommand(
      "topo", "show how GPUs, regions, drives and NICs are connected, and who reaches whom");
  auto* topo_json = topo_app->add_flag("--json", topo.json, "print one JSON object");
  auto* topo_dot = topo_app->add_flag("--dot", topo.dot, "print the PCI tree as a Graphviz graph");
  topo_dot->excludes(topo_json);
  topo_app
      ->add_option("--path", topo.path,
                   "mark the way from memory A to importer B, and what blocks it")
      ->type_name("A B")
      ->expected(2)
      ->needs(topo_dot);
  topo_app
      ->add_option("--record", topo.record,
                   "write the machine to FILE, for --from; - is the standard output")
      ->type_name("FILE")
      ->excludes(topo_json)
      ->excludes(topo_dot);
  topo_app->add_option("--from", topo.from, from_help)->type_name("FILE");
  topo_app->usage("Usage: dmabridge topo [OPTION]...");
  topo_app->footer(topo_examples);

  try {
    std::vector<std::string> reversed(own.rbegin(), own.rend());
    if (!reversed.empty()) reversed.pop_back();
    app.parse(reversed);
    if (app.get_subcommands().empty()) {
      throw CLI::ValidationError("subcommand",
                                 "one of bench, explain, info, load, save and topo is needed");
    }
    if (successor) {
      if (successor->empty()) throw CLI::ValidationError("--", "needs a COMMAND after it");
      if (*keep) throw CLI::ValidationError("--keep", "and -- COMMAND exclude each other");
      load.successor = *successor;
    }
  } catch (const CLI::ArgumentMismatch& stop) {
    return message{.text = missing_value(app, stop), .is_error = true};
  } catch (const CLI::ParseError& stop) {
    std::ostringstream out;
    std::ostringstream err;
    const auto is_error = app.exit(stop, out, err) != 0;
    return message{.text = is_error ? stop.what() : out.str(), .is_error = is_error};
  }
  if (*bench_rdma_app) return bench_rdma;
  if (*explain_app) return explain;
  if (*info_app) return info;
  if (*load_app) return load;
  if (*topo_app) return topo;
  return save;
}

}  // namespace dmabridge::command

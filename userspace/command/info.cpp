// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/stat.h>

#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dmabridge/control.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/region.hpp"
#include "dmabridge/size.hpp"
#include "held_buffers.hpp"
#include "machine.hpp"
#include "report.hpp"
#include "subcommands.hpp"

namespace dmabridge::command {
namespace {

auto yes_no(bool value) -> const char* {
  return value ? "yes" : "no";
}

auto line(std::string_view label, const std::string& text) -> std::string {
  return fmt::format("  {:<12}{}\n", label, text);
}

auto sized(std::uint64_t bytes) -> std::string {
  return fmt::format("{} ({} bytes)", format_size(bytes), bytes);
}

auto describe(const module_info& module) -> std::string {
  return fmt::format(
      "module: ABI {}, {} region(s), block importer: {}\n", module.abi_version, module.regions,
      module.block_importer ? "loaded" : "not loaded (as root: modprobe dmabridge_block)");
}

// Whose memory it is, and by which BAR it is seen.
auto origin(const region_info& region) -> std::string {
  const auto device = region.device ? to_string(*region.device) : std::string("no PCI device");
  switch (region.kind) {
    case region_kind::stolen:
      return fmt::format("system RAM behind BAR {} of {}", region.bar, device);
    case region_kind::system:
      return "ordinary system RAM, for " + device;
    default:
      return fmt::format("BAR {} of {}", region.bar, device);
  }
}

auto who_may_allocate(const region_info& region) -> const char* {
  if (region.unregistered) return "no, nobody may";
  return may_allocate(region) ? "yes" : "no, root and its group may";
}

auto state(const region_info& region) -> std::string {
  if (region.unregistered) {
    return "unregistered by its driver; here until nobody pins or maps its memory any more";
  }
  return region.suspended ? "suspended by its driver: no device memory is to be had for now"
                          : "in use";
}

// How much may be moved off the device at an importer's arrival.
auto move_limit(const region_info& region) -> std::string {
  if (region.kind == region_kind::system) return "nothing has to move: there is no device memory";
  if (region.has_engine) return "none: the device copies by itself";
  if (region.kind == region_kind::stolen) return "none: it is as fast as other RAM";
  return format_size(region.move_limit);
}

auto describe(const region_info& region) -> std::string {
  auto text = fmt::format("region {}\n", region.name);
  text +=
      line("node", fmt::format("{} (you may allocate: {})", region.node, who_may_allocate(region)));
  text += line("state", state(region));
  text += line("kind", fmt::format("{}, {}", to_string(region.kind), origin(region)));
  text += line("driver", region.driver);
  text += line("size", sized(region.size));
  text +=
      line("available", fmt::format("{}, {} buffer(s) allocated, limit {}", sized(region.available),
                                    region.buffers, format_size(region.limit)));
  if (region.quarantined != 0) {
    text += line("quarantine",
                 sized(region.quarantined) + ": freed, but pinned through user mappings still");
  }
  text += line("pages", region.has_pages ? "yes" : "no: block I/O cannot be peer to peer");
  text += line("unrevocable", region.takes_unrevocable ? "may have peer to peer" : "refused");
  text += line("move limit", move_limit(region));
  return text;
}

auto describe(const buffer_user& user, std::string_view title) -> std::string {
  auto text = fmt::format("  {} {} ({}{}{})\n", title, user.name, to_string(user.kind),
                          user.driver.empty() ? "" : ", driver " + user.driver,
                          user.device ? ", device " + to_string(*user.device) : "");
  const auto& word = user.verdict;
  text += fmt::format("    {:<12}{}, {} by the kernel (policy {}{})\n", "route",
                      to_string(word.route), to_string(word.state), to_string(user.policy),
                      word.distance ? fmt::format(", PCI distance {}", *word.distance) : "");
  text += fmt::format("    {:<12}{} (asked for: {}), can be revoked: {}, pinned: {}\n", "p2p",
                      user.p2p ? "granted" : "not granted", yes_no(user.peer2peer),
                      yes_no(user.revocable), yes_no(user.pinned));
  if (user.needs_system) text += fmt::format("    {:<12}system memory\n", "keeps it in");
  if (user.needs_device) text += fmt::format("    {:<12}device memory\n", "keeps it in");
  if (user.bounces) text += fmt::format("    {:<12}device memory by copies only\n", "reaches");
  for (const auto& why : word.reasons) text += format_reason(why, "    ", word.policy) + "\n";
  if (word.unreported != 0) {
    text += fmt::format("    and {} more reason(s) for which there was no room\n", word.unreported);
  }
  return text;
}

// Who keeps it off its device.
auto demoting(const buffer_info& buffer) -> std::string {
  std::string names;
  for (const auto& user : buffer.users) {
    if (user.needs_system) names += (names.empty() ? "" : ", ") + user.name;
  }
  return names;
}

auto describe(const buffer_info& buffer) -> std::string {
  std::string text;
  text += line("region", buffer.region);
  text += line("size", sized(buffer.size));
  text += line("placement", to_string(buffer.placement) +
                                (buffer.revoked ? ": revoked, its device is gone" : ""));
  if (const auto names = demoting(buffer); !names.empty()) {
    text += line("demoted by", names + ": see below why");
  }
  text += line("policy", to_string(buffer.policy));
  text += line("generation", fmt::format("{}, moved {} time(s)", buffer.generation, buffer.moves));
  if (buffer.last_move)
    text +=
        "  last moved for this\n" + format_reason(*buffer.last_move, "  ", policy::prefer) + "\n";
  for (const auto& run : buffer.chunks) {
    text +=
        line("chunk", fmt::format("{} bytes at offset {} of the region", run.length, run.offset));
  }
  if (buffer.users.empty()) text += line("users", "none");
  for (const auto& user : buffer.users) text += describe(user, "user");
  if (buffer.last_refused) text += describe(*buffer.last_refused, "refused");
  return text;
}

// A buffer that some process holds, as far as this one may look at it.
struct seen_buffer {
  held_buffer held{};
  std::optional<buffer_info> known{};
  std::string why_not{};  // nothing is known
};

auto look_at(const control& module, held_buffer held) -> seen_buffer {
  seen_buffer seen{.held = std::move(held)};
  for (const auto& who : seen.held.holders) {
    try {
      const auto memory = buffer::from_process(who.pid, who.descriptor);
      seen.known = module.query(memory.descriptor());
      return seen;
    } catch (const error& failure) {
      const auto& details = failure.details();
      seen.why_not = details.detail.empty() ? errno_text(details.code) : details.detail;
    }
  }
  return seen;
}

auto inode_of(const buffer& memory) -> std::optional<std::uint64_t> {
  struct stat found{};
  if (::fstat(memory.descriptor(), &found) != 0) return {};
  return found.st_ino;
}

// All but the one that is named, in the region that is, if there is one.
auto look_around(const control& module, census all, const std::optional<buffer>& named,
                 const std::string& region) -> std::vector<seen_buffer> {
  const auto known = named ? inode_of(*named) : std::nullopt;
  std::vector<seen_buffer> seen;
  for (auto& held : all.buffers) {
    if (known == held.inode) continue;
    auto found = look_at(module, std::move(held));
    if (!region.empty() && found.known && found.known->region != region) continue;
    seen.push_back(std::move(found));
  }
  return seen;
}

auto describe(const seen_buffer& seen) -> std::string {
  const auto& held = seen.held;
  std::string holders;
  for (const auto& who : held.holders) {
    holders +=
        fmt::format("{}{} ({})", holders.empty() ? "" : ", ", spec_of(who), printable(who.command));
  }
  auto text = fmt::format("buffer {}{}\n", spec_of(held.holders.front()),
                          held.name.empty() ? "" : fmt::format(", \"{}\"", printable(held.name)));
  text += line("held by", holders);
  if (seen.known) return text + describe(*seen.known);
  text += line("size", sized(held.size));
  text += line("not visible", seen.why_not + "; as root this shows more");
  return text;
}

auto describe_hidden(unsigned processes) -> std::string {
  if (processes == 0) return {};
  return fmt::format(
      "not visible: the buffers of {} process(es) of other users; as root this shows them too\n",
      processes);
}

auto seen_json(const seen_buffer& seen) -> json {
  auto object = to_json(seen.held);
  object["buffer"] = seen.known ? to_json(*seen.known) : json(nullptr);
  object["why_not_visible"] = seen.why_not;
  return object;
}

}  // namespace

auto info(const info_arguments& wanted, surroundings& around) -> int {
  const control module;
  auto regions = module.regions();
  std::string region_name;
  if (!wanted.region.empty()) {
    regions = {find_region(regions, wanted.region)};
    region_name = regions.front().name;
  }
  const auto memory = named_buffer(wanted.buffer, around);
  const auto known = memory ? std::optional(module.query(memory->descriptor())) : std::nullopt;
  // Who asks about one buffer is told about that one.
  auto all = wanted.buffer.empty() ? around.held_buffers() : census();
  const auto hidden = all.hidden;
  const auto others = look_around(module, std::move(all), memory, region_name);

  if (wanted.json) {
    const auto about = module.info();
    json object = {
        {"module", {{"abi_version", about.abi_version}, {"block_importer", about.block_importer}}},
        {"regions", json::array()}};
    for (const auto& region : regions) {
      object["regions"].push_back(to_json(region, may_allocate(region)));
    }
    if (known) object["buffer"] = to_json(*known);
    object["buffers"] = json::array();
    for (const auto& seen : others) object["buffers"].push_back(seen_json(seen));
    object["hidden_processes"] = hidden;
    around.out() << dump(object);
    return exit_ok;
  }
  around.out() << describe(module.info());
  for (const auto& region : regions) around.out() << describe(region);
  if (regions.empty()) {
    around.out()
        << "no region: no driver exports memory (the generic one: modprobe dmabridge_pci)\n";
  }
  if (known) {
    around.out() << fmt::format("buffer {}\n", wanted.buffer.empty() ? "inherited" : wanted.buffer)
                 << describe(*known);
  }
  for (const auto& seen : others) around.out() << describe(seen);
  around.out() << describe_hidden(hidden);
  return exit_ok;
}

}  // namespace dmabridge::command

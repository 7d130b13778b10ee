// SPDX-License-Identifier: MIT
#include "checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include "dmabridge/path.hpp"
#include "dmabridge/size.hpp"

namespace dmabridge::command {
namespace {

enum class scope : std::uint8_t { machine, memory, importer };

struct question {
  scope of = scope::importer;
  const char* subject = "other";
};

// Which question a reason answers. One that is new here is in "other", and so is never lost.
auto question_of(std::uint32_t code) -> question {
  switch (code) {
    case DMABRIDGE_REASON_KERNEL_NO_P2PDMA:
    case DMABRIDGE_REASON_NOT_MAPPABLE:
      return {scope::machine, "kernel"};
    case DMABRIDGE_REASON_MODULE_LOCKED_OUT:
    case DMABRIDGE_REASON_NO_IMPORTER:
      return {scope::machine, "module"};
    case DMABRIDGE_REASON_MEMORY_ENCRYPTION:
      return {scope::machine, "encryption"};
    case DMABRIDGE_REASON_VIRTUAL_MACHINE:
      return {scope::machine, "guest"};

    case DMABRIDGE_REASON_REVOKED:
    case DMABRIDGE_REASON_SUSPENDED:
    case DMABRIDGE_REASON_SYSTEM_REGION:
    case DMABRIDGE_REASON_FOREIGN_BUFFER:
    case DMABRIDGE_REASON_NO_DEVICE_MEMORY:
      return {scope::memory, "memory"};
    case DMABRIDGE_REASON_BAR_DISABLED:
    case DMABRIDGE_REASON_SMALL_BAR:
      return {scope::memory, "BAR"};
    case DMABRIDGE_REASON_NO_PAGES:
      return {scope::memory, "pages"};

    case DMABRIDGE_REASON_POLICY_FORBID:
    case DMABRIDGE_REASON_POLICY_CONFLICT:
      return {scope::importer, "policy"};
    case DMABRIDGE_REASON_STATIC_IMPORTER:
    case DMABRIDGE_REASON_NOT_PEER2PEER:
    case DMABRIDGE_REASON_NOT_REVOCABLE:
    case DMABRIDGE_REASON_NOT_PCI:
    case DMABRIDGE_REASON_EXPORTER_VETO:
    case DMABRIDGE_REASON_BY_CPU:
    case DMABRIDGE_REASON_QUEUE_NO_P2P:
    case DMABRIDGE_REASON_STACKED_DEVICE:
    case DMABRIDGE_REASON_STABLE_WRITES:
    case DMABRIDGE_REASON_FILESYSTEM_UNLISTED:
    case DMABRIDGE_REASON_FILE_NO_DIRECT_IO:
    case DMABRIDGE_REASON_FILE_ENCRYPTED:
    case DMABRIDGE_REASON_FILE_VERITY:
    case DMABRIDGE_REASON_FILE_REALTIME:
    case DMABRIDGE_REASON_TARGET_NOT_BLOCK:
    case DMABRIDGE_REASON_TARGET_READ_ONLY:
    case DMABRIDGE_REASON_TARGET_NOT_READABLE:
    case DMABRIDGE_REASON_TARGET_BUSY:
    case DMABRIDGE_REASON_LEG:
    case DMABRIDGE_REASON_RAID_WRITE:
      return {scope::importer, "importer"};
    case DMABRIDGE_REASON_NO_PATH:
    case DMABRIDGE_REASON_PATH_UNKNOWN:
    case DMABRIDGE_REASON_BROKEN_PATH:
      return {scope::importer, "path"};
    case DMABRIDGE_REASON_ACS_REDIRECT:
      return {scope::importer, "ACS"};
    case DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED:
      return {scope::importer, "host bridge"};
    case DMABRIDGE_REASON_DMA_MASK:
      return {scope::importer, "DMA mask"};
    case DMABRIDGE_REASON_DENIED:
      return {scope::importer, "deny list"};
    case DMABRIDGE_REASON_DEMOTED:
    case DMABRIDGE_REASON_HELD:
    case DMABRIDGE_REASON_MOVED:
    case DMABRIDGE_REASON_EVICTED:
      return {scope::importer, "other users"};
    case DMABRIDGE_REASON_NOT_MOVABLE:
    case DMABRIDGE_REASON_PINNED_BY_USER:
    case DMABRIDGE_REASON_PINNED_BY_IMPORTER:
    case DMABRIDGE_REASON_MOVE_LIMIT:
    case DMABRIDGE_REASON_NO_SYSTEM_MEMORY:
    case DMABRIDGE_REASON_COPY_FAILED:
    case DMABRIDGE_REASON_INTERRUPTED:
    case DMABRIDGE_REASON_IO_IN_FLIGHT:
      return {scope::importer, "move"};
    default:
      return {};
  }
}

auto status_of(const reason& why, const verdict& word) -> check_status {
  if (why.code == DMABRIDGE_REASON_PATH_UNKNOWN) return check_status::unknown;
  const auto blocks = why.blocks_p2p || why.blocks_move || !satisfies_require(word.route);
  return blocks ? check_status::blocked : check_status::ok;
}

auto answer_of(const reason& why, const verdict& word) -> check {
  auto evidence = why.text();
  if (const auto read = why.evidence(); !read.empty()) evidence += ": " + read;
  return {.subject = question_of(why.code).subject,
          .status = status_of(why, word),
          .evidence = std::move(evidence),
          .remedy = why.remedy(word.policy),
          .reasons = {why.id()}};
}

// Of a reason that is one only if a fact that could not be read speaks against P2P as well.
auto conditional(const reason& why, const verdict& word) -> check {
  auto answer = answer_of(why, word);
  answer.status = check_status::unknown;
  answer.evidence = "only if what is not known turns out badly: " + answer.evidence;
  answer.remedy.clear();
  return answer;
}

// Each once, whoever's they are.
class distinct_answers {
 public:
  void add(const reason& why, check answer) {
    if (std::ranges::find(seen_, why) != seen_.end()) return;
    seen_.push_back(why);
    answers.push_back(std::move(answer));
  }

  std::vector<check> answers;

 private:
  std::vector<reason> seen_;
};

// What the reasons of all importers answer to one question.
auto answers_to(std::string_view subject, const plan& joint) -> std::vector<check> {
  distinct_answers distinct;
  for (const auto& importer : joint.importers) {
    for (const auto& why : importer.word.reasons) {
      if (question_of(why.code).subject == subject) {
        distinct.add(why, answer_of(why, importer.word));
      }
    }
  }
  return std::move(distinct.answers);
}

// What changes no verdict, and may be true all the same.
auto caveats_of(std::string_view subject, const plan& joint) -> std::vector<check> {
  distinct_answers distinct;
  for (const auto& importer : joint.importers) {
    for (const auto& why : importer.caveats) {
      if (question_of(why.code).subject != subject) continue;
      auto answer = answer_of(why, importer.word);
      answer.status = check_status::unknown;
      distinct.add(why, std::move(answer));
    }
  }
  return std::move(distinct.answers);
}

void append(std::vector<check>& all, std::vector<check> more) {
  std::ranges::move(more, std::back_inserter(all));
}

auto to_check(const unread_fact& fact, const char* subject) -> check {
  return {.subject = subject,
          .status = check_status::unknown,
          .evidence = fmt::format("{} {} not known{}{}", fact.what,
                                  fact.what.starts_with("BARs") ? "are" : "is",
                                  fact.why.empty() ? "" : ": ", fact.why),
          .remedy = fact.remedy};
}

// A fact that is not there. What the reader of the topology noted of it says why, and how to get
// it.
auto as_noted(const topology& machine, unread_fact fact) -> unread_fact {
  const auto noted = std::ranges::find(machine.unread, fact.what, &unread_fact::what);
  return noted == machine.unread.end() ? std::move(fact) : *noted;
}

auto unread(const topology& machine, const char* subject, const std::string& what) -> check {
  return to_check(as_noted(machine, {.what = what}), subject);
}

// One that the plan lacks.
auto lacking(const topology& machine, const unread_fact& fact, const char* subject) -> check {
  auto answer = to_check(as_noted(machine, fact), subject);
  answer.reasons = {reason{.code = DMABRIDGE_REASON_PATH_UNKNOWN}.id()};
  return answer;
}

// Which question a missing fact would have answered, by how the library names it.
auto question_of(const unread_fact& fact) -> question {
  struct prefix {
    std::string_view begin;
    question about;
  };
  static constexpr auto prefixes = std::to_array<prefix>({
      {"kernel configuration", {scope::machine, "kernel"}},
      {"memory encryption", {scope::machine, "encryption"}},
      {"BARs of ", {scope::memory, "BAR"}},
      {"how driver ", {scope::importer, "importer"}},
      {"driver of ", {scope::importer, "importer"}},
      {"whether the data of ", {scope::importer, "importer"}},
      {"ACS of ", {scope::importer, "ACS"}},
      {"port type of ", {scope::importer, "host bridge"}},
      {"whether Linux ", {scope::importer, "host bridge"}},
      {"which host bridges ", {scope::importer, "host bridge"}},
      {"the host bridge of ", {scope::importer, "host bridge"}},
      {"the kernel's release", {scope::importer, "host bridge"}},
      {"the CPU's ", {scope::importer, "host bridge"}},
      {"the kernel's word on ", {scope::importer, "confirmation"}},
      {"whether exporter ", {scope::importer, "exporter"}},
      {"IOMMU group ", {scope::importer, "IOMMU"}},
      {"DMA mask of ", {scope::importer, "DMA mask"}},
  });
  const auto found = std::ranges::find_if(
      prefixes, [&](const prefix& each) { return fact.what.starts_with(each.begin); });
  return found != prefixes.end() ? found->about : question{scope::importer, "path"};
}

auto is_unread(const topology& machine, const std::string& what) -> bool {
  return std::ranges::find(machine.unread, what, &unread_fact::what) != machine.unread.end();
}

auto kernel_check(const topology& machine) -> check {
  const auto& facts = machine.machine;
  if (!facts.config_p2pdma) return unread(machine, "kernel", "kernel configuration");
  if (*facts.config_p2pdma) {
    return {.subject = "kernel",
            .evidence = fmt::format("Linux {} is built with CONFIG_PCI_P2PDMA", facts.kernel)};
  }
  return answer_of({.code = DMABRIDGE_REASON_KERNEL_NO_P2PDMA,
                    .blocks_p2p = true,
                    .device = {},
                    .name = facts.kernel},
                   {});
}

auto module_check(const machine_view& machine) -> check {
  if (!machine.module) {
    return {.subject = "module",
            .status = check_status::unknown,
            .evidence = machine.why_no_module + ": what follows is predicted",
            .remedy = machine.how_to_get_module};
  }
  return {.subject = "module",
          .evidence = fmt::format("dmabridge answers, ABI {}, {} region(s)",
                                  machine.module->abi_version(), machine.regions.size())};
}

auto encryption_check(const topology& machine) -> check {
  if (!machine.machine.memory_encryption) {
    return unread(machine, "encryption", "memory encryption");
  }
  return {.subject = "encryption", .evidence = "no memory encryption (SEV, TDX) is active"};
}

auto memory_check(const named_memory& memory) -> check {
  const auto& facts = memory.facts;
  check answer{.subject = "memory"};
  if (memory.is_foreign()) {
    answer.evidence = fmt::format("{}, which dmabridge does not export{}", facts.name,
                                  memory.no_region.empty() ? "" : ": " + memory.no_region);
    answer.status = memory.held ? check_status::ok : check_status::unknown;
    if (!memory.held) {
      answer.remedy =
          "name a buffer of it, give the function to dmabridge_pci (dmabridge(4)), or let its "
          "driver register the memory (dmabridge-drivers(7)); then the kernel can be asked";
    }
    return answer;
  }
  if (memory.region) {
    answer.evidence =
        fmt::format("{} of driver {}, kind {}, {} of {} available", facts.name,
                    memory.region->driver, to_string(facts.kind),
                    format_size(memory.region->available), format_size(memory.region->size));
    return answer;
  }
  answer.status = check_status::unknown;
  answer.evidence = memory.no_region;
  answer.remedy =
      "give the function to dmabridge_pci (dmabridge(4)), or let its driver register the memory "
      "(dmabridge-drivers(7)); then the kernel can be asked";
  return answer;
}

// What is known of another exporter; "unknown" where not all is that importers depend on.
auto exporter_check(const named_memory& memory) -> std::optional<check> {
  if (!memory.is_foreign()) return {};
  const auto& facts = memory.facts;
  const auto& rules = facts.rules;
  check answer{.subject = "exporter"};
  if (!rules.is_known()) {
    answer.status = check_status::unknown;
    answer.evidence =
        fmt::format("{} is an exporter that this program does not know", facts.foreign);
    answer.remedy =
        "see docs/gpu-support.md for those that it knows; dmabridge load tells what a transfer has "
        "come to";
    return answer;
  }
  answer.evidence = fmt::format(
      "{}: mapped by the CPU {}, pages of that pinned {}, mapped by the kernel {}, moved meanwhile "
      "{}, revoked {}",
      rules.what, to_string(rules.mappable), to_string(rules.pinnable), to_string(rules.vmap),
      to_string(rules.movable), to_string(rules.revocable));
  if (!rules.attach.empty()) {
    answer.evidence += fmt::format("; {}", rules.attach);
    return answer;
  }
  answer.status = check_status::unknown;
  answer.evidence += "; what it does with importers that attach is not known";
  answer.remedy =
      memory.held ? "name the device instead of the buffer, by its DRM node or PCI address"
                  : "let the importer attach: the tracepoint dma_buf:dma_buf_dynamic_attach tells "
                    "what it got";
  return answer;
}

auto bar_check(const topology& machine, const buffer_facts& facts) -> std::optional<check> {
  const auto* function = facts.device ? machine.find(*facts.device) : nullptr;
  if (function == nullptr || facts.kind == region_kind::system) return {};
  const auto bar = std::ranges::find(function->bars, facts.bar, &pci_bar::number);
  if (bar == function->bars.end()) {
    return unread(machine, "BAR", fmt::format("BARs of {}", to_string(function->address)));
  }
  return check{
      .subject = "BAR",
      .evidence = fmt::format("BAR {} of {} has {} at {:#x}", bar->number,
                              to_string(function->address), format_size(bar->size), bar->start)};
}

auto pages_check(const buffer_facts& facts) -> check {
  if (!facts.foreign.empty() && !facts.has_pages) {
    const auto is_known = facts.rules.bindable == answer::no;
    return {.subject = "pages",
            .status = is_known ? check_status::ok : check_status::unknown,
            .evidence = is_known ? "drives get no pages of it; nobody asked for needs them"
                                 : "whether drives get pages of it is not known",
            .remedy = is_known ? "" : "name a buffer of it, so that the kernel can be asked"};
  }
  return {.subject = "pages",
          .evidence = facts.has_pages
                          ? "the memory has struct pages, so drives can reach it"
                          : "the memory has no struct pages; nobody asked for needs them"};
}

auto importer_check(const importer_facts& importer) -> check {
  const auto* const manner =
      importer.is_static ? "its driver attaches once and for all"
      : importer.pins    ? "its driver pins the buffer where it is, and asks for peer to peer"
                         : "its driver follows a buffer that moves, and asks for peer to peer";
  switch (importer.kind) {
    case importer_kind::block:
    case importer_kind::file:
      return {.subject = "importer", .evidence = "its disk's driver takes peer-to-peer memory"};
    case importer_kind::rdma:
    case importer_kind::gpu:
      return {.subject = "importer", .evidence = manner};
    case importer_kind::pci:
      break;
  }
  return {.subject = "importer",
          .evidence =
              "judged as a function whose driver follows a buffer that moves, and asks for "
              "peer to peer"};
}

auto addresses(const std::vector<pci_address>& list, const char* separator) -> std::string {
  std::string text;
  for (const auto& address : list) text += (text.empty() ? "" : separator) + to_string(address);
  return text;
}

auto ancestors(const topology& machine, const pci_address& of) -> std::set<pci_address> {
  std::set<pci_address> all;
  for (const auto* function = machine.find(of); function != nullptr && function->parent;
       function = machine.find(*function->parent)) {
    all.insert(*function->parent);
  }
  return all;
}

// Whether some bridge is above both: only then can traffic stay below the root.
auto meet_below_root(const topology& machine, const pci_address& one, const pci_address& other)
    -> bool {
  const auto above = ancestors(machine, one);
  return std::ranges::any_of(ancestors(machine, other),
                             [&](const pci_address& bridge) { return above.contains(bridge); });
}

auto path_check(const pci_path& path, const pci_address& memory, const pci_address& function)
    -> check {
  auto way = path.bridges.empty()
                 ? std::string("no bridge between")
                 : fmt::format("by bridge{} {}", path.bridges.size() == 1 ? "" : "s",
                               addresses(path.bridges, ", "));
  return {
      .subject = "path",
      .status = path.answer == path_answer::unknown ? check_status::unknown : check_status::ok,
      .evidence = fmt::format("{} to {}: {}, {}{}", to_string(memory), to_string(function),
                              to_string(path.distance_class), way,
                              path.distance ? fmt::format(", distance {}", *path.distance) : "")};
}

auto acs_remedy(const pci_path& path) -> std::string {
  std::vector<reason> redirects;
  for (const auto& bridge : path.redirecting) {
    redirects.push_back({.code = DMABRIDGE_REASON_ACS_REDIRECT, .device = bridge});
  }
  const auto all = remedies(redirects, policy::prefer);
  return all.empty() ? std::string() : all.front();
}

// Nothing: it is among the facts that are missing.
auto acs_check(const topology& machine, const pci_path& path, const pci_address& memory,
               const pci_address& function) -> std::optional<check> {
  check answer{.subject = "ACS"};
  if (!meet_below_root(machine, memory, function)) {
    answer.evidence = "no bridge is above both, so ACS does not decide";
    return answer;
  }
  if (!path.redirecting.empty()) {
    const auto passes = path.answer == path_answer::host_bridge;
    std::string controls;
    for (const auto& bridge : path.redirecting) {
      const auto* read = machine.find(bridge);
      controls += fmt::format(
          "{}{}{}", controls.empty() ? "" : ", ", to_string(bridge),
          read != nullptr && read->acs ? fmt::format(" (control {:#x})", read->acs->control) : "");
    }
    answer.status = passes ? check_status::ok : check_status::blocked;
    answer.evidence = fmt::format(
        "redirected up to the host bridge by {}{}", controls,
        passes ? ", which lets it through: a longer way, and slower on most machines" : "");
    answer.remedy = acs_remedy(path);
    answer.reasons = {"acs_redirect"};
    return answer;
  }
  const auto unread = std::ranges::any_of(path.missing, [](const unread_fact& fact) {
    return std::string_view(question_of(fact).subject) == "ACS";
  });
  if (unread) return {};
  answer.evidence = "nothing on the way redirects";
  return answer;
}

auto host_bridge_check(const topology& machine, const pci_path& path) -> std::optional<check> {
  switch (path.answer) {
    case path_answer::bus:
      return check{.subject = "host bridge", .evidence = "the traffic does not get that far"};
    case path_answer::host_bridge:
      return check{
          .subject = "host bridge",
          .evidence = fmt::format(
              "the kernel lets peers through (CPU {}{})",
              machine.machine.cpu_vendor.empty() ? "unknown" : machine.machine.cpu_vendor,
              machine.machine.cpu_family ? fmt::format(" family {}", *machine.machine.cpu_family)
                                         : "")};
    default:
      return {};
  }
}

auto domain_name(iommu_domain domain) -> const char* {
  switch (domain) {
    case iommu_domain::identity:
      return "does not translate";
    case iommu_domain::strict:
      return "translates (strict)";
    case iommu_domain::lazy:
      return "translates (lazy)";
    case iommu_domain::blocked:
      return "blocks all DMA";
    case iommu_domain::unmanaged:
      return "is managed by user space";
    case iommu_domain::unknown:
      break;
  }
  return "translates in a way that could not be read";
}

auto iommu_check(const topology& machine, const pci_path& path, const pci_function& importer)
    -> check {
  check answer{.subject = "IOMMU"};
  if (!importer.iommu_group) {
    // A source that does not tell the kernel's release tells nothing of this either.
    if (machine.machine.kernel.empty()) return unread(machine, "IOMMU", "IOMMU group");
    answer.evidence = machine.iommu_groups.empty()
                          ? "none is in use"
                          : fmt::format("{} is behind none", to_string(importer.address));
    return answer;
  }
  const auto group = machine.iommu_groups.find(*importer.iommu_group);
  const auto domain = group != machine.iommu_groups.end() ? group->second : iommu_domain::unknown;
  answer.evidence = fmt::format(
      "group {} {}{}", *importer.iommu_group, domain_name(domain),
      path.answer == path_answer::bus ? "; traffic inside a switch does not reach it" : "");
  if (domain == iommu_domain::unknown) {
    answer.status = check_status::unknown;
    answer.remedy =
        unread(machine, "IOMMU", fmt::format("IOMMU group {}'s domain type", *importer.iommu_group))
            .remedy;
  }
  return answer;
}

auto mask_check(const pci_function& importer) -> std::optional<check> {
  if (!importer.dma_mask_bits) return {};
  return check{.subject = "DMA mask",
               .evidence = fmt::format("{} addresses {} bits", to_string(importer.address),
                                       *importer.dma_mask_bits)};
}

auto deny_check(const machine_view& machine, const named_memory& memory) -> std::optional<check> {
  // Other exporters do not ask dmabridge.
  if (memory.is_foreign()) return {};
  if (is_unread(machine.facts, "deny list")) {
    return unread(machine.facts, "deny list", "deny list");
  }
  if (!machine.module) return {};
  return check{.subject = "deny list", .evidence = "the administrator does not deny this pair"};
}

auto path_checks(const topology& machine, const pci_path& path, const pci_address& memory,
                 const pci_address& importer) -> std::vector<check> {
  std::vector<check> all;
  all.push_back(path_check(path, memory, importer));
  if (auto acs = acs_check(machine, path, memory, importer)) all.push_back(std::move(*acs));
  if (auto bridge = host_bridge_check(machine, path)) all.push_back(std::move(*bridge));
  const auto* function = machine.find(importer);
  if (function == nullptr) return all;
  all.push_back(iommu_check(machine, path, *function));
  if (auto mask = mask_check(*function)) all.push_back(std::move(*mask));
  return all;
}

// The order in which the questions about an importer matter.
auto rank_of(std::string_view subject) -> std::ptrdiff_t {
  static constexpr auto order = std::to_array<std::string_view>(
      {"importer", "policy", "exporter", "path", "ACS", "host bridge", "IOMMU", "DMA mask",
       "deny list", "other users", "move", "confirmation"});
  return std::ranges::find(order, subject) - order.begin();
}

// The legs of a disk have much in common.
void drop_repeats(std::vector<check>& all) {
  const auto is_said = [](std::span<const check> before, const check& answer) {
    return std::ranges::any_of(before, [&](const check& one) {
      return one.subject == answer.subject && one.status == answer.status &&
             one.evidence == answer.evidence && one.remedy == answer.remedy;
    });
  };
  std::vector<check> kept;
  for (auto& answer : all) {
    if (!is_said(kept, answer)) kept.push_back(std::move(answer));
  }
  all = std::move(kept);
}

auto has_subject(const std::vector<check>& all, std::string_view subject) -> bool {
  return std::ranges::find(all, subject, &check::subject) != all.end();
}

}  // namespace

auto to_string(check_status status) -> std::string {
  switch (status) {
    case check_status::ok:
      return "ok";
    case check_status::blocked:
      return "blocked";
    case check_status::unknown:
      return "unknown";
  }
  return "unknown";
}

auto machine_checks(const machine_view& machine, const plan& joint) -> std::vector<check> {
  std::vector<check> all;
  const auto ask = [&](const char* subject, check otherwise) {
    auto answers = answers_to(subject, joint);
    if (answers.empty()) answers.push_back(std::move(otherwise));
    append(all, std::move(answers));
  };
  ask("kernel", kernel_check(machine.facts));
  ask("module", module_check(machine));
  // One that is there got in.
  if (!machine.module) append(all, caveats_of("module", joint));
  ask("encryption", encryption_check(machine.facts));
  append(all, caveats_of("guest", joint));
  return all;
}

auto memory_checks(const machine_view& machine, const named_memory& memory, const plan& joint)
    -> std::vector<check> {
  std::vector<check> all;
  const auto ask = [&](const char* subject, std::optional<check> otherwise) {
    auto answers = answers_to(subject, joint);
    if (answers.empty() && otherwise) answers.push_back(std::move(*otherwise));
    append(all, std::move(answers));
    append(all, caveats_of(subject, joint));
  };
  if (memory.is_foreign()) all.push_back(memory_check(memory));
  ask("memory", memory.is_foreign() ? std::nullopt : std::optional(memory_check(memory)));
  ask("exporter", exporter_check(memory));
  ask("BAR", bar_check(machine.facts, memory.facts));
  ask("pages", pages_check(memory.facts));
  // What the reason says is said of regions.
  const auto pages = std::ranges::find(all, "pages", &check::subject);
  if (!memory.region && pages != all.end() && pages->status == check_status::blocked) {
    pages->evidence = fmt::format(
        "the memory {} without struct pages, and drives reach only such that has them; RDMA "
        "devices need none",
        memory.is_foreign() ? "is exported" : "would be exported");
    pages->remedy =
        "use memory of a driver that registers it with dmabridge (dmabridge-drivers(7))";
    const auto& better = memory.facts.rules.drives;
    if (!better.empty()) pages->remedy += fmt::format(", or {}", better);
  }
  return all;
}

auto importer_checks(const machine_view& machine, const named_memory& memory,
                     const importer_facts& importer, const planned_verdict& word)
    -> std::vector<check> {
  std::vector<check> all;
  std::set<pci_address> redirecting;
  if (memory.facts.device && memory.facts.kind == region_kind::bar) {
    for (const auto& address : importer.functions) {
      const auto path = find_path(machine.facts, *memory.facts.device, address);
      redirecting.insert(path.redirecting.begin(), path.redirecting.end());
      append(all, path_checks(machine.facts, path, *memory.facts.device, address));
    }
  }
  // What the reasons and the missing facts answer stands in place of what was read.
  std::vector<check> given;
  for (const auto& why : word.word.reasons) {
    const auto is_joined = why.code == DMABRIDGE_REASON_ACS_REDIRECT && why.device &&
                           redirecting.contains(*why.device);
    const auto is_fact =
        why.code == DMABRIDGE_REASON_PATH_UNKNOWN &&
        std::ranges::find(word.missing, why.name, &unread_fact::what) != word.missing.end();
    if (question_of(why.code).of != scope::importer || is_joined || is_fact) continue;
    const auto is_open = word.unknown && !why.blocks_p2p && !why.blocks_move;
    const auto is_conditional = is_open && why.code != DMABRIDGE_REASON_PATH_UNKNOWN;
    given.push_back(is_conditional ? conditional(why, word.word) : answer_of(why, word.word));
  }
  for (const auto& fact : word.missing) {
    const auto about = question_of(fact);
    if (about.of == scope::importer) {
      given.push_back(lacking(machine.facts, fact, about.subject));
    }
  }
  const auto unless_given = [&](std::optional<check> otherwise) {
    if (otherwise && !has_subject(given, otherwise->subject)) all.push_back(std::move(*otherwise));
  };
  std::erase_if(all, [&](const check& read) {
    return read.status == check_status::ok && has_subject(given, read.subject);
  });
  unless_given(importer_check(importer));
  unless_given(deny_check(machine, memory));
  append(all, std::move(given));
  std::ranges::stable_sort(all, {}, [](const check& answer) { return rank_of(answer.subject); });
  drop_repeats(all);
  return all;
}

}  // namespace dmabridge::command

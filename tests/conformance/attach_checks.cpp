// SPDX-License-Identifier: MIT
//
// Attachments and their mappings.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>

#include "check.hpp"
#include "fdinfo.hpp"
#include "support/fixture.hpp"

namespace dmabridge::test::conformance {
namespace {

// Mappings of one buffer. More of them, and one of the exporter's own for the CPU, are a leak to
// CONFIG_DMA_API_DEBUG (ACTIVE_CACHELINE_MAX_OVERLAP).
constexpr std::size_t most_at_once = 7;

constexpr std::uint32_t directions[] = {TEST_IMPORTER_BIDIRECTIONAL, TEST_IMPORTER_TO_DEVICE,
                                        TEST_IMPORTER_FROM_DEVICE};
constexpr const char* direction_names[] = {"BIDIRECTIONAL", "TO_DEVICE", "FROM_DEVICE"};

bool same_addresses(const Table& one, const Table& other) {
  return std::ranges::equal(one.segments, other.segments, [](const auto& a, const auto& b) {
    return a.address == b.address && a.length == b.length;
  });
}

void need_tables(const Table& table) {
  if (table.hidden()) untried("CONFIG_DMABUF_DEBUG hides sg_tables from importers");
}

// The first piece that is not of whole pages.
std::string misaligned(const Table& table, std::uint64_t page) {
  for (const auto& segment : table.segments)
    if (segment.length == 0 || segment.address % page != 0 || segment.length % page != 0)
      return fmt::format("a piece of {:#x} bytes at {:#x}", segment.length, segment.address);
  return "";
}

// Where the BARs of all functions are. A device without IOMMU gets these addresses for device
// memory.
class Bars {
 public:
  Bars() {
    for (const auto& entry : std::filesystem::directory_iterator("/sys/bus/pci/devices")) {
      std::ifstream file(entry.path() / "resource");
      std::uint64_t start = 0, end = 0, flags = 0;
      file >> std::hex;
      while (file >> start >> end >> flags)
        if (end != 0) ranges_.emplace_back(start, end);
    }
  }
  bool hold_any_of(const Table& table) const {
    return std::ranges::any_of(table.segments, [this](const auto& segment) {
      return std::ranges::any_of(ranges_, [&](const auto& range) {
        return range.first <= segment.address && segment.address <= range.second;
      });
    });
  }

 private:
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges_;  // first and last byte
};

Result takes(Context& context, std::size_t index) {
  const std::vector<Importer> importers = context.importers();
  if (index >= importers.size()) untried("there is no PCI function for the importer to be");
  const Importer& importer = importers[index];
  const Attached attached =
      attach(context.buffer(), importer.kind, importer.client, TEST_IMPORTER_UNMAP);
  return yes_or_no(attached.error, attached.peer2peer ? "P2P granted" : "");
}

Result p2p_capable(Context& context) {
  if (!context.function()) untried("there is no PCI function for the importer to be");
  Attached attached =
      attach(context.buffer(), p2p_revocable, context.function()->client, TEST_IMPORTER_UNMAP);
  if (attached.error != 0) return yes_or_no(attached.error);
  if (!attached.peer2peer) return {Outcome::no, "the exporter takes peer2peer back"};
  std::uint32_t id = 0;
  if (const int error = attached.attachment.map(&id); error != 0) return yes_or_no(error);
  const Table table = attached.attachment.table(id);
  if (!context.function()->translated)
    return Bars().hold_any_of(table)
               ? Result{Outcome::yes, "addresses in a BAR"}
               : Result{Outcome::no, "peer2peer is left as it is, but no address is in a BAR"};
  // Behind an IOMMU only RAM can still be told, by its pages.
  need_tables(table);
  return table.has_pages() ? Result{Outcome::no, "the table has struct pages: it is RAM"}
                           : Result{Outcome::yes, "peer2peer kept, no struct pages"};
}

Result peer2peer_only_on_request(Context& context) {
  bool any = false;
  for (const Importer& importer : context.importers()) {
    const Attached attached =
        attach(context.buffer(), importer.kind, importer.client, TEST_IMPORTER_UNMAP);
    if (attached.error != 0) continue;
    any = true;
    require(!attached.peer2peer || importer.kind.peer2peer(),
            fmt::format("{}: got peer2peer without asking", importer.name));
  }
  if (!any) untried("no importer can attach");
  return {Outcome::pass, ""};
}

Result attached_can_map(Context& context) {
  bool any = false;
  std::string failures;
  for (const Importer& importer : context.importers()) {
    Attached attached =
        attach(context.buffer(), importer.kind, importer.client, TEST_IMPORTER_UNMAP);
    if (attached.error != 0) continue;
    any = true;
    std::uint32_t id = 0;
    const int error = attached.attachment.map(&id);
    if (error != 0)
      failures +=
          fmt::format("{}{}: {}", failures.empty() ? "" : "; ", importer.name, errno_name(error));
  }
  require(failures.empty(), "attached, but cannot map: " + failures);
  if (!any) untried("no importer can attach");
  return {Outcome::pass, ""};
}

Result every_direction(Context& context) {
  context.each_attached([&](const Importer& importer, Attachment& attachment) {
    for (const std::uint32_t direction : directions) {
      std::uint32_t id = 0;
      succeed(attachment.map(&id, direction),
              fmt::format("{}: map {}", importer.name, direction_names[direction]));
      succeed(attachment.unmap(id), importer.name + ": unmap");
    }
  });
  return {Outcome::pass, ""};
}

Result length_is_size(Context& context) {
  const std::uint64_t size = context.size();
  context.each_attached([&](const Importer& importer, Attachment& attachment) {
    const Table table = attachment.table(attachment.map());
    require(table.length() == size, fmt::format("{}: the table has {} bytes, the buffer {}",
                                                importer.name, table.length(), size));
  });
  return {Outcome::pass, ""};
}

Result page_aligned(Context& context) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  context.each_attached([&](const Importer& importer, Attachment& attachment) {
    const std::string found = misaligned(attachment.table(attachment.map()), page);
    require(found.empty(), importer.name + ": " + found);
  });
  return {Outcome::pass, ""};
}

Result device_memory_has_no_pages(Context& context) {
  const Bars bars;
  bool any = false, unknown = false;
  context.each_attached([&](const Importer& importer, Attachment& attachment) {
    const Table table = attachment.table(attachment.map());
    need_tables(table);
    const bool translated = context.is_translated(importer.client);
    any |= translated ? !table.has_pages() : bars.hold_any_of(table);
    unknown |= translated && table.has_pages();
    require(translated || !table.has_pages() || !bars.hold_any_of(table),
            importer.name + ": the table names struct pages");
  });
  if (any) return {Outcome::pass, ""};
  if (unknown) untried("behind an IOMMU addresses do not tell device memory from RAM");
  lacks(0, "no importer gets device memory");
}

std::uint64_t longest_piece(const Table& table) {
  std::uint64_t longest = 0;
  for (const auto& segment : table.segments)
    longest = std::max<std::uint64_t>(longest, segment.length);
  return longest;
}

Result segment_limit(Context& context) {
  if (access("/sys/kernel/debug/dma-api", F_OK) == 0)
    untried("CONFIG_DMA_API_DEBUG would take an exporter that does not for a fault");
  Client limited = no_bus;
  limited.max_segment = 64 << 10;
  for (const ImporterKind& kind : {dynamic, static_importer}) {
    std::uint64_t longest[2];
    std::uint32_t id = 0;
    int error = 0;
    for (const bool limit : {false, true}) {
      Attached attached =
          attach(context.buffer(), kind, limit ? limited : no_bus, TEST_IMPORTER_UNMAP);
      error = attached.error != 0 ? attached.error : attached.attachment.map(&id);
      if (error != 0) break;
      longest[limit] = longest_piece(attached.attachment.table(id));
    }
    if (error != 0) continue;
    if (longest[false] <= limited.max_segment) untried("its pieces are small anyway");
    if (longest[true] <= limited.max_segment) return {Outcome::yes, ""};
    return {Outcome::no,
            fmt::format("a piece of {} KiB where 64 KiB is the most", longest[true] >> 10)};
  }
  untried("it takes no importer without a bus, whose limit can be set");
}

Result several_mappings(Context& context) {
  context.each_attached_here([&](const Importer& importer, Attachment& attachment) {
    const std::uint32_t a = attachment.map(TEST_IMPORTER_TO_DEVICE),
                        b = attachment.map(TEST_IMPORTER_FROM_DEVICE), c = attachment.map();
    const Table first = attachment.table(a), last = attachment.table(c);
    succeed(attachment.unmap(b), importer.name + ": unmap of the second of three");
    require(same_addresses(first, attachment.table(a)) && same_addresses(last, attachment.table(c)),
            importer.name + ": unmapping one changed another's table");
    succeed(attachment.unmap(a), importer.name + ": unmap of the first");
    require(same_addresses(last, attachment.table(c)),
            importer.name + ": unmapping one changed another's table");
    succeed(attachment.unmap(c), importer.name + ": unmap of the last");
    std::uint32_t again = 0;
    succeed(attachment.map(&again), importer.name + ": map again");
  });
  return {Outcome::pass, ""};
}

Result own_table(Context& context) {
  context.each_attached_here([&](const Importer& importer, Attachment& attachment) {
    const std::uint32_t one = attachment.map(), other = attachment.map();
    const Table table = attachment.table(one);
    need_tables(table);
    require(table.same_as != other, importer.name + ": two mappings have one sg_table");
  });
  return {Outcome::pass, ""};
}

Result one_memory(Context& context) {
  std::optional<Table> seen;
  std::vector<Attached> all;
  for (const Importer& importer : context.importers()) {
    if (importer.client.pci) continue;
    Attached attached =
        attach(context.buffer(), importer.kind, importer.client, TEST_IMPORTER_UNMAP);
    if (attached.error == 0) all.push_back(std::move(attached));
  }
  for (Attached& each : all) {
    for (int turn = 0; turn < 2; turn++) {
      std::uint32_t id = 0;
      if (each.attachment.map(&id) != 0) break;
      const Table table = each.attachment.table(id);
      if (!seen) seen = table;
      require(same_addresses(*seen, table),
              "mapped at the same time, for devices without IOMMU, importers got different memory");
      // The first stays, beside those of the others.
      if (turn == 1) succeed(each.attachment.unmap(id), "unmap");
    }
  }
  if (!seen) untried("it takes no importer without a bus, whose addresses name memory");
  return {Outcome::pass, ""};
}

// The first and the last of them; whoever came last goes first, and then the other way round.
Result importers_together(Context& context) {
  for (const bool backwards : {false, true}) {
    std::vector<Importer> importers = context.importers();
    if (backwards) std::ranges::reverse(importers);
    std::vector<std::pair<std::string, Attached>> all;
    for (const Importer& importer : importers) {
      if (all.size() == most_at_once) break;
      Attached attached = context.try_importer(importer, TEST_IMPORTER_UNMAP);
      if (attached.error == 0) all.emplace_back(importer.name, std::move(attached));
    }
    if (all.empty()) untried("no importer can attach and map");
    if (backwards) std::ranges::reverse(all);
    while (!all.empty()) {
      std::vector<std::uint32_t> ids(all.size());
      for (std::size_t i = 0; i < all.size(); i++)
        succeed(all[i].second.attachment.map(&ids[i]),
                fmt::format("{}, beside {} others: map", all[i].first, all.size() - 1));
      for (std::size_t i = 0; i < all.size(); i++)
        succeed(all[i].second.attachment.unmap(ids[i]), all[i].first + ": unmap");
      all.pop_back();
    }
  }
  return {Outcome::pass, ""};
}

Result pinnable(Context& context) {
  auto [importer, attachment] = context.any_attached();
  if (!importer.kind.dynamic()) untried("only static importers can attach, and those cannot pin");
  return yes_or_no(attachment.pin());
}

Result pins_balance(Context& context) {
  auto [importer, attachment] = context.any_attached();
  if (!importer.kind.dynamic()) untried("only static importers can attach, and those cannot pin");
  if (const int error = attachment.pin(); error != 0) lacks(error, "pin");
  succeed(attachment.pin(), "the second pin");
  std::uint32_t id = 0;
  succeed(attachment.map(&id), "map while pinned");
  succeed(attachment.unpin(), "unpin");
  Table table{};
  succeed(attachment.table(id, &table), "the mapping, after unpin");
  succeed(attachment.unmap(id), "unmap");
  succeed(attachment.unpin(), "the second unpin");
  succeed(attachment.map(&id), "map after all");
  return {Outcome::pass, ""};
}

Result references_balance(Context& context) {
  constexpr std::uint32_t rounds = 64;
  const int buffer = context.buffer();
  const std::uint64_t before = Fdinfo(buffer).number("count");
  context.each_attached([&](const Importer&, Attachment& attachment) { attachment.bench(rounds); });
  std::uint64_t after = 0;
  // Fewer there may be: whoever made the buffer may have closed it meanwhile.
  require(eventually([&] { return (after = Fdinfo(buffer).number("count")) <= before; },
                     std::chrono::seconds(3)),
          fmt::format("{} references before, {} after {} mappings by each importer", before, after,
                      rounds));
  return {Outcome::pass, ""};
}

const char* importer_source = "include/linux/dma-buf.h: dma_buf_ops.attach";

}  // namespace

std::vector<Check> attach_checks() {
  std::vector<Check> checks;
  std::size_t index = 0;
  for (const char* device : {"no bus", "PCI"})
    for (const char* kind : {"static", "dynamic", "dynamic, revocable", "P2P", "P2P, revocable"})
      checks.push_back({"attach", fmt::format("takes: {}, {}", kind, device), false,
                        fmt::format("whether a {} importer{} may attach", kind,
                                    index < 5 ? " on no bus" : " that is a PCI function"),
                        importer_source,
                        [at = index++](Context& context) { return takes(context, at); }});
  const std::vector<Check> others = {
      {"attach", "P2P to the function", false, "whether that function reaches device memory",
       "include/linux/dma-buf.h: dma_buf_attach_ops.allow_peer2peer", p2p_capable},
      {"attach", "no peer2peer unasked", true,
       "attach->peer2peer is the importer's offer; an exporter may only take it back",
       "drivers/dma-buf/dma-buf.c: dma_buf_dynamic_attach()", peer2peer_only_on_request},
      {"attach", "who is attached can map", true,
       "an exporter that cannot serve a device must fail its attach",
       "include/linux/dma-buf.h: dma_buf_ops.attach", attached_can_map},
      {"attach", "importers beside each other", true,
       "all who are attached can map, in whichever order they come and go",
       "include/linux/dma-buf.h: dma_buf_ops.map_dma_buf, pin", importers_together},
      {"attach", "references balance", true,
       "what attach and map take, unmap and detach give back: else no buffer is ever released",
       "drivers/dma-buf/dma-buf.c: dma_buf_put()", references_balance},
      {"map", "every direction", true, "each direction can be mapped",
       "include/linux/dma-buf.h: dma_buf_ops.map_dma_buf", every_direction},
      {"map", "length is the buffer's", true, "the table is of the whole buffer",
       "include/linux/dma-buf.h: dma_buf_ops.map_dma_buf", length_is_size},
      {"map", "page aligned", true, "DMA addresses and lengths are PAGE_SIZE aligned",
       "drivers/dma-buf/dma-buf.c: dma_buf_map_attachment()", page_aligned},
      {"map", "device memory without pages", true, "peer resources come without struct pages",
       "include/linux/dma-buf.h: dma_buf_attach_ops.allow_peer2peer", device_memory_has_no_pages},
      {"map", "several at once", true, "mappings are independent of each other",
       "include/linux/dma-buf.h: dma_buf_ops.map_dma_buf", several_mappings},
      {"map", "a table of its own", true,
       "no table is returned twice: it belongs to the caller until unmap",
       "include/linux/dma-buf.h: dma_buf_ops.map_dma_buf", own_table},
      {"map", "one memory for all", true,
       "mappings at the same time are of the same memory, for whomever they are",
       "include/linux/dma-buf.h: struct dma_buf, a shared buffer object", one_memory},
      {"map", "client's segment limit", false, "whether pieces obey the device's max_segment_size",
       "include/linux/dma-buf.h: dma_buf_ops.map_dma_buf, dma_params", segment_limit},
      {"map", "pin", false, "whether a dynamic importer can pin the buffer",
       "include/linux/dma-buf.h: dma_buf_ops.pin", pinnable},
      {"map", "pins balance", true, "pins count, and mappings outlive them",
       "drivers/dma-buf/dma-buf.c: dma_buf_pin(), dma_buf_unpin()", pins_balance},
  };
  checks.insert(checks.end(), others.begin(), others.end());
  return checks;
}

}  // namespace dmabridge::test::conformance

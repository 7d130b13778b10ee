// SPDX-License-Identifier: MIT
//
// Moves, and the end of a buffer whose device goes away. Only an exporter's own interface can ask
// for them: what is built in knows that of its exporter, and others by --move and --revoke.
#include <fmt/format.h>

#include <algorithm>

#include "check.hpp"
#include "support/drives.hpp"
#include "touch.hpp"

namespace dmabridge::test::conformance {
namespace {

constexpr std::uint8_t tag = 0x3d;

bool differs(const Table& one, const Table& other) {
  return !std::ranges::equal(one.segments, other.segments, [](const auto& a, const auto& b) {
    return a.address == b.address && a.length == b.length;
  });
}

void need_move(Context& context) {
  if (!context.exporter().can_move()) untried("no way is known to make it move one (--move)");
}

void move_now(Context& context) {
  if (const int error = context.exporter().move(context.buffer()); error != 0)
    untried("it did not move the buffer: " + errno_name(error));
}

Result moves(Context& context) {
  need_move(context);
  return yes_or_no(context.exporter().move(context.buffer()));
}

Result move_tells(Context& context) {
  need_move(context);
  auto [importer, attachment] = context.any_attached(TEST_IMPORTER_KEEP, true);
  const std::uint32_t before = attachment.map();
  const Table old = attachment.table(before);
  move_now(context);
  std::uint32_t after = 0;
  succeed(attachment.map(&after), importer.name + ": map after the move");
  const Table now = attachment.table(after);
  require(now.length() == context.size(), "the table after the move is not of the whole buffer");
  const bool told = attachment.events().invalidations != 0;
  if (!told && context.is_translated(importer.client))
    untried("not told, and behind an IOMMU addresses do not tell whether it was moved");
  require(told || !differs(old, now),
          importer.name + ": the memory is another, and the importer was not told");
  require(!differs(old, attachment.table(before)), "the old mapping changed under the importer");
  succeed(attachment.unmap(before), "unmap of the old mapping");
  return {Outcome::pass, told ? "told by invalidate_mappings" : "nothing to tell"};
}

Result move_keeps_bytes(Context& context) {
  need_move(context);
  const Mapping mapping = context.map_whole();
  fill_pattern(mapping.data(), mapping.size(), tag, 0);
  for (int turn = 0; turn < 2; turn++) {
    move_now(context);
    std::string found = pattern_difference(mapping.data(), mapping.size(), tag, 0);
    require(found.empty(), "in the mapping that there was: " + found);
    found = pattern_difference(context.map_whole().data(), mapping.size(), tag, 0);
    require(found.empty(), "in a new mapping: " + found);
  }
  return {Outcome::pass, ""};
}

Result pinned_stays(Context& context) {
  need_move(context);
  auto [importer, attachment] = context.any_attached(TEST_IMPORTER_KEEP, true);
  if (const int error = attachment.pin(); error != 0) lacks(error, "pin");
  const Table before = attachment.table(attachment.map());
  const int error = context.exporter().move(context.buffer());
  const Table after = attachment.table(attachment.map());
  const bool elsewhere = !context.is_translated(importer.client) && differs(before, after);
  require(attachment.events().invalidations == 0 && !elsewhere,
          importer.name + ": the buffer was moved though it is pinned");
  return {Outcome::pass, error != 0 ? "move: " + errno_name(error) : ""};
}

void need_revoke(Context& context) {
  if (!context.exporter().can_revoke()) untried("no way is known to make it revoke one (--revoke)");
  if (!context.exporter().fresh()) untried("it would end the only buffer that there is");
}

void revoke_now(Context& context) {
  if (const int error = context.exporter().revoke(); error != 0)
    untried("it revoked nothing: " + errno_name(error));
}

Result revoke_tells(Context& context) {
  need_revoke(context);
  auto [importer, attachment] = context.any_attached(TEST_IMPORTER_UNMAP, true);
  attachment.map();
  revoke_now(context);
  const auto events = attachment.events();
  require(events.invalidations_mapped != 0,
          importer.name + ": had a mapping, and was not told to let it go");
  require(events.mappings == 0, "a mapping outlived the revoke");
  return {Outcome::pass, ""};
}

Result revoked_cannot_map(Context& context) {
  need_revoke(context);
  auto [importer, attachment] = context.any_attached(TEST_IMPORTER_UNMAP, true);
  revoke_now(context);
  std::uint32_t id = 0;
  const int error = attachment.map(&id);
  require(error != 0, importer.name + ": could map what is revoked");
  return {Outcome::pass, errno_name(error)};
}

Result revoked_cannot_attach(Context& context) {
  need_revoke(context);
  const Importer importer = context.any_attached(TEST_IMPORTER_UNMAP, true).first;
  revoke_now(context);
  const Attached attached = attach(context.buffer(), importer.kind, importer.client);
  return attached.error != 0 ? Result{Outcome::yes, errno_name(attached.error)}
                             : Result{Outcome::no, ""};
}

Result revoke_cuts_mmap(Context& context) {
  need_revoke(context);
  const Mapping mapping = context.map_whole();
  fill_pattern(mapping.data(), mapping.size(), tag, 0);
  revoke_now(context);
  const Touch touch = touch_in_child(mapping.data());
  return touch == Touch::read ? Result{Outcome::no, "it can be read still"}
                              : Result{Outcome::yes, touch == Touch::bus_error ? "SIGBUS" : ""};
}

}  // namespace

std::vector<Check> move_checks() {
  const char* invalidate_doc = "drivers/dma-buf/dma-buf.c: dma_buf_invalidate_mappings()";
  return {
      {"move", "moves", false, "whether it moves a buffer to other memory", invalidate_doc, moves},
      {"move", "importers are told", true,
       "a revocable importer is told of a move, and its old mapping stays until it unmaps",
       invalidate_doc, move_tells},
      {"move", "bytes are kept", true, "a move changes no byte", invalidate_doc, move_keeps_bytes},
      {"move", "what is pinned stays", true, "a pinned buffer cannot be moved",
       "include/linux/dma-buf.h: dma_buf_ops.pin", pinned_stays},
      {"revoke", "importers are told", true,
       "a revoke waits until revocable importers have unmapped", invalidate_doc, revoke_tells},
      {"revoke", "no mapping afterwards", true, "an attached importer cannot map what is revoked",
       invalidate_doc, revoked_cannot_map},
      {"revoke", "no attachment afterwards", false, "whether attach fails at once",
       "include/linux/dma-buf.h: dma_buf_ops.attach", revoked_cannot_attach},
      {"revoke", "mmap is cut off", false, "whether the CPU's mappings end too",
       "include/linux/dma-buf.h: dma_buf_ops.mmap", revoke_cuts_mmap},
  };
}

}  // namespace dmabridge::test::conformance

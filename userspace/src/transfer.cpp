// SPDX-License-Identifier: MIT
#include "dmabridge/transfer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>
#include <memory>
#include <utility>

#include "bounce_ring.hpp"
#include "command_ring.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "dmabuf_sync.hpp"
#include "transfer_run.hpp"

namespace dmabridge {
namespace {

constexpr unsigned max_queue_depth = 4096;

// What a command may end with that did nothing and would do it when asked again: some drivers give
// -EAGAIN when they are short of requests, and file systems in user space -EINTR. Not for ever,
// though: nobody could tell that from a hang.
constexpr unsigned most_repeats = 1000;
auto is_passing(int result) -> bool {
  return result == -EAGAIN || result == -EINTR;
}

auto round_up(std::uint64_t value, std::uint64_t align) -> std::uint64_t {
  return (value + align - 1) / align * align;
}

// The state of one run. Positions count from the start of the range.
class run {
 public:
  run(command_ring& ring, transfer_slots& slots, direction way, const transfer_range& range,
      std::uint32_t align, const transfer_options& options)
      : ring_(ring), slots_(slots), way_(way), range_(range), align_(align), options_(options) {}

  auto operator()(std::uint32_t block) -> transfer_result;

 private:
  auto stopped() const -> bool {
    return options_.stop != nullptr && options_.stop->load(std::memory_order_relaxed);
  }
  // Commands that are there may be issued again, and new ones made.
  auto may_repeat() const -> bool { return result_.error == 0 && !stopped() && !thrown_; }
  auto going_on() const -> bool { return may_repeat() && !ended_; }
  void tell_progress();
  void queue(std::uint32_t tag);
  void fill(std::uint32_t block);
  void complete(const completion& done);
  void complete_bytes(std::uint32_t tag, std::uint32_t count);
  void fail(int error, std::uint64_t position);
  void finish(std::uint32_t tag) { slots_.free.push_back(tag); }
  auto in_flight() const -> bool { return slots_.free.size() < slots_.slots.size(); }

  command_ring& ring_;
  transfer_slots& slots_;
  direction way_;
  const transfer_range& range_;
  std::uint32_t align_;
  const transfer_options& options_;
  transfer_result result_;
  std::uint64_t next_ = 0;
  bool ended_ = false;           // the end of the file was met
  std::exception_ptr thrown_{};  // by the caller's progress
};

void run::queue(std::uint32_t tag) {
  const auto& slot = slots_.slots[tag];
  ring_.queue({.file_offset = range_.file_offset + slot.position,
               .buffer_offset = range_.buffer_offset + slot.position,
               .length = slot.length,
               .tag = tag});
  ++result_.commands;
}

void run::fill(std::uint32_t block) {
  while (next_ < range_.length && !slots_.free.empty()) {
    const auto tag = slots_.free.back();
    slots_.free.pop_back();
    const auto length = std::min<std::uint64_t>(block, range_.length - next_);
    slots_.slots[tag] = {.position = next_,
                         .length = static_cast<std::uint32_t>(round_up(length, align_))};
    next_ += length;
    queue(tag);
  }
}

void run::fail(int error, std::uint64_t position) {
  const auto offset = range_.file_offset + position;
  if (result_.error != 0 && result_.error_offset <= offset) return;
  result_.error = error;
  result_.error_offset = offset;
}

void run::complete_bytes(std::uint32_t tag, std::uint32_t count) {
  auto& slot = slots_.slots[tag];
  // What lies behind the range came along with the last alignment unit; it was not asked for.
  result_.bytes += std::min<std::uint64_t>(count, range_.length - slot.position);
  const auto through = slot.position + count;
  if (count == slot.length || through >= range_.length) {
    finish(tag);
    return;
  }
  // Only the end of a file cuts a read in the middle of an alignment unit.
  if (way_ == direction::read && (count == 0 || count % align_ != 0)) {
    ended_ = true;
    finish(tag);
    return;
  }
  if (count == 0 || count % align_ != 0) {
    fail(-EIO, through);
    finish(tag);
    return;
  }
  slot.position = through;
  slot.length -= count;
  slot.repeats = 0;
  if (may_repeat()) {
    queue(tag);
  } else {
    finish(tag);
  }
}

void run::complete(const completion& done) {
  auto& slot = slots_.slots[done.tag];
  if (done.result >= 0) {
    complete_bytes(done.tag, static_cast<std::uint32_t>(done.result));
  } else if (is_passing(done.result) && may_repeat() && slot.repeats < most_repeats) {
    ++slot.repeats;
    queue(done.tag);
  } else {
    fail(done.result, slot.position);
    finish(done.tag);
  }
}

// What is in flight is waited for all the same: nobody may take its memory away before.
void run::tell_progress() {
  if (!options_.progress || thrown_) return;
  try {
    options_.progress(result_.bytes);
  } catch (...) {
    thrown_ = std::current_exception();
  }
}

auto run::operator()(std::uint32_t block) -> transfer_result {
  for (;;) {
    if (going_on()) fill(block);
    if (!in_flight()) break;
    const auto count = ring_.submit_and_wait(slots_.done);
    if (count == -EINTR) continue;
    if (count < 0) {
      // The ring itself is broken: there is no waiting for what it still carries, whose slots stay
      // taken.
      fail(count, 0);
      break;
    }
    for (const auto& done : std::span(slots_.done).first(static_cast<std::size_t>(count))) {
      complete(done);
    }
    if (count > 0) tell_progress();
  }
  if (thrown_) std::rethrow_exception(thrown_);
  if (result_.error == 0 && result_.bytes < range_.length) {
    if (ended_) {
      result_.ended_early = true;
    } else {
      fail(-ECANCELED, next_);
    }
  }
  return result_;
}

[[noreturn]] void misuse(std::string detail, std::string remedy = {}) {
  error_details details{
      .kind = error_kind::usage, .attempted = "move that range", .detail = std::move(detail)};
  if (!remedy.empty()) details.remedies.push_back(std::move(remedy));
  throw error(std::move(details));
}

// Which multiples a misaligned offset lies between.
auto nearest(std::uint64_t offset, std::uint64_t align) -> std::string {
  const auto below = offset / align * align;
  std::uint64_t above = 0;
  if (__builtin_add_overflow(below, align, &above)) return fmt::format("use {}", below);
  return fmt::format("use {} or {}", below, above);
}

}  // namespace

transfer_slots::transfer_slots(unsigned depth) : slots(depth), done(depth) {
  free.reserve(depth);
  for (auto tag = depth; tag > 0; --tag) free.push_back(tag - 1);
}

auto run_transfer(command_ring& ring, transfer_slots& slots, direction way,
                  const transfer_range& range, std::uint32_t align, std::uint32_t block,
                  const transfer_options& options) -> transfer_result {
  return run(ring, slots, way, range, align, options)(block);
}

auto check_transfer(const binding_info& limits, const transfer_range& range,
                    const transfer_options& options) -> std::uint32_t {
  const auto align = limits.offset_align;
  if (range.file_offset % align != 0) {
    misuse(fmt::format("offset {} in the file (--offset) is no multiple of {}, the unit of its "
                       "storage",
                       range.file_offset, align),
           nearest(range.file_offset, align));
  }
  const auto memory_align = std::max(align, limits.memory_align);
  if (range.buffer_offset % memory_align != 0) {
    misuse(fmt::format("offset {} in the buffer (--at) is no multiple of {}, the unit of the "
                       "transfer",
                       range.buffer_offset, memory_align),
           nearest(range.buffer_offset, memory_align));
  }
  std::uint64_t end = 0;
  if (__builtin_add_overflow(range.file_offset, range.length, &end) ||
      end > std::uint64_t{INT64_MAX} - align) {
    misuse(fmt::format("offset {} and length {} are more than a file can have", range.file_offset,
                       range.length));
  }
  const auto room = limits.buffer_size - std::min(limits.buffer_size, range.buffer_offset);
  if (round_up(range.length, align) > room) {
    misuse(fmt::format(
               "{} bytes, in units of {}, do not fit the {} bytes of the buffer from offset "
               "{} on ({} in all)",
               range.length, align, room, range.buffer_offset, format_size(limits.buffer_size)),
           "use a larger buffer, or move less");
  }
  if (options.block_size == 0 || options.block_size % memory_align != 0) {
    misuse(fmt::format("a block size of {} bytes (--block-size) is no multiple of {}, the unit of "
                       "the transfer",
                       options.block_size, memory_align),
           nearest(std::max(options.block_size, memory_align), memory_align));
  }
  const auto block = std::min(options.block_size, limits.max_length / memory_align * memory_align);
  if (block == 0) {
    misuse(fmt::format("the binding takes commands of at most {} bytes, less than its unit of {}",
                       limits.max_length, memory_align));
  }
  return block;
}

struct transfer_engine::state {
  explicit state(transfer_options wanted)
      : options(std::move(wanted)), ring(options.queue_depth), slots(options.queue_depth) {}

  transfer_options options;
  // Before the ring, which it has to outlive: one that failed may still write to it.
  std::unique_ptr<staging_memory> staging{};
  native_ring ring;
  transfer_slots slots;

  void check_usable() const;
  auto timed(command_ring& carrier, direction way, const transfer_range& range, std::uint32_t align,
             std::uint32_t block) -> transfer_result;
  auto move(const binding& between, direction way, const transfer_range& range) -> transfer_result;
  auto move_pinned(int target, const exported_memory& memory, direction way,
                   const transfer_range& range, const binding_info& limits) -> transfer_result;
  auto bounce(int target, const exported_memory& memory, direction way, const transfer_range& range,
              const binding_info& limits) -> transfer_result;
};

void transfer_engine::state::check_usable() const {
  if (slots.free.size() != slots.slots.size()) {
    misuse("the io_uring of this engine failed in an earlier transfer", "make a new engine");
  }
}

auto transfer_engine::state::timed(command_ring& carrier, direction way,
                                   const transfer_range& range, std::uint32_t align,
                                   std::uint32_t block) -> transfer_result {
  const auto start = std::chrono::steady_clock::now();
  auto result = run_transfer(carrier, slots, way, range, align, block, options);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

auto transfer_engine::state::move(const binding& between, direction way,
                                  const transfer_range& range) -> transfer_result {
  check_usable();
  const auto before = between.info();
  const auto block = check_transfer(before, range, options);
  const auto carrier = ring.carry(between, way);
  auto result = timed(*carrier, way, range, before.offset_align, block);
  const auto after = between.info();
  for (std::size_t i = 0; i < result.routes.size(); ++i) {
    result.routes[i] = {.commands = after.routes[i].commands - before.routes[i].commands,
                        .bytes = after.routes[i].bytes - before.routes[i].bytes};
  }
  return result;
}

// The CPU's access as far as the dma-buf is concerned: it waits for fences, and they for nothing.
auto transfer_engine::state::move_pinned(int target, const exported_memory& memory, direction way,
                                         const transfer_range& range, const binding_info& limits)
    -> transfer_result {
  const auto block = check_transfer(limits, range, options);
  const auto carrier = ring.carry(target, memory.owner().pinnable(), way);
  const auto access = way == direction::read ? cpu_access::write : cpu_access::read;
  dmabuf_access bracket(memory.memory().descriptor(), access);
  auto result = timed(*carrier, way, range, limits.offset_align, block);
  bracket.end();
  return result;
}

auto transfer_engine::state::bounce(int target, const exported_memory& memory, direction way,
                                    const transfer_range& range, const binding_info& limits)
    -> transfer_result {
  const auto block = check_transfer(limits, range, options);
  const auto room = std::uint64_t{options.queue_depth} * block;
  if (!staging || staging->bytes().size() < room) staging = std::make_unique<staging_memory>(room);
  const auto io = ring.carry(target, staging->bytes(), way);
  const auto copies =
      memory.owner().begin_copies(way == direction::read ? cpu_access::write : cpu_access::read);
  bounce_ring carrier(*io, staging->bytes(), *copies, way, options.queue_depth, block);
  auto result = timed(carrier, way, range, limits.offset_align, block);
  carrier.rethrow();
  copies->end();
  return result;
}

transfer_engine::transfer_engine(transfer_options options) {
  if (options.queue_depth == 0 || options.queue_depth > max_queue_depth) {
    throw error({.kind = error_kind::usage,
                 .attempted = "set up a transfer",
                 .detail = fmt::format("queue depth {} is not between 1 and {}",
                                       options.queue_depth, max_queue_depth)});
  }
  state_ = std::make_unique<state>(std::move(options));
}

transfer_engine::transfer_engine(transfer_engine&&) noexcept = default;
auto transfer_engine::operator=(transfer_engine&&) noexcept -> transfer_engine& = default;
transfer_engine::~transfer_engine() = default;

auto transfer_engine::load(const binding& between, const transfer_range& range) -> transfer_result {
  return state_->move(between, direction::read, range);
}

auto transfer_engine::save(const binding& between, const transfer_range& range) -> transfer_result {
  return state_->move(between, direction::write, range);
}

auto transfer_engine::load(const block_attachment& between, const transfer_range& range)
    -> transfer_result {
  return move(between, direction::read, range);
}

auto transfer_engine::save(const block_attachment& between, const transfer_range& range)
    -> transfer_result {
  return move(between, direction::write, range);
}

auto transfer_engine::move(const block_attachment& between, direction way,
                           const transfer_range& range) -> transfer_result {
  state_->check_usable();
  const auto& memory = *between.memory_;
  const auto limits = between.info();
  if (between.binding_) {
    check_transfer(limits, range, state_->options);
    auto in_buffer = range;
    in_buffer.buffer_offset += memory.offset();
    return state_->move(*between.binding_, way, in_buffer);
  }
  const auto pinned = between.method() == block_method::pinned_mapping;
  const auto target = between.target_.get();
  auto result = pinned ? state_->move_pinned(target, memory, way, range, limits)
                       : state_->bounce(target, memory, way, range, limits);
  result.routes[static_cast<std::size_t>(between.verdict().route)] = {.commands = result.commands,
                                                                      .bytes = result.bytes};
  return result;
}

}  // namespace dmabridge

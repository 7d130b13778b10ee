// SPDX-License-Identifier: MIT
#include "rdma_bench.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/registration_cache.hpp"

namespace dmabridge::command {
namespace {

constexpr std::uint64_t KiB = 1 << 10, MiB = 1 << 20;
constexpr std::array registered{4 * KiB, 64 * KiB, 1 * MiB, 16 * MiB};
constexpr std::array messages{64 * KiB, 1 * MiB};
constexpr std::uint64_t short_message = 8;
constexpr std::array operations{rdma_operation::read, rdma_operation::write};
// In one turn.
constexpr unsigned registrations_in_turn = 10;
constexpr unsigned hits_in_turn = 1000;
constexpr unsigned short_messages_in_turn = 100;
constexpr int peer_may = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;

void check_going_on(const std::atomic<bool>& stop) {
  if (stop.load(std::memory_order_relaxed)) {
    throw error({.kind = error_kind::io, .attempted = "measure to the end", .code = ECANCELED});
  }
}

// Nanoseconds of one.
auto cost(unsigned rounds, const auto& action) -> double {
  const auto begin = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < rounds; ++i) action();
  const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - begin;
  return taken.count() / rounds;
}

auto pages_for(std::uint64_t size) -> void* {
  auto* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (at == MAP_FAILED) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("get {} bytes of ordinary memory", size),
                 .code = errno});
  }
  return at;
}

class ordinary_memory {
 public:
  explicit ordinary_memory(std::uint64_t size) : size_(size), at_(pages_for(size)) {}
  ordinary_memory(const ordinary_memory&) = delete;
  auto operator=(const ordinary_memory&) -> ordinary_memory& = delete;
  ~ordinary_memory() { ::munmap(at_, size_); }

  auto at() const noexcept -> void* { return at_; }
  auto size() const noexcept -> std::uint64_t { return size_; }

 private:
  std::uint64_t size_;
  void* at_;
};

using region_of_memory = std::unique_ptr<ibv_mr, verbs_closer<ibv_dereg_mr>>;

auto register_ordinary(ibv_pd* domain, const ordinary_memory& memory, std::uint64_t length)
    -> region_of_memory {
  region_of_memory made(ibv_reg_mr(domain, memory.at(), length, peer_may));
  if (!made) {
    throw error({.kind = error_kind::system,
                 .attempted = fmt::format("register {} bytes of ordinary memory", length),
                 .code = errno,
                 .remedies = {"raise the limit of locked memory (ulimit -l)"}});
  }
  return made;
}

struct remote_memory {
  std::uint64_t address = 0;
  std::uint32_t key = 0;
};

// The peer that reads and writes what this process has registered.
class peer {
 public:
  peer(const open_rdma_device& device, std::uint64_t largest, const std::atomic<bool>& stop)
      : connection_(device),
        own_(largest),
        region_(register_ordinary(device.domain(), own_, largest)),
        stop_(stop) {}

  // Moves `total` bytes in messages of `message`, a divisor of it, at most `under_way` at once.
  void move(rdma_operation operation, const remote_memory& there, std::uint64_t total,
            std::uint64_t message, unsigned under_way);

 private:
  void post(rdma_operation operation, const remote_memory& there, std::uint64_t offset,
            std::uint64_t message);
  void complete_one();

  rdma_loopback connection_;
  ordinary_memory own_;
  region_of_memory region_;
  const std::atomic<bool>& stop_;
};

void peer::post(rdma_operation operation, const remote_memory& there, std::uint64_t offset,
                std::uint64_t message) {
  ibv_sge piece{.addr = reinterpret_cast<std::uintptr_t>(own_.at()) + offset % own_.size(),
                .length = static_cast<std::uint32_t>(message),
                .lkey = region_->lkey};
  ibv_send_wr request{};
  request.opcode = operation == rdma_operation::read ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
  request.sg_list = &piece;
  request.num_sge = 1;
  request.wr.rdma = {.remote_addr = there.address + offset, .rkey = there.key};
  connection_.post(request);
}

void peer::complete_one() {
  ibv_wc completion{};
  while (!connection_.poll(completion)) {
    check_going_on(stop_);
    std::this_thread::yield();
  }
  if (completion.status != IBV_WC_SUCCESS) {
    throw error({.kind = error_kind::io,
                 .attempted = "reach registered memory by RDMA",
                 .detail = ibv_wc_status_str(completion.status)});
  }
}

void peer::move(rdma_operation operation, const remote_memory& there, std::uint64_t total,
                std::uint64_t message, unsigned under_way) {
  std::uint64_t posted = 0;
  for (std::uint64_t completed = 0; completed < total; completed += message) {
    while (posted < total && posted - completed < under_way * message) {
      post(operation, there, posted, message);
      posted += message;
    }
    complete_one();
  }
}

class turns {
 public:
  void add(double ordinary, double buffer) {
    ordinary_.push_back(ordinary);
    buffer_.push_back(buffer);
    ratio_.push_back(buffer / ordinary);
  }
  auto result() const -> contest {
    return {.ordinary = median(ordinary_), .buffer = median(buffer_), .ratio = median(ratio_)};
  }

 private:
  std::vector<double> ordinary_, buffer_, ratio_;
};

class bench {
 public:
  bench(const open_rdma_device& device, const rdma_importer& importer, const buffer& memory,
        const rdma_bench_options& options)
      : device_(device),
        importer_(importer),
        memory_(memory),
        options_(options),
        ordinary_(memory.size()) {}

  auto operator()() -> rdma_bench_report;

 private:
  auto request(std::uint64_t length) const -> registration_request {
    return {.length = length, .access = peer_may, .policy = options_.wanted};
  }
  auto registration(std::uint64_t length) -> registration_cost;
  auto compare(const auto& measured) -> contest;
  auto rate(rdma_operation operation, std::uint64_t message) -> rdma_rate;
  auto latency(rdma_operation operation) -> rdma_latency;
  void move(peer& other, const remote_memory& there, rdma_operation operation,
            std::uint64_t message, unsigned under_way);

  const open_rdma_device& device_;
  const rdma_importer& importer_;
  const buffer& memory_;
  const rdma_bench_options& options_;
  ordinary_memory ordinary_;
};

auto bench::registration(std::uint64_t length) -> registration_cost {
  registration_cost found{.length = length};
  registration_cache cache(importer_);
  // Held, so that the buffer stays where it is: a registration is not to be charged with a move.
  const auto first = cache.get(memory_, request(length));
  turns all;
  std::vector<double> hits, ratios;
  for (unsigned turn = 0; turn < options_.turns; ++turn) {
    check_going_on(options_.stop);
    const auto plain = cost(registrations_in_turn,
                            [&] { register_ordinary(device_.domain(), ordinary_, length); });
    const auto buffer = cost(registrations_in_turn, [&] {
      importer_.register_memory(memory_, request(length)).deregister();
    });
    all.add(plain, buffer);
    hits.push_back(cost(hits_in_turn, [&] { cache.get(memory_, request(length)); }));
    ratios.push_back(buffer / hits.back());
  }
  found.ns = all.result();
  found.cached_ns = median(hits);
  found.cached_ratio = median(ratios);
  return found;
}

// `measured` gives one number for memory that a peer reaches.
auto bench::compare(const auto& measured) -> contest {
  const auto plain = register_ordinary(device_.domain(), ordinary_, memory_.size());
  const auto region = importer_.register_memory(memory_, request(memory_.size()));
  const remote_memory ordinary{reinterpret_cast<std::uintptr_t>(ordinary_.at()), plain->rkey};
  const remote_memory buffer{region.address(), region.rkey()};
  turns all;
  for (unsigned turn = 0; turn < options_.turns; ++turn) {
    const auto first = measured(ordinary);
    all.add(first, measured(buffer));
  }
  return all.result();
}

auto bench::rate(rdma_operation operation, std::uint64_t message) -> rdma_rate {
  const auto total = memory_.size() / message * message;
  peer other(device_, message * rdma_loopback::depth, options_.stop);
  return {.operation = operation,
          .message = message,
          .bytes_per_second = compare([&](const remote_memory& there) {
            const auto ns = cost(
                1, [&] { other.move(operation, there, total, message, rdma_loopback::depth); });
            return static_cast<double>(total) / ns * 1e9;
          })};
}

auto bench::latency(rdma_operation operation) -> rdma_latency {
  peer other(device_, short_message, options_.stop);
  return {.operation = operation,
          .message = short_message,
          .ns = compare([&](const remote_memory& there) {
            return cost(short_messages_in_turn,
                        [&] { other.move(operation, there, short_message, short_message, 1); });
          })};
}

auto bench::operator()() -> rdma_bench_report {
  rdma_bench_report report{
      .device = device_.name(), .size = memory_.size(), .turns = options_.turns};
  {
    const auto whole = importer_.register_memory(memory_, request(memory_.size()));
    report.method = whole.method();
    report.word = whole.verdict();
  }
  for (const auto length : registered) {
    if (length <= memory_.size()) report.registrations.push_back(registration(length));
  }
  for (const auto operation : operations) {
    for (const auto message : messages) {
      if (message <= memory_.size()) report.rates.push_back(rate(operation, message));
    }
    if (short_message <= memory_.size()) report.latencies.push_back(latency(operation));
  }
  return report;
}

}  // namespace

auto median(std::vector<double> values) -> double {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

auto measure(const open_rdma_device& device, const rdma_importer& importer, const buffer& memory,
             const rdma_bench_options& options) -> rdma_bench_report {
  return bench(device, importer, memory, options)();
}

}  // namespace dmabridge::command

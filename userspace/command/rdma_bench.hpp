// SPDX-License-Identifier: MIT
// What a buffer costs an RDMA program, beside ordinary memory in the same run.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "dmabridge/buffer.hpp"
#include "dmabridge/rdma_importer.hpp"
#include "dmabridge/registration.hpp"
#include "dmabridge/verdict.hpp"
#include "json.hpp"
#include "rdma_loopback.hpp"

namespace dmabridge::command {

// The medians of all turns. A ratio is the median of the ratios within each turn, as machines are
// noisy and both contenders of a turn meet the same noise.
struct contest {
  double ordinary = 0;
  double buffer = 0;
  double ratio = 0;  // buffer / ordinary
};

struct registration_cost {
  std::uint64_t length = 0;  // bytes
  contest ns{};              // to register and deregister
  double cached_ns = 0;      // to find it in the registration cache
  double cached_ratio = 0;   // how many times cheaper than registering the buffer that is
};

enum class rdma_operation : std::uint8_t { read, write };
auto to_string(rdma_operation value) -> std::string;

struct rdma_rate {
  rdma_operation operation = rdma_operation::read;
  std::uint64_t message = 0;  // bytes of one work request; as many under way as rdma_loopback takes
  contest bytes_per_second{};
};

struct rdma_latency {
  rdma_operation operation = rdma_operation::read;
  std::uint64_t message = 0;
  contest ns{};  // from posting one to its completion
};

struct rdma_bench_report {
  std::string device{};
  std::uint64_t size = 0;  // of the buffer
  unsigned turns = 0;
  registration_method method = registration_method::pinned_mapping;
  verdict word{};  // on the whole buffer
  std::vector<registration_cost> registrations{};
  std::vector<rdma_rate> rates{};
  std::vector<rdma_latency> latencies{};
};

struct rdma_bench_options {
  unsigned turns = 9;
  policy wanted = policy::prefer;
  const std::atomic<bool>& stop;  // ends it with ECANCELED
};

// Writes to the buffer, whose bytes are lost. Throws dmabridge::error.
auto measure(const open_rdma_device& device, const rdma_importer& importer, const buffer& memory,
             const rdma_bench_options& options) -> rdma_bench_report;

auto to_text(const rdma_bench_report& report) -> std::string;
auto to_json(const rdma_bench_report& report) -> json;

// The middle one, the upper of two; `values` must not be empty.
auto median(std::vector<double> values) -> double;

}  // namespace dmabridge::command

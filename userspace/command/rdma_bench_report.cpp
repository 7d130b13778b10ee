// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "dmabridge/error.hpp"
#include "dmabridge/size.hpp"
#include "rdma_bench.hpp"

namespace dmabridge::command {
namespace {

constexpr double ns_in_us = 1e3;
constexpr double bytes_in_mb = 1e6;

auto heading(const char* what, const char* unit, const char* more = "") -> std::string {
  return fmt::format("\n{:<20}{:>12}{:>12}{:>8}{}\n", fmt::format("{}, {}", what, unit), "ordinary",
                     "buffer", "ratio", more);
}

auto line(const std::string& what, const contest& both, double unit) -> std::string {
  return fmt::format("  {:<18}{:>12.1f}{:>12.1f}{:>8.2f}", what, both.ordinary / unit,
                     both.buffer / unit, both.ratio);
}

auto line(const registration_cost& one) -> std::string {
  return fmt::format("{}{:>12.2f}{:>16.0f}\n", line(format_size(one.length), one.ns, ns_in_us),
                     one.cached_ns / ns_in_us, one.cached_ratio);
}

auto named(rdma_operation operation, std::uint64_t message) -> std::string {
  return fmt::format("{} {}", to_string(operation), format_size(message));
}

auto to_json(const contest& both) -> json {
  return {{"ordinary", both.ordinary}, {"buffer", both.buffer}, {"ratio", both.ratio}};
}

auto to_json(const registration_cost& one) -> json {
  return {{"length", one.length},
          {"ns", to_json(one.ns)},
          {"cached_ns", one.cached_ns},
          {"cached_ratio", one.cached_ratio}};
}

auto to_json(const rdma_rate& one) -> json {
  return {{"operation", to_string(one.operation)},
          {"message", one.message},
          {"bytes_per_second", to_json(one.bytes_per_second)}};
}

auto to_json(const rdma_latency& one) -> json {
  return {
      {"operation", to_string(one.operation)}, {"message", one.message}, {"ns", to_json(one.ns)}};
}

auto list(const auto& all) -> json {
  auto made = json::array();
  for (const auto& one : all) made.push_back(to_json(one));
  return made;
}

}  // namespace

auto to_string(rdma_operation value) -> std::string {
  return value == rdma_operation::read ? "read" : "write";
}

auto to_text(const rdma_bench_report& report) -> std::string {
  auto text = fmt::format("RDMA device {}, buffer of {}: route {}, {} ({}); median of {} turns\n",
                          report.device, format_size(report.size), to_string(report.word.route),
                          to_string(report.method), to_string(report.word.state), report.turns);
  for (const auto& why : report.word.reasons) {
    text += format_reason(why, "  ", report.word.policy) + '\n';
  }
  text += heading("registration", "us", "      cached   buffer/cached");
  for (const auto& one : report.registrations) text += line(one);
  text += heading("bandwidth", "MB/s");
  for (const auto& one : report.rates) {
    text += line(named(one.operation, one.message), one.bytes_per_second, bytes_in_mb) + '\n';
  }
  text += heading("latency", "us");
  for (const auto& one : report.latencies) {
    text += line(named(one.operation, one.message), one.ns, ns_in_us) + '\n';
  }
  return text;
}

auto to_json(const rdma_bench_report& report) -> json {
  return {{"device", report.device},         {"size", report.size},
          {"turns", report.turns},           {"method", to_string(report.method)},
          {"verdict", to_json(report.word)}, {"registrations", list(report.registrations)},
          {"bandwidth", list(report.rates)}, {"latency", list(report.latencies)}};
}

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
// Tries the adaptors for vendors' APIs on the GPUs of this machine, for real: memory is allocated,
// exported, copied into and out of, and compared. One line for each adaptor. Exit status 0: all
// that there are work; 1: one does not; 77: this machine has none of the libraries.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "dmabridge/cuda_memory.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/hip_memory.hpp"
#include "dmabridge/level_zero_memory.hpp"

namespace {

using namespace dmabridge;

constexpr int skipped = 77;  // as meson and automake have it
constexpr std::uint64_t whole = (4 << 20) + 1000;
constexpr std::uint64_t inner_offset = 3 * 4096 + 512;  // in no page's beginning
constexpr std::uint64_t inner = 1 << 20;

struct adaptor {
  const char* name;
  std::function<exported_memory(int device)> allocate;
  // Part of what allocate() gave.
  std::function<exported_memory(const exported_memory&, std::uint64_t offset, std::uint64_t size)>
      export_part;
};

template <typename Owner>
auto as(const exported_memory& memory) -> Owner& {
  return dynamic_cast<Owner&>(memory.owner());
}

auto byte_at(void* base, std::uint64_t offset) -> void* {
  return static_cast<std::byte*>(base) + offset;
}

auto adaptors() -> std::vector<adaptor> {
  return {
      {"cuda", [](int device) { return allocate_cuda_memory(whole, device); },
       [](const exported_memory& memory, std::uint64_t offset, std::uint64_t size) {
         return export_cuda_memory(as<cuda_memory>(memory).pointer() + offset, size);
       }},
      {"hip", [](int device) { return allocate_hip_memory(whole, device); },
       [](const exported_memory& memory, std::uint64_t offset, std::uint64_t size) {
         return export_hip_memory(byte_at(as<hip_memory>(memory).pointer(), offset), size);
       }},
      {"level_zero", [](int device) { return allocate_level_zero_memory(whole, device); },
       [](const exported_memory& memory, std::uint64_t offset, std::uint64_t size) {
         const auto& gpu = as<level_zero_memory>(memory);
         return export_level_zero_memory(gpu.context(), byte_at(gpu.pointer(), offset), size);
       }},
  };
}

// Something is not as it has to be; the text says what.
class mismatch : public std::exception {
 public:
  explicit mismatch(std::string what) : what_(std::move(what)) {}
  auto what() const noexcept -> const char* override { return what_.c_str(); }

 private:
  std::string what_;
};

auto pattern(std::uint64_t size, unsigned int seed) -> std::vector<std::byte> {
  std::vector<std::byte> bytes(size);
  for (auto& each : bytes) {
    seed = seed * 1664525 + 1013904223;
    each = static_cast<std::byte>(seed >> 24);
  }
  return bytes;
}

void expect_bytes(const exported_memory& memory, std::uint64_t offset,
                  std::span<const std::byte> wanted, const char* where) {
  std::vector<std::byte> got(wanted.size());
  memory.owner().copy_out(offset, got);
  const auto [differs, _] = std::ranges::mismatch(got, wanted);
  if (differs == got.end()) return;
  throw mismatch(
      fmt::format("{}: byte {} of {} came back wrong", where, differs - got.begin(), got.size()));
}

// The same bytes by another way, the dma-buf itself, where its driver maps it for the CPU.
auto compare_mapping(const exported_memory& memory, std::span<const std::byte> wanted)
    -> std::string {
  try {
    const auto map = memory.memory().map(cpu_access::read);
    const cpu_access_bracket bracket(map, cpu_access::read);
    if (!std::ranges::equal(map.bytes().subspan(memory.offset(), memory.size()), wanted)) {
      throw mismatch("the dma-buf's mapping shows other bytes than were copied in");
    }
    return "its mapping shows the same";
  } catch (const error& refused) {
    return fmt::format("not compared by a mapping ({})", errno_name(refused.code()));
  }
}

// Allocates, exports and copies once; returns what there is to tell.
auto run_once(const adaptor& api, int device, unsigned int seed) -> std::string {
  const auto memory = api.allocate(device);
  auto wanted = pattern(whole, seed);
  memory.owner().copy_in(0, wanted);
  expect_bytes(memory, 0, wanted, "whole");

  const auto patch = pattern(777, seed + 1);
  memory.owner().copy_in(4095, patch);
  std::ranges::copy(patch, wanted.begin() + 4095);
  expect_bytes(memory, 0, wanted, "after a copy across a page's end");

  const auto part = api.export_part(memory, inner_offset, inner);
  expect_bytes(part, 0, std::span(wanted).subspan(inner_offset, inner), "exported part");
  const auto mapped = compare_mapping(part, std::span(wanted).subspan(inner_offset, part.size()));
  return fmt::format(
      "{}, exporter \"{}\", dma-buf of {} bytes, range at {}; part: {}, range at {}, {}",
      memory.owner().name(), memory.memory().exporter(), memory.memory().size(), memory.offset(),
      part.owner().name(), part.offset(), mapped);
}

auto open_descriptors() -> std::size_t {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// The first time the API opens devices that it keeps; from then on nothing may stay open.
auto run(const adaptor& api, int device) -> std::string {
  auto told = run_once(api, device, 1);
  const auto before = open_descriptors();
  for (unsigned int seed = 2; seed < 6; ++seed) run_once(api, device, seed);
  const auto after = open_descriptors();
  if (after == before) return told;
  throw mismatch(
      fmt::format("{} descriptors were open before four more runs, and {} after", before, after));
}

enum class outcome { passed, failed, no_library };

auto in_one_line(std::string text) -> std::string {
  for (auto at = text.find('\n'); at != std::string::npos; at = text.find('\n', at)) {
    text.replace(at, 1, " |");
  }
  return text;
}

auto tell(const char* api, const char* result, const std::string& text) {
  fmt::print("{:<11} {:<11} {}\n", api, result, in_one_line(text));
}

auto probe(const adaptor& api, int device) -> outcome {
  try {
    tell(api.name, "passed", run(api, device));
    return outcome::passed;
  } catch (const error& failure) {
    const auto missing = failure.code() == ELIBACC;
    tell(api.name, missing ? "no library" : "FAILED", failure.what());
    return missing ? outcome::no_library : outcome::failed;
  } catch (const std::exception& failure) {
    tell(api.name, "FAILED", failure.what());
    return outcome::failed;
  }
}

}  // namespace

auto main(int argc, char** argv) -> int {
  int device = 0;
  const std::string_view text = argc == 2 ? argv[1] : "0";
  const auto [rest, ec] = std::from_chars(text.data(), text.data() + text.size(), device);
  if (argc > 2 || ec != std::errc{} || rest != text.data() + text.size() || device < 0) {
    fmt::print(stderr, "usage: gpu_probe [NUMBER-OF-THE-GPU]\n");
    return 2;
  }
  std::vector<outcome> seen;
  for (const auto& api : adaptors()) seen.push_back(probe(api, device));
  if (std::ranges::count(seen, outcome::failed) != 0) return 1;
  return std::ranges::count(seen, outcome::passed) != 0 ? 0 : skipped;
}

// SPDX-License-Identifier: MIT
//
// Loads a file from its drive into a buffer of a region, and adds up its bytes there by Vulkan: the
// drive writes them where the shader reads them.
#include <fmt/format.h>
#include <sys/stat.h>
#include <dmabridge/block_importer.hpp>
#include <dmabridge/control.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/target.hpp>
#include <dmabridge/transfer.hpp>
#include <dmabridge/vulkan_memory.hpp>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "compute.hpp"
#include "sum.comp.h"

namespace {

using dmabridge::policy;

constexpr std::uint32_t groups = 64, group_size = 64;  // the latter is the shader's
constexpr std::uint64_t sums_size = std::uint64_t{groups} * group_size * sizeof(std::uint32_t);

struct options {
  std::string file;
  std::string region{};
  std::string device{};
  bool require = false;
};

void load(const dmabridge::control& module, const dmabridge::source& from,
          const dmabridge::buffer& into, policy wanted) {
  const dmabridge::binding between(module, into, from.descriptor(), from.path(), wanted,
                                   dmabridge::direction::read);
  const auto done = dmabridge::transfer_engine().load(between, {.length = from.size()});
  if (done.error != 0) {
    throw std::system_error(-done.error, std::generic_category(), "load " + from.path());
  }
  fmt::print("loaded {} bytes: route {}\n", done.bytes, to_string(between.verdict().route));
  for (const auto& why : between.verdict().reasons) fmt::print("  because {}\n", why.text());
}

auto add_up(const dmabridge::buffer& memory, std::uint64_t at) -> std::uint64_t {
  const auto map = memory.map(dmabridge::cpu_access::read);
  const dmabridge::cpu_access_bracket access(map, dmabridge::cpu_access::read);
  std::vector<std::uint32_t> sums(groups * group_size);
  std::memcpy(sums.data(), map.bytes().data() + at, sums_size);
  std::uint64_t sum = 0;
  for (const auto one : sums) sum += one;
  return sum;
}

void run(const options& asked) {
  const dmabridge::control module;
  const auto from = dmabridge::source::open(asked.file);
  if (from.size() == 0 || from.size() > UINT32_MAX) {
    throw std::runtime_error(fmt::format(
        "{} has {} bytes, and not at least one and less than 4 GiB", from.path(), from.size()));
  }
  const auto wanted = asked.require ? policy::require : policy::prefer;

  // Whole blocks, as a read may bring what follows the file's end; and the shader's sums.
  constexpr std::uint64_t block = 1 << 16;
  const auto room = (from.size() + block - 1) / block * block;
  const auto regions = module.regions();
  const auto memory =
      dmabridge::allocate(dmabridge::find_region(regions, asked.region), room + sums_size, wanted);
  load(module, from, memory, wanted);

  const auto device = dmabridge::vulkan_device::open({.name = asked.device, .exports = false});
  const auto shared = dmabridge::import_to_vulkan(device, memory);
  sample::compute work(device, sum_shader,
                       {{shared.handle(), 0, room}, {shared.handle(), room, sums_size}},
                       static_cast<std::uint32_t>(from.size()), groups);
  work.submit();
  work.wait();
  fmt::print("sum {}, by {}\n", add_up(memory, room), device.name());
}

}  // namespace

auto main(int count, char** arguments) -> int {
  options asked;
  CLI::App app("Adds up the bytes of a file by Vulkan, in a buffer of a dmabridge region");
  app.add_option("FILE", asked.file, "on an NVMe drive; less than 4 GiB")->required();
  app.add_option("--region", asked.region,
                 "name, node or PCI address; needed if there are several");
  app.add_option("--device", asked.device, "part of the Vulkan device's name");
  app.add_flag("--require", asked.require, "refuse what is not peer to peer");
  CLI11_PARSE(app, count, arguments);
  try {
    run(asked);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "vulkan-sum: {}\n", failure.what());
    return 1;
  }
}

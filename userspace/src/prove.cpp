// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "comparison.hpp"
#include "dmabridge/block_importer.hpp"
#include "dmabridge/confirm.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/region.hpp"
#include "dmabridge/target.hpp"
#include "dmabridge/transfer.hpp"

namespace dmabridge {
namespace {

// Of the target at a time: what the two scratch buffers hold.
constexpr std::uint64_t piece_size = 4 << 20;

// A buffer that a target is read into by one route.
class scratch {
 public:
  scratch(const control& module, const region_info& region, const source& from,
          const std::string& name, std::uint64_t size, policy of_buffer, policy of_importer,
          std::uint64_t salt)
      : memory_(allocate(region, size, of_buffer)),
        between_(module, memory_, from.descriptor(), name, of_importer, direction::read),
        bytes_(memory_.map(cpu_access::read_write)),
        salt_(salt) {}

  auto route() const noexcept -> dmabridge::route { return between_.verdict().route; }

  // Everything behind what arrived is the filling.
  auto read(transfer_engine& engine, std::uint64_t offset, std::uint64_t length,
            std::vector<std::byte>& to) -> transfer_result {
    {
      const cpu_access_bracket access(bytes_, cpu_access::write);
      fill_for_proof(bytes_.bytes(), salt_);
    }
    auto result = engine.load(between_, {.file_offset = offset, .length = length});
    to.resize(length);
    const cpu_access_bracket access(bytes_, cpu_access::read);
    std::memcpy(to.data(), bytes_.bytes().data(), length);
    return result;
  }

 private:
  buffer memory_;
  binding between_;
  mapping bytes_;
  std::uint64_t salt_;
};

[[noreturn]] void fail_read(const std::string& path, const char* by,
                            const transfer_result& result) {
  throw error(
      {.kind = error_kind::io,
       .attempted = fmt::format("read {} by {}, at offset {}", path, by, result.error_offset),
       .code = -result.error});
}

// Errors that tell of what somebody did to this process or its buffer, and not of the path.
auto is_disturbance(int error) -> bool {
  switch (-error) {
    case EINTR:
    case ECANCELED:
    case ENODEV:
    case EREMOTEIO:
    case ENOMEM:
      return true;
    default:
      return false;
  }
}

void read_by_system(scratch& system, transfer_engine& engine, const std::string& path,
                    std::uint64_t offset, std::uint64_t length, std::vector<std::byte>& to) {
  const auto result = system.read(engine, offset, length, to);
  if (result.error != 0) fail_read(path, "system memory", result);
  to.resize(result.bytes);
}

// What it was that a route brought, as the kernel counted it.
auto by_route(const transfer_result& result, route way) -> std::uint64_t {
  return result.routes[static_cast<std::size_t>(way)].bytes;
}

auto skip(proof result, std::string why) -> proof {
  result.skipped = std::move(why);
  return result;
}

auto refusal_text(const error& refused) -> std::string {
  std::string text = "the kernel refuses it:";
  for (const auto& why : refused.reasons()) text += " " + why.id();
  return text;
}

}  // namespace

auto prove(const control& module, const region_info& region, const importer_facts& importer,
           const std::string& path, std::uint64_t length) -> proof {
  proof result{.importer = importer.name};
  const auto from = source::open(path);
  length = std::min(length, from.size());
  if (length == 0) return skip(std::move(result), fmt::format("there are no bytes in {}", path));

  const auto size = std::min(length, piece_size);
  std::optional<scratch> direct;
  try {
    direct.emplace(module, region, from, importer.name, size, policy::prefer, importer.policy,
                   0x9e3779b97f4a7c15);
  } catch (const error& refused) {
    if (refused.kind() != error_kind::refused) throw;
    return skip(std::move(result), refusal_text(refused));
  }
  result.claimed = direct->route();
  if (result.claimed == route::system) {
    return skip(std::move(result), "its route is system memory, with which it would be compared");
  }
  scratch system(module, region, from, importer.name, size, policy::forbid, policy::prefer,
                 0xc2b2ae3d27d4eb4f);

  transfer_engine engine;
  reading piece;
  std::uint64_t by_claimed = 0;
  for (std::uint64_t offset = 0; offset < length; offset += size) {
    const auto part = std::min(size, length - offset);
    read_by_system(system, engine, path, offset, part, piece.before);
    const auto seen = direct->read(engine, offset, part, piece.claimed);
    if (is_disturbance(seen.error)) fail_read(path, to_string(result.claimed).c_str(), seen);
    by_claimed += by_route(seen, result.claimed);
    read_by_system(system, engine, path, offset, part, piece.after);
    compare(piece, offset, result);
  }

  if (result.different != 0) {
    result.broken = reason{.code = DMABRIDGE_REASON_BROKEN_PATH,
                           .blocks_p2p = true,
                           .value = result.different,
                           .name = importer.name};
    if (importer.functions.size() == 1) result.broken->device = importer.functions.front();
  } else if (by_claimed == 0) {
    result.compared = 0;
    return skip(std::move(result),
                fmt::format("the bytes came by another route than {}", to_string(result.claimed)));
  }
  return result;
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/verdict.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace dmabridge {
namespace {

template <typename Enum>
using names_of = std::pair<Enum, std::string_view>;

constexpr auto route_names = std::to_array<names_of<route>>({
    {route::none, "none"},
    {route::p2p_bus, "p2p_bus"},
    {route::p2p_host_bridge, "p2p_host_bridge"},
    {route::stolen, "stolen"},
    {route::system, "system"},
    {route::bounce, "bounce"},
    {route::unproved, "unproved"},
});
constexpr auto placement_names = std::to_array<names_of<placement>>({
    {placement::none, "none"},
    {placement::device, "device"},
    {placement::system, "system"},
});
constexpr auto policy_names = std::to_array<names_of<policy>>({
    {policy::require, "require"},
    {policy::prefer, "prefer"},
    {policy::forbid, "forbid"},
});
constexpr auto state_names = std::to_array<names_of<verdict_state>>({
    {verdict_state::predicted, "predicted"},
    {verdict_state::confirmed, "confirmed"},
    {verdict_state::proved, "proved"},
});

template <typename Enum>
auto name_of(std::span<const names_of<Enum>> names, Enum value, std::string_view what)
    -> std::string {
  const auto found = std::ranges::find(names, value, &names_of<Enum>::first);
  return found != names.end()
             ? std::string(found->second)
             : fmt::format("unknown_{}_{}", what, static_cast<std::uint32_t>(value));
}

template <typename Enum>
auto value_of(std::span<const names_of<Enum>> names, std::string_view text) -> std::optional<Enum> {
  const auto found = std::ranges::find(names, text, &names_of<Enum>::second);
  if (found == names.end()) return {};
  return found->first;
}

}  // namespace

auto to_string(route value) -> std::string {
  return name_of<route>(route_names, value, "route");
}
auto to_string(placement value) -> std::string {
  return name_of<placement>(placement_names, value, "placement");
}
auto to_string(policy value) -> std::string {
  return name_of<policy>(policy_names, value, "policy");
}
auto to_string(verdict_state value) -> std::string {
  return name_of<verdict_state>(state_names, value, "state");
}

auto parse_placement(std::string_view text) noexcept -> std::optional<placement> {
  return value_of<placement>(placement_names, text);
}
auto parse_policy(std::string_view text) noexcept -> std::optional<policy> {
  return value_of<policy>(policy_names, text);
}

auto combine(policy a, policy b) noexcept -> std::optional<policy> {
  if (a == b || b == policy::prefer) return a;
  if (a == policy::prefer) return b;
  return {};
}

auto satisfies_require(route value) noexcept -> bool {
  return value == route::p2p_bus || value == route::p2p_host_bridge || value == route::stolen;
}

auto verdict::from_kernel(const dmabridge_verdict& raw) -> verdict {
  verdict result;
  result.route = static_cast<dmabridge::route>(raw.route);
  if (raw.policy != 0) result.policy = static_cast<dmabridge::policy>(raw.policy);
  if (raw.distance >= 0) result.distance = raw.distance;
  const auto carried = std::min<std::uint32_t>(raw.nr_reasons, DMABRIDGE_MAX_REASONS);
  for (const auto& why : std::span(raw.reasons).first(carried)) {
    result.reasons.push_back(reason::from_kernel(why));
  }
  result.unreported = raw.nr_reasons - carried;
  return result;
}

}  // namespace dmabridge

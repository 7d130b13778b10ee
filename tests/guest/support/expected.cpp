// SPDX-License-Identifier: MIT
#include "expected.hpp"

#include <dmabridge.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dmabridge::test {

std::uint32_t ExpectedPair::redirected_route() const {
  return route == DMABRIDGE_ROUTE_NONE ? std::uint32_t(DMABRIDGE_ROUTE_SYSTEM) : route;
}

std::vector<ExpectedPair> expected_pairs() {
  const std::map<std::string, std::uint32_t> routes{
      {"none", DMABRIDGE_ROUTE_NONE},
      {"p2p_bus", DMABRIDGE_ROUTE_P2P_BUS},
      {"p2p_host_bridge", DMABRIDGE_ROUTE_P2P_HOST_BRIDGE},
      {"stolen", DMABRIDGE_ROUTE_STOLEN}};
  std::ifstream file("/host/topology.json");
  std::vector<ExpectedPair> expected;
  const auto topology = nlohmann::json::parse(file);
  for (const auto& verdict : topology.at("verdicts"))
    expected.push_back({verdict.at("requester"), verdict.at("memory"),
                        routes.at(verdict.at("route")), verdict.value("loses_bytes", false)});
  if (expected.empty()) throw std::runtime_error("the topology expects nothing");
  return expected;
}

}  // namespace dmabridge::test

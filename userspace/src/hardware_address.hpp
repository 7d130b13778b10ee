// SPDX-License-Identifier: MIT
// Addresses that single one device out of all there are, as they come in names: MAC addresses and
// GUIDs. udev names network and RDMA devices by them where it has nothing better.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

namespace dmabridge {

// Puts a stand-in for every such address: x1, x2, ..., the same for the same address.
class address_hider {
 public:
  // `text` with no address left. "enx00a0c9112233" becomes "enx1"; "00:a0:c9:11:22:33" alone "1".
  auto hide(std::string_view text) -> std::string;

 private:
  auto stand_in(std::string digits) -> std::string;

  std::map<std::string, std::size_t> seen_{};
};

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "dmabridge/registration.hpp"

namespace dmabridge {

auto to_string(registration_method value) -> std::string {
  return value == registration_method::dmabuf_mr ? "dmabuf_mr" : "pinned_mapping";
}

}  // namespace dmabridge

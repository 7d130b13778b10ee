// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

namespace dmabridge {

// At the end of `list`; an empty one takes what is there as it is, which is the usual case.
template <typename Element>
void append(std::vector<Element>&& more, std::vector<Element>& list) {
  if (list.empty()) {
    list = std::move(more);
  } else {
    std::ranges::move(more, std::back_inserter(list));
  }
}

}  // namespace dmabridge

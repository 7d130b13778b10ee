// SPDX-License-Identifier: MIT
#include "buffer_life.hpp"

#include <algorithm>

namespace dmabridge {

buffer_life::~buffer_life() {
  for (const auto& observer : observers_) {
    if (const auto living = observer.lock()) living->buffer_gone(inode_);
  }
}

void buffer_life::tell(const std::shared_ptr<buffer_observer>& who) {
  const std::lock_guard guard(lock_);
  std::erase_if(observers_, [](const auto& each) { return each.expired(); });
  const auto is_who = [&](const auto& each) {
    return !each.owner_before(who) && !who.owner_before(each);
  };
  if (std::ranges::none_of(observers_, is_who)) observers_.push_back(who);
}

}  // namespace dmabridge

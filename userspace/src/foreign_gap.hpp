// SPDX-License-Identifier: MIT
// What is not known of another exporter's memory, as facts that would have to be read.
#pragma once

#include "dmabridge/plan.hpp"

namespace dmabridge {

enum class foreign_gap {
  place,        // on which device it is, if on any
  p2p,          // whether importers get a device's memory
  path,         // whether the bytes arrive, as nobody asked for a path
  unstoppable,  // whether also those that cannot be stopped do
  move,         // whether it is moved for those that do not
  binding,      // whether a binding takes it
  copies,       // whether somebody can copy
  pins,         // whether a mapping can be pinned
};

auto unread(const buffer_facts& buffer, foreign_gap what) -> unread_fact;

}  // namespace dmabridge

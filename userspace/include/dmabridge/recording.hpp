// SPDX-License-Identifier: MIT
// A topology as text, to attach to a report and to read back anywhere; and the trees that lspci
// prints. Without serial numbers and MAC addresses: there is no place for them in a topology.
#pragma once

#include <string>
#include <string_view>

#include "dmabridge/api.hpp"
#include "dmabridge/topology.hpp"

namespace dmabridge {

// JSON, of a format that says its version. Reading it back gives an equal topology.
DMABRIDGE_API auto record(const topology& machine) -> std::string;

// Reads what record() wrote. Text from anybody may be given: throws dmabridge::error of kind usage,
// which names line and column and what is wrong, for everything that is no whole and consistent
// recording: also functions out of order or twice, parents that are none or go round in a circle,
// names of devices that are none.
DMABRIDGE_API auto read_recording(std::string_view text) -> topology;

// Reads what `lspci -D -nn -vvv` printed (as root, so that ACS is in it; what is not there is
// unread). The tree follows from the bridges' bus numbers. Throws like read_recording().
DMABRIDGE_API auto read_lspci(std::string_view text) -> topology;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
//
// Whatever is given to read_recording(), it is refused as the header says, or read and consistent
// and the same when written and read again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "dmabridge/error.hpp"
#include "dmabridge/recording.hpp"
#include "topology_check.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace dmabridge;
  topology machine;
  try {
    machine = read_recording({reinterpret_cast<const char*>(data), size});
  } catch (const error& refused) {
    if (refused.kind() != error_kind::usage) std::abort();
    return 0;
  }
  if (find_inconsistency(machine)) std::abort();
  // Names with addresses in them change once, to their stand-ins.
  const auto again = read_recording(record(machine));
  if (read_recording(record(again)) != again) std::abort();
  return 0;
}

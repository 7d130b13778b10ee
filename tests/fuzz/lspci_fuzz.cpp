// SPDX-License-Identifier: MIT
//
// Whatever is given to read_lspci(), it is refused as the header says, or read and consistent, and
// can be recorded.
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
    machine = read_lspci({reinterpret_cast<const char*>(data), size});
  } catch (const error& refused) {
    if (refused.kind() != error_kind::usage) std::abort();
    return 0;
  }
  if (find_inconsistency(machine)) std::abort();
  const auto again = read_recording(record(machine));
  if (again.functions.size() != machine.functions.size()) std::abort();
  return 0;
}

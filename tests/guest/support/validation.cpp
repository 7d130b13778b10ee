// SPDX-License-Identifier: MIT
#include "validation.hpp"

#include <cstdlib>
#include <fstream>
#include <iterator>

namespace dmabridge::test {

void enable_validation(const std::string& log) {
  const auto set = [](const char* name, const char* value) { setenv(name, value, 1); };
  set("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation");
  set("VK_KHRONOS_VALIDATION_DEBUG_ACTION", "VK_DBG_LAYER_ACTION_LOG_MSG");
  set("VK_KHRONOS_VALIDATION_REPORT_FLAGS", "error,warn,perf");
  set("VK_KHRONOS_VALIDATION_VALIDATE_SYNC", "1");
  set("VK_KHRONOS_VALIDATION_LOG_FILENAME", log.c_str());
}

std::string validation_messages(const std::string& log) {
  std::ifstream file(log);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace dmabridge::test

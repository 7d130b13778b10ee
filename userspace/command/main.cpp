// SPDX-License-Identifier: MIT
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "process.hpp"

auto main(int argc, char** argv) -> int {
  try {
    dmabridge::command::process process;
    const auto status =
        dmabridge::command::run(std::vector<std::string>(argv, argv + argc), process);
    // A report that nobody got must not look like one that says all is well.
    if (!std::cout.flush()) {
      std::cerr
          << "dmabridge: cannot write the report to the standard output; what it is about was "
             "done\n";
      return dmabridge::command::exit_system;
    }
    return status;
  } catch (const std::exception& failure) {
    std::cerr << "dmabridge: " << failure.what() << '\n';
    return dmabridge::command::exit_system;
  }
}

// SPDX-License-Identifier: MIT
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "process.hpp"

auto main(int argc, char** argv) -> int {
  try {
    dmabridge::command::process process;
    return dmabridge::command::run(std::vector<std::string>(argv, argv + argc), process);
  } catch (const std::exception& failure) {
    std::cerr << "dmabridge: " << failure.what() << '\n';
    return dmabridge::command::exit_system;
  }
}

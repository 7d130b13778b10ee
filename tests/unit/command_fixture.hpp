// SPDX-License-Identifier: MIT
// A subcommand, run on a made-up machine.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "command.hpp"
#include "fake_surroundings.hpp"
#include "gpu_server.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::command {

class command_fixture : public testing::Test {
 protected:
  explicit command_fixture(std::string subcommand) : subcommand_(std::move(subcommand)) {
    around_.facts = test::gpu_server();
  }
  ~command_fixture() override { std::filesystem::remove(file_); }

  auto run(std::vector<std::string> line) -> int {
    line.insert(line.begin(), {"dmabridge", subcommand_});
    around_.out_.str("");
    around_.err_.str("");
    return command::run(line, around_);
  }
  auto out() const -> std::string { return around_.out_.str(); }
  auto err() const -> std::string { return around_.err_.str(); }
  auto parsed() const -> nlohmann::json { return nlohmann::json::parse(out()); }

  const std::string subcommand_;
  testing::NiceMock<test::mock_system_calls> calls_;
  system_calls_override active_{calls_};
  fake_surroundings around_;
  // Gone afterwards.
  const std::string file_ =
      testing::TempDir() +
      fmt::format("{}-{}", subcommand_,
                  testing::UnitTest::GetInstance()->current_test_info()->name());
};

}  // namespace dmabridge::command

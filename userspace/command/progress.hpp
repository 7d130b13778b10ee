// SPDX-License-Identifier: MIT
// A line on a terminal that shows how far a transfer is.
#pragma once

#include <chrono>
#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>

namespace dmabridge::command {

class progress_line {
 public:
  // `columns`: of the terminal behind `out`, which are never exceeded, as what wraps cannot be
  // taken back. Nothing: there is none, and nothing is shown.
  progress_line(std::ostream& out, std::optional<unsigned> columns, std::string what,
                std::uint64_t total);
  progress_line(const progress_line&) = delete;
  auto operator=(const progress_line&) -> progress_line& = delete;
  // Takes the line off the terminal.
  ~progress_line();

  // Called as often as one likes.
  void update(std::uint64_t done);

 private:
  using clock = std::chrono::steady_clock;

  std::ostream& out_;
  std::optional<unsigned> columns_;
  std::string what_;
  std::uint64_t total_;
  clock::time_point start_ = clock::now();
  clock::time_point last_ = start_;
  bool drawn_ = false;
};

}  // namespace dmabridge::command

// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>
#include <utility>

#include "dmabridge/size.hpp"

namespace dmabridge::command {

constexpr auto redraw_interval = std::chrono::milliseconds(100);
constexpr auto erase_line = "\r\033[K";

progress_line::progress_line(std::ostream& out, std::optional<unsigned> columns, std::string what,
                             std::uint64_t total)
    : out_(out), columns_(columns), what_(std::move(what)), total_(total) {}

progress_line::~progress_line() {
  if (drawn_) out_ << erase_line << std::flush;
}

void progress_line::update(std::uint64_t done) {
  const auto now = clock::now();
  if (!columns_ || now - last_ < redraw_interval) return;
  last_ = now;
  drawn_ = true;
  const auto seconds = std::chrono::duration<double>(now - start_).count();
  const auto percent = total_ == 0 ? 100 : done * 100 / total_;
  auto text = fmt::format(
      "{} {:3}%  {} of {}  {}/s", what_, percent, format_size(done), format_size(total_),
      format_size(static_cast<std::uint64_t>(static_cast<double>(done) / seconds)));
  // The last column stays free: a terminal may wrap as soon as it is taken.
  const auto room = std::max(*columns_, 1U) - 1;
  if (text.size() > room) text.resize(room);
  out_ << erase_line << text << std::flush;
}

}  // namespace dmabridge::command

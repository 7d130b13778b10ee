// SPDX-License-Identifier: MIT
#include <zlib.h>

#include <array>
#include <memory>

#include "read_machine.hpp"
#include "sysfs.hpp"

namespace dmabridge {
namespace {

struct gz_close {
  void operator()(gzFile file) const { gzclose(file); }
};

// A file that gzip wrote, unpacked.
auto read_packed(const std::string& path) -> std::optional<std::string> {
  constexpr std::size_t longest = std::size_t{4} << 20;
  const std::unique_ptr<gzFile_s, gz_close> file(gzopen(path.c_str(), "rbe"));
  if (!file) return {};
  std::string text;
  std::array<char, 16384> part;
  for (;;) {
    const auto got = gzread(file.get(), part.data(), static_cast<unsigned>(part.size()));
    if (got < 0 || text.size() > longest) return {};
    if (got == 0) return text;
    text.append(part.data(), static_cast<std::size_t>(got));
  }
}

}  // namespace

kernel_config::kernel_config(const machine_roots& roots, const std::string& release) {
  // The kernel's own word before files that a packager put there.
  text_ = read_packed(roots.proc + "/config.gz");
  if (release.empty()) return;
  if (!text_) text_ = read_file(roots.boot + "/config-" + release).text;
  if (!text_) text_ = read_file(roots.modules + "/" + release + "/config").text;
}

auto kernel_config::value(std::string_view option) const -> std::string {
  const auto start = "\n" + std::string(option) + "=";
  const auto text = "\n" + text_.value_or("");
  const auto found = text.find(start);
  if (found == std::string::npos) return {};
  const auto from = found + start.size();
  return text.substr(from, text.find('\n', from) - from);
}

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
//
// mutate ITERATIONS SUFFIX FOLDER [FIRST]: runs a fuzz target without libFuzzer, on changed copies
// of the files in FOLDER whose names end in SUFFIX. What iteration N does depends on N alone, so
// that a failure comes back with `mutate 1 SUFFIX FOLDER N`.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

// Sanitizers end the program by a signal, which names the iteration.
extern "C" const char* __asan_default_options() {
  return "abort_on_error=1";
}
extern "C" const char* __ubsan_default_options() {
  return "abort_on_error=1:print_stacktrace=1";
}

namespace {

namespace filesystem = std::filesystem;

// Pieces that matter to the readers.
constexpr auto pieces =
    std::to_array<std::string_view>({"{",
                                     "}",
                                     "[",
                                     "]",
                                     "\"",
                                     ":",
                                     ",",
                                     "null",
                                     "-1",
                                     "1e9",
                                     "18446744073709551616",
                                     "\\u0000",
                                     "\\ud800",
                                     "\xff",
                                     "\xc2\x9b",
                                     "\n",
                                     "\t",
                                     "\"parent\": \"0000:00:01.0\",",
                                     "\"0x0\"",
                                     "\"ffffffff:ff:1f.7\"",
                                     "0000:00:01.0 ",
                                     "PCI bridge [0604]: ",
                                     "[8086:1901]",
                                     "\tBus: primary=00, secondary=00, subordinate=ff\n",
                                     "\tCapabilities: <access denied>\n",
                                     "\tCapabilities: [148 v1] Access Control Services\n",
                                     "ACSCtl:",
                                     "SrcValid+",
                                     "[size=16E]",
                                     "VF offset: 65535, stride: 0",
                                     "Number of VFs: 4294967295"});

// The iteration that is under way, for who looks at a core or at the message below.
volatile std::sig_atomic_t current = 0;

void name_iteration(int) {
  std::array<char, 64> text{};
  const auto length =
      std::snprintf(text.data(), text.size(), "in iteration %d\n", static_cast<int>(current));
  std::fwrite(text.data(), 1, static_cast<std::size_t>(length), stderr);
  std::_Exit(1);
}

auto read_corpus(const filesystem::path& folder, std::string_view suffix)
    -> std::vector<std::string> {
  std::vector<filesystem::path> files;
  for (const auto& entry : filesystem::directory_iterator(folder))
    if (entry.path().filename().string().ends_with(suffix)) files.push_back(entry.path());
  std::ranges::sort(files);
  std::vector<std::string> corpus;
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  return corpus;
}

class mutator {
 public:
  mutator(const std::vector<std::string>& corpus, std::uint32_t iteration)
      : corpus_(corpus), engine_(iteration) {}

  auto make() -> std::string {
    text_ = corpus_[roll(corpus_.size())];
    // Half of the time only a part, as small inputs are changed more thoroughly.
    if (roll(2) == 0) cut(roll(text_.size() + 1), text_.size());
    for (auto count = 1 + roll(6); count > 0; --count) change();
    return std::move(text_);
  }

 private:
  auto roll(std::size_t sides) -> std::size_t { return sides == 0 ? 0 : engine_() % sides; }

  void cut(std::size_t from, std::size_t to) { text_.erase(from, to - from); }

  void change() {
    const auto at = roll(text_.size() + 1);
    const auto length = roll(std::min<std::size_t>(text_.size() - at, 400) + 1);
    switch (roll(7)) {
      case 0:
        if (at < text_.size()) text_[at] = static_cast<char>(engine_());
        break;
      case 1:
        text_.erase(at, length);
        break;
      case 2:
        text_.insert(roll(text_.size() + 1), text_.substr(at, length));
        break;
      case 3:
        text_.insert(at, pieces[roll(pieces.size())]);
        break;
      case 4:
        text_.replace(at, std::min<std::size_t>(length, 12), pieces[roll(pieces.size())]);
        break;
      case 5: {
        const auto& other = corpus_[roll(corpus_.size())];
        text_.insert(at, other.substr(roll(other.size() + 1), length));
        break;
      }
      case 6:
        change_digit(at);
        break;
    }
  }

  // The next digit from here on becomes another: addresses, sizes and numbers that lead elsewhere.
  void change_digit(std::size_t at) {
    const auto digit = text_.find_first_of("0123456789abcdef", at);
    if (digit != std::string::npos) text_[digit] = "0123456789abcdef"[roll(16)];
  }

  const std::vector<std::string>& corpus_;
  std::mt19937 engine_;
  std::string text_{};
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s ITERATIONS SUFFIX FOLDER [FIRST]\n", argv[0]);
    return 2;
  }
  const auto corpus = read_corpus(argv[3], argv[2]);
  if (corpus.empty()) {
    std::fprintf(stderr, "no file in %s ends in %s\n", argv[3], argv[2]);
    return 2;
  }
  std::signal(SIGABRT, name_iteration);
  const auto first = argc > 4 ? std::atoi(argv[4]) : 0;
  const auto end = first + std::atoi(argv[1]);
  for (auto iteration = first; iteration < end; ++iteration) {
    current = iteration;
    const auto text = mutator(corpus, static_cast<std::uint32_t>(iteration)).make();
    // A copy of exactly that size, so that reading past its end is seen.
    const std::vector<std::uint8_t> data(text.begin(), text.end());
    LLVMFuzzerTestOneInput(data.data(), data.size());
  }
  std::printf("%d iterations\n", end - first);
  return 0;
}

// SPDX-License-Identifier: MIT
//
// Loads a file into a memfd and hands it on as a dma-buf, by the kernel's own udmabuf: no module of
// dmabridge is needed, and none is looked for. The drive writes into the memfd's pages (O_DIRECT),
// which are the dma-buf's.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>
#include <dmabridge/block_attachment.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/exported_memory.hpp>
#include <dmabridge/fd.hpp>
#include <dmabridge/target.hpp>
#include <dmabridge/transfer.hpp>
#include <dmabridge/udmabuf.hpp>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

namespace {

struct options {
  std::string file;
  std::vector<std::string> command{};
};

[[noreturn]] void fail(int code, const std::string& what) {
  throw std::system_error(code, std::generic_category(), what);
}

// Zeroed, and never to be shrunk: a device may be using its pages.
auto make_memfd(std::uint64_t size) -> dmabridge::fd {
  dmabridge::fd memfd(::memfd_create("udmabuf-load", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd || ::ftruncate(memfd.get(), static_cast<off_t>(size)) != 0 ||
      ::fcntl(memfd.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    fail(errno, fmt::format("make a memfd of {} bytes", size));
  }
  return memfd;
}

void load(const dmabridge::source& from, const dmabridge::exported_memory& into) {
  const dmabridge::block_attachment between(nullptr, into, from.descriptor(), from.path(),
                                            dmabridge::policy::prefer, dmabridge::direction::read);
  const auto done = dmabridge::transfer_engine().load(between, {.length = from.size()});
  if (done.error != 0) fail(-done.error, "load " + from.path());
  if (done.ended_early) throw std::runtime_error(from.path() + " has become shorter meanwhile");
  fmt::print("loaded {} bytes: {}, route {} ({})\n", done.bytes,
             dmabridge::to_string(between.method()), dmabridge::to_string(between.verdict().route),
             dmabridge::to_string(between.verdict().state));
  for (const auto& why : between.verdict().reasons) fmt::print("  because {}\n", why.text());
  std::fflush(stdout);
}

// The command gets the fd, and is told of it as those of "dmabridge load" are. The pages live for
// as long as anybody has it.
[[noreturn]] void hand_on(const dmabridge::exported_memory& memory, std::uint64_t length,
                          const std::vector<std::string>& command) {
  const int inherited = ::dup(memory.memory().descriptor());
  if (inherited < 0) fail(errno, "hand on the dma-buf");
  ::setenv("DMABRIDGE_BUFFER_FD", std::to_string(inherited).c_str(), 1);
  ::setenv("DMABRIDGE_BUFFER_LENGTH", std::to_string(length).c_str(), 1);
  std::vector<char*> arguments;
  for (const auto& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  ::execvp(arguments.front(), arguments.data());
  fail(errno, "run " + command.front());
}

void run(const options& asked) {
  const auto from = dmabridge::source::open(asked.file);
  if (from.size() == 0) throw std::runtime_error(from.path() + " is empty");
  // Whole blocks: a read may bring what follows the file's end.
  constexpr std::uint64_t block = 1 << 16;
  const auto size = (from.size() + block - 1) / block * block;
  const auto memfd = make_memfd(size);
  const auto memory = dmabridge::udmabuf_of(memfd.get(), 0, size);
  load(from, memory);
  if (!asked.command.empty()) hand_on(memory, from.size(), asked.command);
}

}  // namespace

auto main(int count, char** arguments) -> int {
  options asked;
  CLI::App app("Loads a file into a memfd, and hands it on as a dma-buf: a udmabuf");
  app.add_option("FILE", asked.file, "file or block device")->required();
  app.add_option("COMMAND", asked.command,
                 "after --: is run with the dma-buf as fd $DMABRIDGE_BUFFER_FD; its first "
                 "$DMABRIDGE_BUFFER_LENGTH bytes are the file");
  CLI11_PARSE(app, count, arguments);
  try {
    run(asked);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "udmabuf-load: {}\n", failure.what());
    return 1;
  }
}

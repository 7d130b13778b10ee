// SPDX-License-Identifier: MIT
//
// Serves a file by RDMA: loads it from its drive into a buffer of a region, or into a udmabuf, by
// io_uring, and lets clients read it there. Each client writes one of the same length into a buffer
// of its own, which goes to the drive as FILE.from-N. A client that dies takes nothing with it but
// its own buffer.
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <dmabridge/any_memory.hpp>
#include <dmabridge/block_attachment.hpp>
#include <dmabridge/control.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/exported_memory.hpp>
#include <dmabridge/rdma_importer.hpp>
#include <dmabridge/region.hpp>
#include <dmabridge/transfer.hpp>
#include <dmabridge/udmabuf.hpp>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "connection.hpp"

namespace {

using dmabridge::policy;

struct options {
  std::string file;
  std::string region{};
  std::string device = "rxe0";
  std::uint16_t port = 7471;
  int clients = 1;
  bool require = false;
  bool udmabuf = false;
};

// Lines of several threads stay whole.
void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

auto describe(const dmabridge::verdict& word) -> std::string {
  auto text = "route " + dmabridge::to_string(word.route);
  for (const auto& why : word.reasons) text += "\n  because " + why.text();
  return text;
}

// Of the whole file, whose length need not be a multiple of anything: the rest of the last block
// comes along, and is cut off again where it was written.
auto move_bytes(const dmabridge::control& module, const dmabridge::exported_memory& memory,
                int file, const std::string& name, std::uint64_t length, bool load) -> std::string {
  const dmabridge::block_attachment between(
      &module, memory, file, name, policy::prefer,
      load ? dmabridge::direction::read : dmabridge::direction::write);
  dmabridge::transfer_engine engine;
  const dmabridge::transfer_range range{.length = length};
  const auto done = load ? engine.load(between, range) : engine.save(between, range);
  if (done.error != 0) {
    throw std::system_error(-done.error, std::generic_category(),
                            (load ? "load " : "save ") + name);
  }
  return describe(between.verdict());
}

class server {
 public:
  explicit server(const options& asked)
      : asked_(asked),
        device_(asked.device),
        importer_(device_.domain(), &module_),
        file_(dmabridge::fd::open(asked.file, O_RDONLY)),
        length_(length_of(file_.get(), asked.file)),
        memory_(allocate()) {}

  void run() {
    const dmabridge::registration_request wanted{
        .length = length_,
        .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ,
        .policy = asked_.require ? policy::require : policy::prefer};
    const auto outlook = importer_.outlook(memory_, wanted);
    say(fmt::format("foretold: {} by {}; {}", describe(outlook.word),
                    dmabridge::to_string(outlook.method), outlook.consequence));
    const auto region = importer_.register_memory(memory_, wanted);
    say(fmt::format("registered: {}", describe(region.verdict())));
    say(fmt::format("loaded: {}",
                    move_bytes(module_, memory_, file_.get(), asked_.file, length_, true)));
    sum_ = checksum_of(memory_);
    serve(region);
  }

 private:
  static auto length_of(int file, const std::string& name) -> std::uint64_t {
    struct stat status{};
    if (::fstat(file, &status) != 0) throw std::system_error(errno, std::generic_category(), name);
    if (!S_ISREG(status.st_mode) || status.st_size == 0) {
      throw std::runtime_error(name + " is no file, or an empty one");
    }
    return static_cast<std::uint64_t>(status.st_size);
  }

  // Whole blocks: a read may bring what follows the file's end.
  auto allocate() const -> dmabridge::exported_memory {
    constexpr std::uint64_t block = 1 << 16;
    const auto size = (length_ + block - 1) / block * block;
    if (asked_.udmabuf) return dmabridge::allocate_udmabuf(size);
    const auto regions = module_.regions();
    return dmabridge::any_memory(
        dmabridge::allocate(dmabridge::find_region(regions, asked_.region), size, policy::prefer));
  }

  auto checksum_of(const dmabridge::exported_memory& memory) const -> std::uint64_t {
    const auto map = memory.memory().map(dmabridge::cpu_access::read);
    const dmabridge::cpu_access_bracket access(map, dmabridge::cpu_access::read);
    return sample::checksum(map.bytes().first(length_));
  }

  void serve(const dmabridge::memory_region& region) {
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const dmabridge::fd owner(listener);
    const int yes = 1;
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(asked_.port);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        ::listen(listener, 16) != 0) {
      throw std::system_error(errno, std::generic_category(), "listen");
    }
    say("ready");
    std::vector<std::jthread> threads;
    for (int number = 0; number < asked_.clients; ++number) {
      const int peer = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (peer < 0) throw std::system_error(errno, std::generic_category(), "accept");
      threads.emplace_back([this, &region, peer, number] {
        try {
          serve_one(region, sample::line_socket(peer), number);
        } catch (const std::exception& failure) {
          say(fmt::format("client {}: {}", number, failure.what()));
        }
      });
    }
  }

  void serve_one(const dmabridge::memory_region& region, sample::line_socket peer, int number) {
    const auto inbox = allocate();
    const auto target = importer_.register_memory(
        inbox, {.length = length_, .access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE});
    sample::connection with(device_, peer);
    with.establish();
    peer.send(fmt::format("{} {} {} {} {} {}", length_, sum_, region.address(), region.rkey(),
                          target.address(), target.rkey()));
    // Messages of one connection arrive in order: what the client wrote is all there.
    with.wait_for_notice();

    const auto name = fmt::format("{}.from-{}", asked_.file, number);
    const auto file = dmabridge::fd::open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    // File systems take writes to blocks that are there.
    if (const auto code = ::posix_fallocate(file.get(), 0, static_cast<off_t>(inbox.size()))) {
      throw std::system_error(code, std::generic_category(), name);
    }
    const auto how = move_bytes(module_, inbox, file.get(), name, length_, false);
    if (::ftruncate(file.get(), static_cast<off_t>(length_)) != 0 || ::fsync(file.get()) != 0) {
      throw std::system_error(errno, std::generic_category(), name);
    }
    say(fmt::format("client {}: saved {}: {}", number, name, how));
    peer.send("saved");
  }

  const options& asked_;
  const dmabridge::control module_{};
  const sample::device device_;
  const dmabridge::rdma_importer importer_;
  const dmabridge::fd file_;
  const std::uint64_t length_;
  const dmabridge::exported_memory memory_;
  std::uint64_t sum_ = 0;
};

}  // namespace

auto main(int count, char** arguments) -> int {
  options asked;
  CLI::App app("Serves a file by RDMA out of a buffer of a dmabridge region");
  app.add_option("FILE", asked.file, "to be served, on an NVMe drive")->required();
  app.add_option("--region", asked.region,
                 "name, node or PCI address; needed if there are several");
  app.add_option("--device", asked.device, "RDMA device")->capture_default_str();
  app.add_option("--port", asked.port, "TCP port")->capture_default_str();
  app.add_option("--clients", asked.clients, "end after so many")->capture_default_str();
  app.add_flag("--udmabuf", asked.udmabuf, "ordinary memory as a dma-buf, in place of a region's");
  app.add_flag("--require", asked.require, "refuse what is not peer to peer");
  CLI11_PARSE(app, count, arguments);
  try {
    server(asked).run();
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "server: {}\n", failure.what());
    return 1;
  }
}

// SPDX-License-Identifier: MIT
//
// Reads the server's file by RDMA and verifies it, writes one back, every byte inverted, and waits
// until the server has it on its drive. Its own memory is ordinary: nothing of dmabridge is needed.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "connection.hpp"

namespace {

constexpr std::size_t block = 1 << 20;

struct options {
  std::string host;
  std::string port = "7471";
  std::string device = "rxe0";
  std::string save{};
  bool stall = false;
};

void run(const options& asked) {
  const sample::device device(asked.device);
  auto peer = sample::line_socket::connect(asked.host, asked.port);
  sample::connection with(device, peer);
  with.establish();

  std::uint64_t length = 0, sum = 0;
  sample::remote_memory source, target;
  std::istringstream told(peer.receive());
  if (!(told >> length >> sum >> source.address >> source.key >> target.address >> target.key)) {
    throw std::runtime_error("the server does not tell what it has");
  }

  std::vector<std::byte> bytes(length);
  const std::unique_ptr<ibv_mr, sample::closer<ibv_dereg_mr>> region(
      ibv_reg_mr(device.domain(), bytes.data(), length, IBV_ACCESS_LOCAL_WRITE));
  if (!region) throw std::runtime_error("cannot register memory (see ulimit -l)");
  const std::span all(bytes);
  for (std::size_t at = 0; at < length; at += block) {
    with.read(all.subspan(at, std::min(block, length - at)), region->lkey,
              {source.address + at, source.key});
    if (asked.stall && at >= length / 2) {
      fmt::print("stalled\n");
      std::fflush(stdout);
      for (;;) ::pause();
    }
  }
  if (sample::checksum(bytes) != sum) throw std::runtime_error("what was read is not the file");
  fmt::print("read {} bytes, as they should be\n", length);
  if (!asked.save.empty()) {
    std::ofstream(asked.save, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(length));
  }

  for (auto& byte : bytes) byte = ~byte;
  for (std::size_t at = 0; at < length; at += block) {
    with.write(all.subspan(at, std::min(block, length - at)), region->lkey,
               {target.address + at, target.key});
  }
  with.notify();
  if (peer.receive() != "saved") throw std::runtime_error("the server did not save it");
  fmt::print("written, and on the server's drive\n");
}

}  // namespace

auto main(int count, char** arguments) -> int {
  options asked;
  CLI::App app("Reads a file by RDMA, and writes one back");
  app.add_option("HOST", asked.host, "the server's address")->required();
  app.add_option("--port", asked.port, "TCP port")->capture_default_str();
  app.add_option("--device", asked.device, "RDMA device")->capture_default_str();
  app.add_option("--save", asked.save, "write what was read to this file");
  app.add_flag("--stall", asked.stall, "stop in the middle, and wait to be killed");
  CLI11_PARSE(app, count, arguments);
  try {
    run(asked);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "client: {}\n", failure.what());
    return 1;
  }
}

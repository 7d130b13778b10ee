// SPDX-License-Identifier: MIT
//
// samples/rdma: its server and its clients, each in a network namespace of its own.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "machine.hpp"
#include "support/block_fixture.hpp"

namespace dmabridge::test {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* programs = "/build/samples/rdma";

// A program in a namespace, killed at the end if it has not ended by itself.
class Process {
 public:
  Process(const std::string& space, const std::string& command) {
    static int count = 0;
    log_ = fmt::format("/tmp/rdma-sample-{}.log", count++);
    const std::string line =
        fmt::format("exec ip netns exec {} {}/{} >{} 2>&1", space, programs, command, log_);
    process_ = fork();
    if (process_ == 0) {
      execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      _exit(127);
    }
  }
  ~Process() {
    if (process_ > 0) kill();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  std::string output() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool says(const std::string& text) const {
    return eventually([&] { return output().find(text) != std::string::npos || has_ended(); },
                      std::chrono::seconds(60)) &&
           output().find(text) != std::string::npos;
  }
  // Its exit status, or 128 + the signal that ended it.
  int wait() {
    int status = 0;
    waitpid(process_, &status, 0);
    process_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  int kill() {
    ::kill(process_, SIGKILL);
    return wait();
  }

 private:
  bool has_ended() const {
    siginfo_t info{};
    return waitid(P_PID, static_cast<id_t>(process_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
  }

  std::string log_;
  pid_t process_ = 0;
};

void run(const std::string& command) {
  const Output output = shell(command);
  if (output.status != 0) throw std::runtime_error(command + ": " + output.text);
}

class RdmaSample : public GuestTest {
 protected:
  static void SetUpTestSuite() { run("/src/samples/rdma/two-hosts up"); }
  static void TearDownTestSuite() { run("/src/samples/rdma/two-hosts down"); }

  void SetUp() override { make_pattern_file(file_, size, tag); }
  void TearDown() override {
    for (const auto& entry : std::filesystem::directory_iterator(mount_->file("")))
      if (entry.is_regular_file()) std::filesystem::remove(entry.path());
    mount_.reset();
    GuestTest::TearDown();
  }

  std::unique_ptr<Process> serve(std::uint32_t kind, int clients, const std::string& more = "") {
    for (const auto& region : regions()) {
      if (region.kind != kind) continue;
      return std::make_unique<Process>(
          "server", fmt::format("rdma-server {} --device rxe_server --region {} --clients {} {}",
                                file_, region.name, clients, more));
    }
    throw std::runtime_error("no such region");
  }
  static std::unique_ptr<Process> visit(const std::string& more = "") {
    return std::make_unique<Process>("client", "rdma-client 10.78.0.1 --device rxe_client " + more);
  }

  // What that client sent is on the drive, and what it read was the file.
  void check_exchange(int number, const std::string& saved) const {
    const auto read = read_file(saved, 0, size + 1);
    EXPECT_EQ(read.size(), size);
    EXPECT_EQ(pattern_difference(read.data(), read.size(), tag, 0), "");
    const std::string name = fmt::format("{}.from-{}", file_, number);
    drop_page_cache(open_file(name, O_RDONLY).get());
    auto written = read_file(name, 0, size + 1);
    EXPECT_EQ(written.size(), size);
    for (std::byte& byte : written) byte = ~byte;
    EXPECT_EQ(pattern_difference(written.data(), written.size(), tag, 0), "");
  }

  static constexpr std::uint64_t size = 3 * MiB + 1234;
  static constexpr std::uint8_t tag = 0x5d;
  std::unique_ptr<Mount> mount_ = std::make_unique<Mount>(drive("SAMESW", "ext4").path(), "ext4");
  const std::string file_ = mount_->file("served");
};

TEST_F(RdmaSample, FileGoesThereAndAnotherComesBack) {
  const auto server = serve(DMABRIDGE_REGION_BAR, 1);
  ASSERT_TRUE(server->says("ready")) << server->output();
  const auto client = visit("--save /tmp/read");
  EXPECT_EQ(client->wait(), 0) << client->output() << server->output();
  EXPECT_EQ(server->wait(), 0) << server->output();
  check_exchange(0, "/tmp/read");
  // The drive is on the device's switch, and yet: because of rxe.
  EXPECT_THAT(server->output(), HasSubstr("foretold: route system"));
  EXPECT_THAT(server->output(), HasSubstr("registered: route system"));
  EXPECT_THAT(server->output(), HasSubstr("by the CPU"));
  EXPECT_THAT(server->output(), HasSubstr("loaded: route system"));
}

TEST_F(RdmaSample, OfStolenMemoryNothingIsCopied) {
  const auto server = serve(DMABRIDGE_REGION_STOLEN, 1, "--require");
  ASSERT_TRUE(server->says("ready")) << server->output();
  const auto client = visit("--save /tmp/read");
  EXPECT_EQ(client->wait(), 0) << client->output() << server->output();
  EXPECT_EQ(server->wait(), 0) << server->output();
  check_exchange(0, "/tmp/read");
  EXPECT_THAT(server->output(), HasSubstr("registered: route stolen"));
  EXPECT_THAT(server->output(), HasSubstr("loaded: route stolen"));
  EXPECT_THAT(server->output(), Not(HasSubstr("route system")));
}

TEST_F(RdmaSample, OfAUdmabufNothingIsCopiedEither) {
  const auto server = serve(DMABRIDGE_REGION_BAR, 1, "--udmabuf");
  ASSERT_TRUE(server->says("ready")) << server->output();
  const auto client = visit("--save /tmp/read");
  EXPECT_EQ(client->wait(), 0) << client->output() << server->output();
  EXPECT_EQ(server->wait(), 0) << server->output();
  check_exchange(0, "/tmp/read");
  EXPECT_THAT(server->output(), HasSubstr("registered: route system"));
  EXPECT_THAT(server->output(), HasSubstr("loaded: route system"));
  EXPECT_THAT(server->output(), Not(HasSubstr("route bounce")));
}

TEST_F(RdmaSample, SeveralClientsAtOnce) {
  const auto server = serve(DMABRIDGE_REGION_BAR, 3);
  ASSERT_TRUE(server->says("ready")) << server->output();
  std::vector<std::unique_ptr<Process>> clients;
  for (int i = 0; i < 3; i++) clients.push_back(visit(fmt::format("--save /tmp/read-{}", i)));
  for (const auto& client : clients) EXPECT_EQ(client->wait(), 0) << client->output();
  EXPECT_EQ(server->wait(), 0) << server->output();
  for (int i = 0; i < 3; i++) check_exchange(i, fmt::format("/tmp/read-{}", i));
}

TEST_F(RdmaSample, KilledClientHarmsNobodyElse) {
  const auto server = serve(DMABRIDGE_REGION_BAR, 2);
  ASSERT_TRUE(server->says("ready")) << server->output();
  const auto victim = visit("--stall");
  ASSERT_TRUE(victim->says("stalled")) << victim->output() << server->output();
  EXPECT_EQ(victim->kill(), 128 + SIGKILL);
  const auto client = visit("--save /tmp/read");
  EXPECT_EQ(client->wait(), 0) << client->output() << server->output();
  EXPECT_EQ(server->wait(), 0) << server->output();
  EXPECT_THAT(server->output(), HasSubstr("client 0: the peer is gone"));
  EXPECT_NE(access((file_ + ".from-0").c_str(), F_OK), 0);
  check_exchange(1, "/tmp/read");
}

TEST_F(RdmaSample, RequiredOnTheDeviceItIsRefused) {
  const auto server = serve(DMABRIDGE_REGION_BAR, 1, "--require");
  EXPECT_EQ(server->wait(), 1);
  EXPECT_THAT(server->output(), HasSubstr("foretold: route none"));
  EXPECT_THAT(server->output(), HasSubstr("cannot register"));
  EXPECT_THAT(server->output(), HasSubstr("by the CPU"));
}

}  // namespace
}  // namespace dmabridge::test

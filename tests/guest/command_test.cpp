// SPDX-License-Identifier: MIT
//
// The installed command: what it prints, and its exit status.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "support/block_fixture.hpp"

namespace dmabridge::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// As its manual page says.
constexpr int ok = 0, system_failure = 1, refused = 2, usage = 4, not_found = 127;

class Command : public GuestTest {
 protected:
  static Output run(const std::string& arguments) { return shell("dmabridge " + arguments); }

  // Nothing but JSON may come out, on success and on failure.
  static json run_json(const std::string& arguments, int status = ok) {
    const Output output = run(arguments);
    EXPECT_EQ(output.status, status) << output.text;
    return json::parse(output.text);
  }

  const Drive near_ = drive("SAMESW");
  const Drive far_ = drive("OTHERRP");
};

TEST_F(Command, InfoShowsTheRegion) {
  const auto region = first_region();
  const Output output = run("info");
  EXPECT_EQ(output.status, ok) << output.text;
  EXPECT_THAT(output.text, HasSubstr(region.name));
  EXPECT_THAT(output.text, HasSubstr("dmabridge_pci"));
  EXPECT_THAT(output.text, HasSubstr(pci_address(region.device)));
  EXPECT_THAT(output.text, HasSubstr(std::to_string(region.size)));
  const json parsed = run_json("info --json");
  EXPECT_EQ(parsed.at("regions").at(0).at("name"), region.name);
  EXPECT_EQ(parsed.at("regions").at(0).at("size"), region.size);
}

TEST_F(Command, ReportThatNobodyGotIsAFailure) {
  for (const char* form : {"info", "info --json"}) {
    const Output output = shell(fmt::format("dmabridge {} 2>&1 >/dev/full", form));
    EXPECT_EQ(output.status, system_failure) << form;
    EXPECT_THAT(output.text, HasSubstr("cannot write the report")) << form;
  }
}

TEST_F(Command, LoadSaysWhichRouteTheBytesTook) {
  TraceWatch watch;
  const json report =
      run_json(fmt::format("load {} --length 8M --policy require --json", near_.path()));
  EXPECT_EQ(report.at("bytes"), 8 * MiB);
  EXPECT_EQ(report.at("verdict").at("route"), "p2p_bus");
  EXPECT_EQ(report.at("routes").at("p2p_bus").at("bytes"), 8 * MiB);
  EXPECT_EQ(report.at("routes").size(), 1u);
  const auto account = watch.account(near_, oracle::Operation::read, {{0, 8 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 8 * MiB);
  EXPECT_EQ(account.payload.outside, 0u);
  EXPECT_EQ(report.at("disk_requests"), account.payload.commands);
}

TEST_F(Command, RefusalTellsWhyAndWhatToDo) {
  const Output output = run(fmt::format("load {} --length 1M --policy require", far_.path()));
  EXPECT_EQ(output.status, refused);
  EXPECT_THAT(output.text, HasSubstr("host bridge"));
  const json report =
      run_json(fmt::format("load {} --length 1M --policy require --json", far_.path()), refused);
  EXPECT_EQ(report.at("error").at("kind"), "refused");
  ASSERT_FALSE(report.at("error").at("reasons").empty());
  EXPECT_FALSE(report.at("error").at("reasons").at(0).at("remedy").get<std::string>().empty());
  EXPECT_FALSE(report.at("error").at("reasons").at(0).at("evidence").get<std::string>().empty());
}

TEST_F(Command, RedirectIsSaid) {
  const Output output = run(fmt::format("load {} --length 1M --policy prefer", far_.path()));
  EXPECT_EQ(output.status, ok) << output.text;
  EXPECT_THAT(output.text, HasSubstr("system"));
  EXPECT_THAT(output.text, testing::Not(HasSubstr("p2p_bus  ")));
  const json report =
      run_json(fmt::format("load {} --length 1M --policy prefer --json", far_.path()));
  EXPECT_EQ(report.at("verdict").at("route"), "system");
  EXPECT_FALSE(report.at("verdict").at("reasons").empty());
  EXPECT_EQ(report.at("routes").at("system").at("bytes"), 1 * MiB);
}

TEST_F(Command, FileGoesThereAndBack) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  const std::uint64_t size = 3 * MiB + 1234;
  make_pattern_file(mount.file("in"), size, 0x2c);
  const Output output =
      run(fmt::format("load {0} --policy require -- sh -c 'dmabridge save {1} --policy require "
                      "--length $DMABRIDGE_BUFFER_LENGTH && "
                      "dmabridge info --buffer fd:$DMABRIDGE_BUFFER_FD --json >/tmp/info.json'",
                      mount.file("in"), mount.file("out")));
  EXPECT_EQ(output.status, ok) << output.text;
  const auto bytes = read_file(mount.file("out"), 0, size + 1);
  EXPECT_EQ(bytes.size(), size);
  EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x2c, 0), "");
  const json info = json::parse(std::ifstream("/tmp/info.json"));
  EXPECT_EQ(info.at("buffer").at("placement"), "device");
  EXPECT_FALSE(info.at("buffer").at("chunks").empty());
  // A file that exists is not replaced unasked.
  EXPECT_EQ(
      run(fmt::format("load {} -- dmabridge save {}", mount.file("in"), mount.file("out"))).status,
      usage);
  unlink(mount.file("in").c_str());
  unlink(mount.file("out").c_str());
}

TEST_F(Command, EmptyFile) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  make_pattern_file(mount.file("empty"), 0, 0);
  const json report = run_json(fmt::format("load {} --json", mount.file("empty")));
  EXPECT_EQ(report.at("bytes"), 0);
  unlink(mount.file("empty").c_str());
}

TEST_F(Command, FileLargerThanTheBufferIsRefusedWithTheSizes) {
  const Output output = run(fmt::format("load {} --length 2M --size 1M", near_.path()));
  EXPECT_EQ(output.status, usage);
  EXPECT_THAT(output.text, HasSubstr("2097152"));
  EXPECT_THAT(output.text, HasSubstr("1048576"));
}

TEST_F(Command, BufferLargerThanTheRegionIsRefused) {
  const Output output = run(fmt::format("load {} --length 1M --size 1G", near_.path()));
  EXPECT_NE(output.status, ok);
  EXPECT_THAT(output.text, HasSubstr("dmabridge: "));
}

TEST_F(Command, WritingToABlockDeviceNeedsForce) {
  const Output output =
      run(fmt::format("load {0} --length 1M -- dmabridge save {0} --length 4096", near_.path()));
  EXPECT_EQ(output.status, usage);
  EXPECT_THAT(output.text, HasSubstr("--force"));
}

TEST_F(Command, MistakesHaveAClearMessage) {
  for (const char* arguments :
       {"", "frobnicate", "load", "load /nowhere", "load /tmp", "load /dev/null",
        "load /etc/passwd --policy perhaps", "load /etc/passwd --length 12Q",
        "load /etc/passwd --region nosuch", "save /tmp/x", "save /tmp/x --buffer fd:99",
        "save /tmp/x --buffer fd:0", "info --buffer pid:999999:3", "info --region nosuch"}) {
    const Output output = run(arguments);
    EXPECT_NE(output.status, ok) << arguments;
    EXPECT_LT(output.status, 126) << arguments << ": " << output.text;
    EXPECT_THAT(output.text, HasSubstr("dmabridge: ")) << arguments;
  }
  EXPECT_NE(access("/tmp/x", F_OK), 0) << "a save that fails leaves no file";
}

TEST_F(Command, SuccessorThatDoesNotExist) {
  EXPECT_EQ(run(fmt::format("load {} --length 4096 -- no-such-program", near_.path())).status,
            not_found);
}

TEST_F(Command, KeepServesAnotherProcessAndEndsAtASignal) {
  const Output output = shell(
      fmt::format("dmabridge load {0} --length 1M --keep --json >/tmp/keep.json & pid=$!\n"
                  "for i in $(seq 100); do grep -q spec /tmp/keep.json && break; sleep 0.1; done\n"
                  "spec=$(sed -n 's/.*\"spec\": \"\\(.*\\)\".*/\\1/p' /tmp/keep.json)\n"
                  "dmabridge save /tmp/kept --policy prefer --buffer $spec; saved=$?\n"
                  "kill -TERM $pid; wait $pid\n"
                  "head -c 1048576 {0} | cmp - /tmp/kept && exit $saved",
                  near_.path()));
  EXPECT_EQ(output.status, ok) << output.text;
  unlink("/tmp/kept");
}

TEST_F(Command, HelpAndVersion) {
  EXPECT_EQ(run("--help").status, ok);
  EXPECT_EQ(run("--version").status, ok);
  for (const char* name : {"info", "load", "save"}) {
    const Output output = run(fmt::format("{} --help", name));
    EXPECT_EQ(output.status, ok);
    EXPECT_THAT(output.text, HasSubstr("Examples"));
  }
}

}  // namespace
}  // namespace dmabridge::test

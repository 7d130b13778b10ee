// SPDX-License-Identifier: MIT
//
// The installed command: what it prints, and its exit status.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "support/block_fixture.hpp"

namespace dmabridge::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// As its manual page says.
constexpr int ok = 0, system_failure = 1, refused = 2, usage = 4, not_found = 127;
// Of explain.
constexpr int all_p2p = 0, not_all_p2p = 1, unknown = 3;

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

// What each API's memory got is what a file that is saved from its dma-buf has.
TEST_F(Command, FileGoesIntoMemoryOfEveryApiAndBack) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  const std::uint64_t size = 3 * MiB + 1234;
  make_pattern_file(mount.file("in"), size, 0x3d);
  for (const std::string api : {"udmabuf", "dma-heap", "dma-heap:system", "vulkan:llvmpipe"}) {
    const Output output =
        run(fmt::format("load {0} --into {2} --json -- sh -c 'dmabridge save {1} --length "
                        "$DMABRIDGE_BUFFER_LENGTH >/tmp/save.log 2>&1'",
                        mount.file("in"), mount.file("out"), api));
    ASSERT_EQ(output.status, ok) << api << ": " << output.text << shell("cat /tmp/save.log").text;
    const json report = json::parse(output.text);
    EXPECT_EQ(report.at("bytes"), size) << api;
    EXPECT_EQ(report.at("buffer"), nullptr) << api;
    drop_page_cache(open_file(mount.file("out"), O_RDONLY).get());
    const auto bytes = read_file(mount.file("out"), 0, size + 1);
    EXPECT_EQ(bytes.size(), size) << api;
    EXPECT_EQ(pattern_difference(bytes.data(), bytes.size(), 0x3d, 0), "") << api;
    unlink(mount.file("out").c_str());
  }
  unlink(mount.file("in").c_str());
}

// Its module unloaded, as on a machine that never had it.
TEST_F(Command, MemoryOfOtherApisNeedsNoModule) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  make_pattern_file(mount.file("in"), 1 * MiB, 0x4e);
  const std::string hidden =
      "unshare --mount sh -c 'mount -t tmpfs none /dev && "
      "mknod /dev/udmabuf c $(tr : \" \" </sys/class/misc/udmabuf/dev) && "
      "mknod /dev/null c 1 3 && {}'";
  const Output output = shell(fmt::format(
      fmt::runtime(hidden), fmt::format("dmabridge load {} --into udmabuf", mount.file("in"))));
  EXPECT_EQ(output.status, ok) << output.text;
  EXPECT_THAT(output.text, HasSubstr("mapping that can be pinned"));
  EXPECT_THAT(output.text, HasSubstr("[foreign_buffer]"));
  unlink(mount.file("in").c_str());
}

TEST_F(Command, PeerToPeerIntoMemoryOfAnotherApiIsRefused) {
  const Output output =
      run(fmt::format("load {} --length 1M --into udmabuf --policy require 2>&1", near_.path()));
  EXPECT_EQ(output.status, refused) << output.text;
  EXPECT_THAT(output.text, HasSubstr("[foreign_buffer]"));
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

// As somebody who is neither root nor in a group.
std::string unprivileged(const std::string& arguments) {
  return fmt::format("setpriv --reuid 65534 --regid 65534 --clear-groups dmabridge {}", arguments);
}

// The label of the device that has this name, or is this function.
std::string label_of(const json& topo, const std::string& what) {
  for (const json& device : topo.at("devices")) {
    const json& names = device.at("names");
    if (device.at("function") == what || std::ranges::find(names, json(what)) != names.end())
      return device.at("label");
  }
  throw std::runtime_error("topo has no " + what + ": " + topo.dump(1));
}

TEST_F(Command, TopoShowsWhoReachesWhom) {
  const std::string gpu = pci_address(first_region().device);
  const Output output = run("topo");
  EXPECT_EQ(output.status, ok) << output.text;
  EXPECT_THAT(output.text, HasSubstr(gpu));
  EXPECT_THAT(output.text, HasSubstr(near_.disk));
  EXPECT_THAT(output.text, testing::ContainsRegex("guest +of "));
  const json topo = run_json("topo --json");
  const std::string row = label_of(topo, gpu);
  const json& proximity = topo.at("proximity").at(row);
  EXPECT_EQ(proximity.at(label_of(topo, near_.disk)), "PIX");
  EXPECT_EQ(proximity.at(label_of(topo, far_.disk)), "PHB");
  const json& p2p = topo.at("p2p").at(row);
  EXPECT_EQ(p2p.at(label_of(topo, near_.disk)).at("p2p"), "yes");
  EXPECT_EQ(p2p.at(label_of(topo, far_.disk)).at("p2p"), "no");
  EXPECT_EQ(p2p.at(label_of(topo, "vda")).at("p2p"), "no");
}

TEST_F(Command, TopoOfARecordingIsThatOfTheMachine) {
  ASSERT_EQ(run("topo --record /tmp/machine.json").status, ok);
  json here = run_json("topo --json");
  json there = run_json("topo --json --from /tmp/machine.json");
  EXPECT_EQ(there.at("source"), "/tmp/machine.json");
  // The recording has no regions.
  for (const char* key : {"machine", "functions", "unread"})
    EXPECT_EQ(here.at(key), there.at(key)) << key;
  unlink("/tmp/machine.json");
}

TEST_F(Command, TopoAsAGraph) {
  const std::string gpu = pci_address(first_region().device);
  const Output output = run(fmt::format("topo --dot --path {} {}", gpu, far_.path()));
  EXPECT_EQ(output.status, ok) << output.text;
  EXPECT_TRUE(output.text.starts_with("graph ")) << output.text;
  EXPECT_TRUE(output.text.ends_with("}\n")) << output.text;
  EXPECT_THAT(output.text, HasSubstr("color=red"));
  if (shell("command -v dot >/dev/null").status == 0) {
    EXPECT_EQ(shell(fmt::format("dmabridge topo --dot --path {} {} | dot -Tsvg >/dev/null", gpu,
                                far_.path()))
                  .status,
              0);
  }
}

TEST_F(Command, ExplainSaysTheRouteThatTheKernelTakes) {
  const std::string region = first_region().name;
  const json near_told =
      run_json(fmt::format("explain {} {} --json", region, near_.path()), all_p2p);
  EXPECT_EQ(near_told.at("state"), "confirmed");
  EXPECT_EQ(near_told.at("plan").at("importers").at(0).at("verdict").at("route"), "p2p_bus");
  EXPECT_TRUE(near_told.at("differences").empty()) << near_told.dump(1);
  const json far_told =
      run_json(fmt::format("explain {} {} --json", region, far_.path()), not_all_p2p);
  EXPECT_EQ(far_told.at("state"), "confirmed");
  EXPECT_EQ(far_told.at("plan").at("importers").at(0).at("verdict").at("route"), "system");
  EXPECT_TRUE(far_told.at("differences").empty()) << far_told.dump(1);
  const json virtio = run_json(fmt::format("explain {} /dev/vda --json", region), not_all_p2p);
  EXPECT_TRUE(virtio.at("differences").empty()) << virtio.dump(1);
}

TEST_F(Command, ExplainTellsWhyAndWhoSpoilsIt) {
  const std::string region = first_region().name;
  const Output output = run(fmt::format("explain {} {} {}", region, near_.path(), far_.path()));
  EXPECT_EQ(output.status, not_all_p2p);
  EXPECT_THAT(output.text, HasSubstr("host bridge that the kernel does not list"));
  EXPECT_THAT(output.text, HasSubstr("to fix it: "));
  EXPECT_THAT(output.text, HasSubstr("demoted by  " + far_.path()));
  EXPECT_EQ(run(fmt::format("explain {} {} --policy require", region, far_.path())).status,
            refused);
  EXPECT_EQ(run(fmt::format("explain {} /dev/nosuch", region)).status, usage);
}

TEST_F(Command, ExplainOfAFile) {
  const Mount mount(drive("SAMESW", "ext4").path(), "ext4");
  make_pattern_file(mount.file("file"), 1 * MiB, 0x31);
  const json told =
      run_json(fmt::format("explain {} {} --json --prove", first_region().name, mount.file("file")),
               all_p2p);
  EXPECT_EQ(told.at("plan").at("importers").at(0).at("kind"), "file");
  EXPECT_EQ(told.at("proofs").at(0).at("compared"), 1 * MiB) << told.dump(1);
  EXPECT_EQ(told.at("proofs").at(0).at("different"), 0);
  unlink(mount.file("file").c_str());
}

TEST_F(Command, ProofMovesTheBytesByTheRouteThatIsClaimed) {
  TraceWatch watch;
  const Output output =
      run(fmt::format("explain {} {} --prove --size 4M", first_region().name, near_.path()));
  EXPECT_EQ(output.status, all_p2p) << output.text;
  EXPECT_THAT(output.text, HasSubstr("4 MiB read by p2p_bus and through system memory, identical"));
  const auto account = watch.account(near_, oracle::Operation::read, {{0, 4 * MiB, 0}});
  EXPECT_EQ(account.payload.inside, 4 * MiB);
}

TEST_F(Command, ExplainWithoutPrivileges) {
  const Output output =
      shell(unprivileged(fmt::format("explain {} {}", first_region().name, near_.disk)));
  // Root alone reads the ACS of bridges and opens the drive; but the answer is never ok by
  // guessing.
  EXPECT_TRUE(output.status == all_p2p || output.status == unknown) << output.text;
  if (output.status == unknown) {
    EXPECT_THAT(output.text, HasSubstr("root"));
  }
  EXPECT_THAT(output.text, HasSubstr("answer: "));
  const Output topo = shell(unprivileged("topo"));
  EXPECT_EQ(topo.status, ok) << topo.text;
  EXPECT_THAT(topo.text, HasSubstr("could not be read"));
}

TEST_F(Command, InfoShowsTheBuffersOfOthers) {
  const Output output = shell(
      fmt::format("dmabridge load {0} --length 1M --keep --json >/tmp/keep.json & pid=$!\n"
                  "for i in $(seq 100); do grep -q spec /tmp/keep.json && break; sleep 0.1; done\n"
                  "dmabridge info --json >/tmp/info.json; shown=$?\n"
                  "{1} >/tmp/hidden.txt\n"
                  "kill -TERM $pid; wait $pid; exit $shown",
                  near_.path(), unprivileged("info")));
  EXPECT_EQ(output.status, ok) << output.text;
  const json kept = json::parse(std::ifstream("/tmp/keep.json"));
  const json info = json::parse(std::ifstream("/tmp/info.json"));
  ASSERT_EQ(info.at("buffers").size(), 1u) << info.dump(1);
  const json& buffer = info.at("buffers").at(0);
  // The library may have more than one.
  EXPECT_TRUE(std::ranges::any_of(buffer.at("holders"), [&](const json& holder) {
    return holder.at("spec") == kept.at("spec");
  })) << info.dump(1);
  EXPECT_EQ(buffer.at("buffer").at("placement"), "device");
  EXPECT_EQ(buffer.at("buffer").at("size"), 1 * MiB);
  // Others' processes are not looked into, and that is said.
  std::ifstream hidden("/tmp/hidden.txt");
  const std::string text(std::istreambuf_iterator<char>(hidden), {});
  EXPECT_THAT(text, HasSubstr("not visible: the buffers of "));
  EXPECT_THAT(text, testing::Not(HasSubstr("held by")));
  for (const char* file : {"/tmp/keep.json", "/tmp/info.json", "/tmp/hidden.txt"}) unlink(file);
}

TEST_F(Command, HelpAndVersion) {
  EXPECT_EQ(run("--help").status, ok);
  EXPECT_EQ(run("--version").status, ok);
  for (const char* name : {"explain", "info", "load", "save", "topo"}) {
    const Output output = run(fmt::format("{} --help", name));
    EXPECT_EQ(output.status, ok);
    EXPECT_THAT(output.text, HasSubstr("Examples"));
  }
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// dmabridge explain as its user sees it.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.hpp"
#include "command_fixture.hpp"
#include "dmabridge/error.hpp"
#include "dmabridge/recording.hpp"
#include "explanation.hpp"
#include "fake_exporter.hpp"
#include "gpu_server.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::command {
namespace {

using test::at;
using test::control_fd;
using testing::_;
using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class explain_test : public command_fixture {
 protected:
  explain_test() : command_fixture("explain") {}

  // Why the first importer's question has the answer that it has.
  auto status(const std::string& subject) -> std::string {
    const auto told = parsed();
    for (const auto& check : told["plan"]["importers"][0]["checks"]) {
      if (check["subject"] == subject) return check["status"];
    }
    return "not asked";
  }
};

TEST_F(explain_test, drive_below_the_same_switch) {
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_p2p) << out() << err();
  EXPECT_THAT(out(), HasSubstr("answer: peer to peer\n"));
  EXPECT_THAT(out(), HasSubstr("predicted, and not confirmed by the kernel: "));
  EXPECT_THAT(out(), ContainsRegex("ok +kernel +Linux 7.2.12-test is built with"));
  EXPECT_THAT(out(), ContainsRegex("unknown +module "));
  EXPECT_THAT(out(), HasSubstr("modprobe dmabridge"));
  EXPECT_THAT(out(), ContainsRegex("ok +path +0000:04:00.0 to 0000:03:00.0: PIX, by bridges "
                                   "0000:02:01.0, 0000:01:00.0, 0000:02:00.0, distance 4"));
  EXPECT_THAT(out(), HasSubstr("p2p_bus, no copy (predicted)"));
  EXPECT_THAT(out(), ContainsRegex("forbid +system memory: nvme0n1 system, no copy"));
  EXPECT_EQ(err(), "");
}

TEST_F(explain_test, what_only_hinders_writes_is_not_told_to_who_reads) {
  around_.facts.blocks.push_back({.name = "md0",
                                  .kind = block_kind::md,
                                  .legs = {"nvme0n1", "nvme1n1"},
                                  .level = "raid1",
                                  .stable_writes = false,
                                  .integrity = false});
  EXPECT_EQ(run({"GPU0", "md0"}), exit_not_p2p) << err();
  EXPECT_THAT(out(), HasSubstr("importer md0 (block, "));
  EXPECT_THAT(out(), HasSubstr("for writes only: md takes a disk"));
  EXPECT_EQ(run({"GPU0", "md0", "--for", "write"}), exit_not_p2p) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("importer md0 (block to write, "),
                           HasSubstr("for writes only: md takes a disk")));
  EXPECT_EQ(run({"GPU0", "md0", "--for", "read"}), exit_not_p2p) << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("importer md0 (block to read, "),
                           HasSubstr("the disk is made of others"), Not(HasSubstr("writes"))));
  ASSERT_EQ(run({"GPU0", "md0", "--for", "read", "--json"}), exit_not_p2p);
  EXPECT_EQ(parsed()["plan"]["importers"][0]["for"], "read");
}

TEST_F(explain_test, what_is_the_same_for_all_legs_is_said_once) {
  around_.facts.blocks.push_back({.name = "md0",
                                  .kind = block_kind::md,
                                  .legs = {"nvme0n1", "nvme1n1"},
                                  .level = "raid0",
                                  .stable_writes = false,
                                  .integrity = false});
  ASSERT_EQ(run({"GPU0", "md0", "--json"}), exit_not_p2p) << err();
  std::map<std::string, int> seen;
  const auto told = parsed();
  for (const auto& check : told["plan"]["importers"][0]["checks"]) {
    ++seen[check["subject"].get<std::string>() + ": " + check["evidence"].get<std::string>()];
  }
  for (const auto& [answer, times] : seen) EXPECT_EQ(times, 1) << answer;
  EXPECT_EQ(seen.count("IOMMU: none is in use"), 1U);
  const auto is_path = [](const auto& each) { return each.first.starts_with("path: "); };
  EXPECT_EQ(std::ranges::count_if(seen, is_path), 2) << "each leg has its own";
}

TEST_F(explain_test, why_a_fact_is_missing_is_told_by_who_looked_for_it) {
  test::function_of(around_.facts, "02:01.0").acs.reset();
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_unknown) << out();
  EXPECT_THAT(out(), HasSubstr("ACS of 0000:02:01.0 is not known: its extended configuration"));
  around_.facts.unread.push_back({.what = "ACS of 0000:02:01.0", .why = "it is not in the source"});
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_unknown) << out();
  EXPECT_THAT(out(), AllOf(HasSubstr("ACS of 0000:02:01.0 is not known: it is not in the source\n"),
                           Not(HasSubstr("extended configuration"))));
}

TEST_F(explain_test, what_hangs_on_something_unknown_is_not_told_as_sure) {
  around_.facts.machine.cpu_vendor.clear();
  around_.facts.machine.cpu_family.reset();
  EXPECT_EQ(run({"GPU0", "nvme1n1"}), exit_unknown) << out();
  EXPECT_THAT(out(),
              ContainsRegex("unknown +host bridge +the CPU's vendor and family is not known"));
  EXPECT_THAT(out(), ContainsRegex("unknown +host bridge +only if what is not known turns out "
                                   "badly: the two devices meet in a host bridge"));
  EXPECT_THAT(out(), Not(ContainsRegex("blocked +host bridge")));
}

TEST_F(explain_test, same_answer_by_whatever_name) {
  ASSERT_EQ(run({"GPU0", "nvme0n1", "--json"}), exit_p2p);
  const auto plan = parsed()["plan"]["placement"];
  for (const auto* memory : {"GPU0", "0000:04:00.0", "04:00.0"}) {
    for (const auto* importer : {"nvme0n1", "/dev/nvme0n1"}) {
      EXPECT_EQ(run({memory, importer, "--json"}), exit_p2p) << memory << importer << err();
      EXPECT_EQ(parsed()["plan"]["placement"], plan);
      EXPECT_EQ(parsed()["plan"]["importers"][0]["importer"], importer);
    }
  }
  for (const auto* importer : {"mlx5_0", "ens1f0np0", "0000:06:00.0"}) {
    EXPECT_EQ(run({"GPU0", importer}), exit_p2p) << importer << out() << err();
  }
  for (const auto* memory : {"card1", "/dev/dri/card1", "renderD128", "/dev/dri/renderD128"}) {
    EXPECT_EQ(run({memory, "mlx5_0"}), exit_p2p) << memory << out() << err();
  }
}

TEST_F(explain_test, drive_of_another_root_port_is_redirected_and_why) {
  EXPECT_EQ(run({"GPU0", "nvme1n1"}), exit_not_p2p) << err();
  EXPECT_THAT(out(), HasSubstr("answer: works, but not peer to peer: nvme1n1"));
  EXPECT_THAT(out(), ContainsRegex("blocked +host bridge +.*8086:29c0"));
  EXPECT_THAT(out(), HasSubstr("to fix it: move both devices below one PCIe switch"));
  EXPECT_THAT(out(), HasSubstr("system, no copy"));
  EXPECT_THAT(out(), Not(HasSubstr("use policy prefer"))) << "that is the policy in force";
}

TEST_F(explain_test, require_is_refused_with_its_own_status) {
  EXPECT_EQ(run({"GPU0", "nvme1n1", "--policy", "require"}), exit_refused);
  EXPECT_THAT(out(), AllOf(HasSubstr("answer: refused: nvme1n1"), HasSubstr("use policy prefer")));
}

TEST_F(explain_test, acs_has_one_remedy_for_all_bridges_of_the_path) {
  test::redirect(around_.facts, "0000:02:00.0");
  test::redirect(around_.facts, "0000:02:01.0");
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_not_p2p) << out();
  EXPECT_THAT(out(),
              ContainsRegex("blocked +ACS +.*0000:02:01.0 \\(control 0x1d\\), 0000:02:00.0"));
  EXPECT_THAT(out(), HasSubstr("pci=disable_acs_redir=0000:02:00.0;0000:02:01.0 "));
}

TEST_F(explain_test, acs_that_makes_the_way_longer_does_not_block) {
  test::redirect(around_.facts, "0000:02:00.0");
  around_.facts.machine.cpu_vendor = "AuthenticAMD";
  around_.facts.machine.cpu_family = 0x19;
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_p2p) << out();
  EXPECT_THAT(out(), HasSubstr("p2p_host_bridge"));
  EXPECT_THAT(out(), ContainsRegex("ok +ACS +redirected"));
  EXPECT_THAT(out(), HasSubstr("better: "));
  EXPECT_THAT(out(), HasSubstr("pci=disable_acs_redir=0000:02:00.0"));
}

TEST_F(explain_test, unknown_is_never_ok) {
  test::function_of(around_.facts, "0000:02:00.0").acs.reset();
  EXPECT_EQ(run({"GPU0", "nvme0n1", "--json"}), exit_unknown);
  EXPECT_EQ(status("ACS"), "unknown");
  EXPECT_EQ(parsed()["outcome"], "unknown");
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_unknown);
  EXPECT_THAT(out(), HasSubstr("answer: not known: nvme0n1"));
  EXPECT_THAT(out(), ContainsRegex("to know it: .*root"));

  around_.facts = test::gpu_server();
  around_.facts.machine.config_p2pdma.reset();
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_unknown);
  EXPECT_THAT(out(), ContainsRegex("unknown +kernel "));
}

TEST_F(explain_test, every_check_that_blocks_has_evidence) {
  around_.facts.machine.config_p2pdma = false;
  around_.facts.machine.memory_encryption = true;
  around_.facts.denied = {{.one = at("0000:03:00.0"), .other = {}}};
  test::redirect(around_.facts, "0000:02:00.0");
  test::function_of(around_.facts, "0000:03:00.0").dma_mask_bits = 32;
  test::function_of(around_.facts, "0000:04:00.0").bars[0].start = 0;
  EXPECT_EQ(run({"GPU0", "nvme0n1", "--policy", "require", "--json"}), exit_refused);
  const auto told = parsed();
  std::vector<nlohmann::json> all;
  for (const auto& check : told["machine_checks"]) all.push_back(check);
  for (const auto& check : told["memory_checks"]) all.push_back(check);
  for (const auto& check : told["plan"]["importers"][0]["checks"]) all.push_back(check);
  std::vector<std::string> ids;
  for (const auto& check : all) {
    EXPECT_FALSE(check["evidence"].get<std::string>().empty()) << check;
    if (check["status"] == "blocked") EXPECT_FALSE(check["remedy"].get<std::string>().empty());
    for (const auto& id : check["reasons"]) ids.push_back(id);
  }
  // None of the verdict's reasons is lost between the questions.
  for (const auto& why : told["plan"]["importers"][0]["verdict"]["reasons"]) {
    EXPECT_THAT(ids, testing::Contains(why["id"].get<std::string>()));
  }
  EXPECT_THAT(ids, testing::IsSupersetOf({"kernel_no_p2pdma", "memory_encryption", "denied",
                                          "acs_redirect", "bar_disabled"}));
}

TEST_F(explain_test, guest_is_told_what_it_cannot_see_and_keeps_its_status) {
  around_.facts.machine.hypervisor = "kvm";
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_p2p);
  EXPECT_THAT(out(), ContainsRegex("unknown +guest "));
}

TEST_F(explain_test, one_that_cannot_moves_the_buffer_for_all) {
  EXPECT_EQ(run({"GPU0", "nvme0n1", "nvme1n1"}), exit_not_p2p);
  EXPECT_THAT(out(), ContainsRegex("demoted by +nvme1n1"));
  EXPECT_THAT(out(), ContainsRegex("require +device memory: nvme0n1 p2p_bus, no copy; nvme1n1 "
                                   "refused"));
  EXPECT_EQ(run({"GPU0", "nvme0n1", "nvme1n1", "--json"}), exit_not_p2p);
  EXPECT_EQ(parsed()["plan"]["demoting"], nlohmann::json::array({"nvme1n1"}));
  EXPECT_EQ(parsed()["plan"]["options"].size(), 3U);
}

TEST_F(explain_test, memory_of_a_gpu_driver_has_no_pages_for_drives) {
  EXPECT_EQ(run({"GPU1", "nvme0n1"}), exit_not_p2p);
  EXPECT_THAT(out(), HasSubstr("memory of 0000:05:00.0, as driver amdgpu exports it"));
  EXPECT_THAT(out(), ContainsRegex("blocked +memory .*another exporter.*amdgpu"));
  EXPECT_THAT(out(), ContainsRegex("blocked +pages "));
  EXPECT_THAT(out(), HasSubstr("bounce, 1 copy per byte"));
  EXPECT_THAT(out(), HasSubstr("dmabridge-drivers(7)), or a kernel whose io_uring takes dma-bufs"));
  EXPECT_EQ(run({"GPU1", "mlx5_0"}), exit_p2p) << "RDMA needs none";
  EXPECT_THAT(out(), ContainsRegex("ok +exporter +memory of amdgpu: .*tells nobody"));
}

// The GPU's driver, and what an RDMA device on another root port gets of its memory.
struct gpu_driver {
  const char* driver;
  int status;
  const char* said;
};

TEST_F(explain_test, every_gpu_driver_without_a_path) {
  test::function_of(around_.facts, "0000:06:00.0").parent = test::at("0000:00:02.0");
  for (const auto& [driver, status, said] :
       {gpu_driver{"amdgpu", exit_not_p2p, "mlx5_0: system, no copy (predicted)"},
        gpu_driver{"xe", exit_unknown, "whether exporter xe moves the buffer to system memory"},
        gpu_driver{"nvidia", exit_unknown,
                   "whether exporter nvidia gives addresses that lead there"},
        gpu_driver{"habanalabs", exit_refused, "refuses (EPERM) without one"},
        gpu_driver{"vfio-pci", exit_refused, "and refuses all others"},
        gpu_driver{"i915", exit_not_p2p, "i915 moves the buffer to system memory for whoever"},
        gpu_driver{"nouveau", exit_not_p2p,
                   "nouveau moves the buffer to system memory for whoever"},
        gpu_driver{"ast", exit_unknown, "ast is an exporter that this program does not know"}}) {
    SCOPED_TRACE(driver);
    test::function_of(around_.facts, "0000:05:00.0").driver = driver;
    around_.facts.drm.at(0).driver = driver;
    EXPECT_EQ(run({"renderD128", "mlx5_0"}), status) << out() << err();
    EXPECT_THAT(out(), HasSubstr(said));
    EXPECT_EQ(
        run({"0000:05:00.0", "mlx5_0", "nvme0n1", "--json"}),
        status == exit_not_p2p && (driver[0] == 'i' || driver[0] == 'n') ? exit_unknown : status)
        << out();
    EXPECT_EQ(parsed()["memory"]["exporter"], driver);
    EXPECT_EQ(parsed()["memory"]["rules"]["known"], std::string(driver) != "ast");
    for (const auto& importer : parsed()["plan"]["importers"]) {
      for (const auto& why : importer["verdict"]["reasons"]) {
        EXPECT_NE(why["evidence"], "") << why;
        EXPECT_NE(why["remedy"], "") << why;
      }
    }
  }
}

TEST_F(explain_test, recorded_gpus_of_nvidia_are_judged_by_their_driver) {
  EXPECT_EQ(run({"--from", std::string(RECORDINGS) + "/dgx-2h.json", "GPU0", "mlx5_0"}),
            exit_unknown)
      << err();
  EXPECT_THAT(out(), HasSubstr("as driver nvidia exports it"));
  EXPECT_THAT(out(), HasSubstr("the closed ones export no dma-bufs"));
}

TEST_F(explain_test, gpu_whose_bars_could_not_be_read_is_unknown) {
  test::function_of(around_.facts, "0000:05:00.0").bars.clear();
  EXPECT_EQ(run({"card1", "mlx5_0"}), exit_unknown) << out() << err();
  EXPECT_THAT(out(), ContainsRegex("unknown +BAR "));
}

TEST_F(explain_test, answer_that_nobody_got_is_none) {
  around_.out_.setstate(std::ios::badbit);
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_unknown);
  EXPECT_THAT(err(), HasSubstr("cannot write the report"));
}

TEST_F(explain_test, json_keys) {
  EXPECT_EQ(run({"GPU0", "nvme0n1", "--json"}), exit_p2p);
  const auto told = parsed();
  std::vector<std::string> keys;
  for (const auto& [key, value] : told.items()) keys.push_back(key);
  EXPECT_THAT(keys, testing::UnorderedElementsAre("memory", "outcome", "state", "why_predicted",
                                                  "machine_checks", "memory_checks", "plan",
                                                  "differences", "proofs"));
  EXPECT_EQ(parsed()["memory"]["device"], "0000:04:00.0");
  EXPECT_EQ(parsed()["state"], "predicted");
  EXPECT_FALSE(parsed()["why_predicted"].get<std::string>().empty());
}

TEST_F(explain_test, names_of_nothing_list_what_there_is) {
  EXPECT_EQ(run({"GPU9", "nvme0n1"}), exit_usage);
  EXPECT_THAT(err(), AllOf(HasSubstr("\"GPU9\""), HasSubstr("GPU0 (0000:04:00.0)"),
                           HasSubstr("GPU1 (card1, 0000:05:00.0)")));
  EXPECT_EQ(run({"GPU0", "nosuch"}), exit_usage);
  EXPECT_THAT(err(), AllOf(HasSubstr("nosuch"), HasSubstr("nvme0n1")));
  EXPECT_EQ(run({"0000:99:00.0", "nvme0n1"}), exit_usage);
  test::function_of(around_.facts, "0000:00:01.0").bars.clear();
  EXPECT_EQ(run({"0000:00:01.0", "nvme0n1"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("no memory BAR"));
  EXPECT_EQ(run({"fd:77", "nvme0n1"}), exit_usage);
}

TEST_F(explain_test, machine_with_nothing_says_so) {
  around_.facts = topology();
  EXPECT_EQ(run({"card0", "nvme0n1"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("no region of dmabridge and no GPU was found"));
}

TEST_F(explain_test, whatever_keeps_it_from_an_answer_is_unknown) {
  around_.unreadable = true;
  EXPECT_EQ(run({"GPU0", "nvme0n1"}), exit_unknown);
  EXPECT_THAT(err(), HasSubstr("no sysfs"));
  EXPECT_EQ(run({"GPU0", "nvme0n1", "--json"}), exit_unknown);
  EXPECT_EQ(parsed()["error"]["kind"], "system");
}

TEST_F(explain_test, recorded_machine_is_explained_as_it_was_there) {
  ASSERT_EQ(run({"GPU0", "nvme1n1", "--json"}), exit_not_p2p);
  const auto here = parsed()["plan"];
  std::ofstream(file_) << record(around_.facts);
  around_.facts = topology();
  EXPECT_EQ(run({"--from", file_, "GPU0", "nvme1n1", "--json"}), exit_not_p2p) << err();
  EXPECT_EQ(parsed()["plan"], here);
  EXPECT_THAT(parsed()["why_predicted"].get<std::string>(), HasSubstr("file's machine"));
}

TEST_F(explain_test, what_only_this_machine_has_is_not_looked_for_in_a_recording) {
  std::ofstream(file_) << record(around_.facts);
  EXPECT_EQ(run({"--from", file_, "GPU0", "/etc/passwd"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("files are looked up on this machine"));
  EXPECT_EQ(run({"--from", file_, "fd:3", "nvme0n1"}), exit_usage);
  EXPECT_EQ(run({"--from", file_, "GPU0", "nvme0n1", "--prove"}), exit_usage);
}

TEST_F(explain_test, proof_needs_the_module) {
  EXPECT_EQ(run({"GPU0", "nvme0n1", "--prove"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("modprobe dmabridge"));
}

// With a module that answers.
class confirmed_explain_test : public explain_test {
 protected:
  confirmed_explain_test() {
    auto& region = module_.add_region("vram0", 256 << 20);
    region.device = 0x0400;  // 0000:04:00.0
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_NEGOTIATE, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& asked = *static_cast<dmabridge_negotiate*>(argument);
          asked.placement = placement_;
          asked.verdict = answer_;
          return result_;
        });
    ON_CALL(module_.calls, open(testing::StrEq("/dev/nvme0n1"), _, _))
        .WillByDefault(testing::Return(drive_fd));
    answer_.route = DMABRIDGE_ROUTE_P2P_BUS;
    answer_.policy = DMABRIDGE_POLICY_PREFER;
    answer_.distance = 4;
  }

  // Whatever fd is asked about is a buffer of the first region, which these use already.
  void answer_query(std::vector<dmabridge_user> users = {}) {
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
        .WillByDefault([this, users](int, unsigned long, void* argument) {
          auto& query = *static_cast<dmabridge_query*>(argument);
          query.region_id = module_.regions[0].id;
          query.placement = DMABRIDGE_PLACEMENT_DEVICE;
          query.policy = DMABRIDGE_POLICY_PREFER;
          query.size = 4096;
          query.nr_users = static_cast<std::uint32_t>(users.size());
          std::ranges::copy(users, reinterpret_cast<dmabridge_user*>(query.users));
          return 0;
        });
  }

  static constexpr int drive_fd = 120;
  test::fake_module module_;
  dmabridge_verdict answer_{};
  std::uint32_t placement_ = DMABRIDGE_PLACEMENT_DEVICE;
  int result_ = 0;
};

TEST_F(confirmed_explain_test, kernel_confirms) {
  for (const auto* memory : {"vram0", "/dev/dmabridge-vram0", "0000:04:00.0", "GPU0"}) {
    EXPECT_EQ(run({memory, "nvme0n1"}), exit_p2p) << memory << out() << err();
    EXPECT_THAT(out(), HasSubstr("confirmed by the kernel\n"));
    EXPECT_THAT(out(), HasSubstr("p2p_bus, no copy (confirmed)"));
    EXPECT_THAT(out(), Not(HasSubstr("difference")));
  }
  EXPECT_EQ(run({"vram0", "nvme0n1", "--json"}), exit_p2p);
  EXPECT_EQ(parsed()["state"], "confirmed");
  EXPECT_EQ(parsed()["why_predicted"], "");
}

TEST_F(confirmed_explain_test, kernel_that_contradicts_is_right_and_is_shown) {
  answer_.route = DMABRIDGE_ROUTE_SYSTEM;
  answer_.distance = -1;
  answer_.nr_reasons = 1;
  answer_.reasons[0] = {.code = DMABRIDGE_REASON_NO_PATH,
                        .flags = DMABRIDGE_REASON_BLOCKS_P2P,
                        .device = 0,
                        .value = ~0ULL,
                        .name = ""};
  placement_ = DMABRIDGE_PLACEMENT_SYSTEM;
  EXPECT_EQ(run({"vram0", "nvme0n1"}), exit_not_p2p) << out();
  EXPECT_THAT(out(), HasSubstr("predicted p2p_bus, the kernel says system; the kernel is right"));
  EXPECT_THAT(out(), HasSubstr("dmabridge topo --record FILE"));
  EXPECT_THAT(out(), ContainsRegex("blocked +path "));
  EXPECT_EQ(run({"vram0", "nvme0n1", "--json"}), exit_not_p2p);
  EXPECT_EQ(parsed()["differences"][0]["predicted"]["route"], "p2p_bus");
}

TEST_F(confirmed_explain_test, module_that_cannot_be_asked_leaves_the_prediction) {
  result_ = -ENOTTY;
  EXPECT_EQ(run({"vram0", "nvme0n1"}), exit_p2p) << out();
  EXPECT_THAT(out(), HasSubstr("predicted, and not confirmed by the kernel: cannot ask"));
  EXPECT_THAT(out(), HasSubstr("p2p_bus, no copy (predicted)"));
}

TEST_F(confirmed_explain_test, drive_that_may_not_be_opened_stays_predicted_and_says_so) {
  ON_CALL(module_.calls, open(testing::StrEq("/dev/nvme0n1"), _, _))
      .WillByDefault(testing::Return(-EACCES));
  EXPECT_EQ(run({"vram0", "nvme0n1"}), exit_p2p) << out();
  EXPECT_THAT(out(), ContainsRegex("unknown +confirmation .*/dev/nvme0n1 cannot be opened"));
  EXPECT_THAT(out(), HasSubstr("\"confirmation\" above says why"));
  EXPECT_EQ(run({"vram0", "nvme0n1", "mlx5_0"}), exit_p2p) << out();
  EXPECT_THAT(out(), HasSubstr("confirmed by the kernel but for nvme0n1"));
}

TEST_F(confirmed_explain_test, function_without_a_region_stays_predicted) {
  EXPECT_EQ(run({"GPU1", "mlx5_0"}), exit_p2p);
  EXPECT_THAT(out(), HasSubstr("not confirmed by the kernel: it has no region of dmabridge"));
}

TEST_F(confirmed_explain_test, two_regions_of_one_function_must_be_told_apart) {
  module_.add_region("vram1", 1 << 20).device = 0x0400;
  for (const auto* memory : {"0000:04:00.0", "GPU0"}) {
    EXPECT_EQ(run({memory, "nvme0n1"}), exit_usage) << memory;
    EXPECT_THAT(err(), AllOf(HasSubstr("vram0"), HasSubstr("vram1")));
  }
}

TEST_F(confirmed_explain_test, buffer_is_known_by_its_region) {
  answer_query();
  EXPECT_EQ(run({"fd:9", "nvme0n1"}), exit_p2p) << out() << err();
  EXPECT_THAT(out(), HasSubstr("memory fd:9 (buffer of region vram0)"));
}

TEST_F(confirmed_explain_test, buffer_of_another_exporter_is_asked_about_for_drives) {
  const test::fake_exporter exporter(module_, "udmabuf");
  answer_.route = DMABRIDGE_ROUTE_SYSTEM;
  answer_.distance = -1;
  answer_.nr_reasons = 1;
  answer_.reasons[0].code = DMABRIDGE_REASON_FOREIGN_BUFFER;
  placement_ = DMABRIDGE_PLACEMENT_SYSTEM;
  EXPECT_EQ(run({"fd:9", "nvme0n1"}), exit_not_p2p) << out() << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("memory fd:9 (dma-buf of exporter udmabuf)"),
                           HasSubstr("pages of a memfd: mapped by the CPU yes"),
                           HasSubstr("system, no copy (confirmed)"),
                           HasSubstr("confirmed by the kernel\n")));
  EXPECT_EQ(run({"fd:9", "nvme0n1", "mlx5_0"}), exit_not_p2p) << out();
  EXPECT_THAT(out(), HasSubstr("confirmed by the kernel but for mlx5_0"));
  EXPECT_THAT(out(), HasSubstr("dma_buf:dma_buf_dynamic_attach"));
  EXPECT_EQ(run({"fd:9", "nvme0n1", "--prove"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("the buffer is another exporter's"));
}

TEST_F(confirmed_explain_test,
       buffer_of_an_unknown_exporter_is_unknown_but_where_the_kernel_knows) {
  ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .WillByDefault(testing::Return(-EMEDIUMTYPE));
  EXPECT_EQ(run({"fd:9", "mlx5_0"}), exit_unknown) << "without /proc";
  const test::fake_exporter exporter(module_, "nobody");
  EXPECT_EQ(run({"fd:9", "mlx5_0"}), exit_unknown);
  EXPECT_THAT(out(), HasSubstr("nobody is an exporter that this program does not know"));
  EXPECT_THAT(out(), ContainsRegex("unknown +exporter +whether exporter nobody has the buffer on"));
  answer_.route = DMABRIDGE_ROUTE_NONE;
  answer_.distance = -1;
  answer_.nr_reasons = 1;
  answer_.reasons[0].code = DMABRIDGE_REASON_FOREIGN_BUFFER;
  answer_.reasons[0].value = EOPNOTSUPP;
  result_ = -EMEDIUMTYPE;
  EXPECT_EQ(run({"fd:9", "nvme0n1"}), exit_unknown) << "whether it can be copied";
  EXPECT_THAT(out(), ContainsRegex("blocked +pages "));
}

TEST_F(confirmed_explain_test, who_would_keep_the_buffer_is_told_before_anything_is_registered) {
  module_.regions[0].flags |= DMABRIDGE_REGION_TAKES_UNREVOCABLE;
  around_.facts.rdma.push_back(
      {.name = "bnxt_re0", .function = at("06:00.0"), .driver = "bnxt_en"});
  around_.facts.rdma.push_back({.name = "rxe0", .driver = "rdma_rxe", .software = true});
  EXPECT_EQ(run({"vram0", "nvme0n1", "mlx5_0", "bnxt_re0"}), exit_p2p) << out() << err();
  EXPECT_THAT(out(),
              AllOf(HasSubstr("p2p_bus, no copy (confirmed)"),
                    HasSubstr("  kept by     bnxt_re0: the buffer stays where it is until "
                              "it is deregistered, and the driver of its device cannot be "
                              "unbound before: driver bnxt_en does not let itself be "
                              "stopped\n"),
                    ContainsRegex("ok +importer +its driver pins the buffer"),
                    Not(HasSubstr("kept by     nvme0n1")), Not(HasSubstr("kept by     mlx5_0"))));
  ASSERT_EQ(run({"vram0", "nvme0n1", "mlx5_0", "bnxt_re0", "--json"}), exit_p2p);
  const auto importers = parsed()["plan"]["importers"];
  EXPECT_EQ(parsed()["plan"]["kept_by"], nlohmann::json::array());
  EXPECT_EQ(importers[0]["blocks_moves"], false);
  EXPECT_THAT(importers[0]["consequence"].get<std::string>(), HasSubstr("commands in flight"));
  EXPECT_EQ(importers[1]["blocks_moves"], false);
  EXPECT_THAT(importers[1]["consequence"].get<std::string>(), HasSubstr("the device follows"));
  EXPECT_EQ(importers[2]["blocks_moves"], true);
  EXPECT_EQ(importers[2]["blocks_revoke"], true);
  EXPECT_THAT(importers[2]["consequence"].get<std::string>(), HasSubstr("driver bnxt_en"));
  EXPECT_EQ(run({"vram0", "rxe0"}), exit_not_p2p) << out();
  EXPECT_THAT(out(), HasSubstr("kept by     rxe0: the buffer stays in system memory until it is "
                               "deregistered; its device may go away meanwhile"));
}

TEST_F(explain_test, driver_that_nobody_knows_is_said_to_be_that_and_counts_as_the_worst) {
  around_.facts.rdma.push_back({.name = "odd0", .function = at("06:00.0"), .driver = "novelty"});
  EXPECT_EQ(run({"GPU0", "odd0"}), exit_unknown) << out() << err();
  EXPECT_THAT(out(), ContainsRegex("kept by +odd0, at worst: the buffer may have to stay .* driver "
                                   "novelty is none that is known here\n"));
  EXPECT_EQ(run({"GPU0", "0000:06:00.0"}), exit_p2p) << out() << err();
  EXPECT_THAT(out(), HasSubstr("of a PCI address it is not known"));
  ASSERT_EQ(run({"GPU0", "odd0", "--json"}), exit_unknown);
  const auto odd = parsed()["plan"]["importers"][0];
  EXPECT_EQ(odd["blocks_moves"], true);
  EXPECT_EQ(odd["blocks_revoke"], true);
}

TEST_F(explain_test, memory_of_a_gpu_driver_is_kept_too) {
  around_.facts.rdma.push_back({.name = "efa_0", .function = at("06:00.0"), .driver = "efa"});
  EXPECT_EQ(run({"renderD128", "efa_0", "nvme0n1"}), exit_not_p2p) << out() << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("kept by     efa_0: "), HasSubstr("its exporter cannot stop"),
                           Not(HasSubstr("kept by     nvme0n1"))));
}

// Those who are there already, by name.
TEST_F(confirmed_explain_test, who_pins_a_buffer_already_is_named) {
  answer_query({{.kind = DMABRIDGE_USER_DYNAMIC,
                 .flags = DMABRIDGE_USER_HAS_DEVICE | DMABRIDGE_USER_P2P |
                          DMABRIDGE_USER_PEER2PEER | DMABRIDGE_USER_PINNED,
                 .device = 0x0600,
                 .policy = DMABRIDGE_POLICY_PREFER,
                 .__reserved = 0,
                 .name = "0000:06:00.0",
                 .driver = "bnxt_en",
                 .verdict = {}},
                {.kind = DMABRIDGE_USER_HOLD,
                 .flags = DMABRIDGE_USER_NEEDS_DEVICE,
                 .device = 0,
                 .policy = DMABRIDGE_POLICY_REQUIRE,
                 .__reserved = 0,
                 .name = "trainer",
                 .driver = "",
                 .verdict = {}}});
  EXPECT_EQ(run({"fd:9", "nvme0n1"}), exit_p2p) << out() << err();
  EXPECT_THAT(out(), AllOf(HasSubstr("kept by     0000:06:00.0 (dynamic_attachment, driver "
                                     "bnxt_en, device 0000:06:00.0), already: the buffer stays "
                                     "where it is until it lets go of it, and the driver of its "
                                     "device cannot be unbound before"),
                           HasSubstr("kept by     trainer (hold), already: ")));
  ASSERT_EQ(run({"fd:9", "nvme0n1", "--json"}), exit_p2p);
  const auto kept = parsed()["plan"]["kept_by"];
  ASSERT_EQ(kept.size(), 2U);
  EXPECT_EQ(kept[0]["device"], "0000:06:00.0");
  EXPECT_EQ(kept[0]["driver"], "bnxt_en");
  EXPECT_EQ(kept[0]["blocks_revoke"], true);
  EXPECT_EQ(kept[1]["kind"], "hold");
  EXPECT_EQ(kept[1]["device"], nullptr);
  EXPECT_EQ(kept[1]["blocks_revoke"], false);
}

TEST_F(explain_test, buffer_of_another_exporter_needs_no_module) {
  test::fake_module module;
  ON_CALL(module.calls, open(testing::StrEq(control::node), _, _))
      .WillByDefault(testing::Return(-ENOENT));
  const test::fake_exporter exporter(module, "udmabuf");
  EXPECT_EQ(run({"fd:9", "nvme0n1"}), exit_not_p2p) << out() << err();
  EXPECT_THAT(out(), HasSubstr("system, no copy (predicted)"));
  EXPECT_THAT(out(), HasSubstr("modprobe dmabridge"));
}

// What explain says of proofs, which move bytes and so are not made here.
class proved : public testing::Test {
 protected:
  proved() {
    planned_verdict importer{.importer = "nvme0n1"};
    importer.word.route = route::p2p_bus;
    importer.word.policy = policy::prefer;
    told_.joint.placement = placement::device;
    told_.joint.importers = {importer};
    told_.importers = {importer_facts{.name = "nvme0n1", .kind = importer_kind::block}};
    told_.of_importers = {{}};
    told_.proofs = {{.importer = "nvme0n1", .claimed = route::p2p_bus, .compared = 1 << 20}};
  }

  explanation told_;
};

TEST_F(proved, identical_bytes) {
  EXPECT_EQ(outcome_of(told_), plan_outcome::p2p);
  EXPECT_THAT(to_text(told_), HasSubstr("1 MiB read by p2p_bus and through system memory, "
                                        "identical"));
}

TEST_F(proved, bytes_that_did_not_arrive_are_worse_than_a_refusal) {
  told_.proofs[0].different = 4096;
  told_.proofs[0].first_difference = 512;
  told_.proofs[0].broken = reason{.code = DMABRIDGE_REASON_BROKEN_PATH, .value = 4096};
  EXPECT_EQ(outcome_of(told_), plan_outcome::refused);
  EXPECT_EQ(exit_status_of(outcome_of(told_)), exit_refused);
  EXPECT_THAT(to_text(told_), AllOf(HasSubstr("4096 of 1048576 bytes that came by p2p_bus differ, "
                                              "from offset 512 on"),
                                    HasSubstr("[broken_path]"), HasSubstr("answer: broken")));
  EXPECT_EQ(to_json(told_)["proofs"][0]["broken"]["id"], "broken_path");
}

TEST_F(proved, what_was_not_proved_says_why) {
  told_.proofs[0].compared = 0;
  told_.proofs[0].skipped = "it is no disk";
  EXPECT_EQ(outcome_of(told_), plan_outcome::p2p);
  EXPECT_THAT(to_text(told_), HasSubstr("not proved  nvme0n1: it is no disk"));
}

}  // namespace
}  // namespace dmabridge::command

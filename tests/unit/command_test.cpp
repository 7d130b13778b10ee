// SPDX-License-Identifier: MIT
// The command as its user sees it: exit status, standard output, standard error.
#include "command.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fake_surroundings.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge::command {
namespace {

using test::binding_fd;
using test::buffer_fd;
using test::control_fd;
using test::region_fd;
using testing::_;
using testing::HasSubstr;
using testing::Not;
using testing::Return;
using testing::StrEq;

constexpr int file_fd = 110;

class command_test : public testing::Test {
 protected:
  command_test() {
    const auto is_file = [this](auto, struct stat* found) {
      found->st_mode = S_IFREG | 0600;
      found->st_size = file_size_;
      return 0;
    };
    ON_CALL(module_.calls, stat(StrEq("/data/file"), _)).WillByDefault(is_file);
    ON_CALL(module_.calls, fstat(file_fd, _)).WillByDefault(is_file);
    ON_CALL(module_.calls, open(StrEq("/data/file"), _, _)).WillByDefault(Return(file_fd));
    ON_CALL(module_.calls, open(StrEq("/dev/dmabridge-vram0"), _, _))
        .WillByDefault(Return(region_fd));
    ON_CALL(module_.calls, ioctl(region_fd, DMABRIDGE_IOCTL_ALLOC, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& wanted = *static_cast<dmabridge_alloc*>(argument);
          module_.buffer_size = static_cast<std::int64_t>(wanted.size + 4095) / 4096 * 4096;
          wanted.fd = buffer_fd;
          return 0;
        });
    module_.add_region("vram0", 256 << 20);
  }

  auto run(std::vector<std::string> line) -> int {
    line.insert(line.begin(), "dmabridge");
    return command::run(line, around_);
  }
  auto out() const -> std::string { return around_.out_.str(); }
  auto err() const -> std::string { return around_.err_.str(); }

  test::fake_module module_;
  fake_surroundings around_;
  std::int64_t file_size_ = 1000;
};

TEST_F(command_test, info_shows_regions_to_anybody) {
  EXPECT_EQ(run({"info"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("region vram0"));
  EXPECT_THAT(out(), HasSubstr("256 MiB (268435456 bytes)"));
  EXPECT_THAT(out(), HasSubstr("you may allocate: no, root and its group may"));
  EXPECT_EQ(err(), "");
}

TEST_F(command_test, info_of_a_buffer_blames_its_users) {
  ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .WillByDefault([](int, unsigned long, void* argument) {
        auto& query = *static_cast<dmabridge_query*>(argument);
        query.placement = DMABRIDGE_PLACEMENT_SYSTEM;
        query.policy = DMABRIDGE_POLICY_PREFER;
        query.moves = 1;
        query.last_move.code = DMABRIDGE_REASON_DEMOTED;
        query.nr_users = 1;
        auto& user = *reinterpret_cast<dmabridge_user*>(query.users);
        user.kind = DMABRIDGE_USER_STATIC;
        user.flags = DMABRIDGE_USER_NEEDS_SYSTEM;
        user.policy = DMABRIDGE_POLICY_PREFER;
        std::snprintf(user.name, sizeof(user.name), "mlx5_0");
        user.verdict.route = DMABRIDGE_ROUTE_SYSTEM;
        user.verdict.nr_reasons = 1;
        user.verdict.reasons[0].code = DMABRIDGE_REASON_STATIC_IMPORTER;
        return 0;
      });
  EXPECT_EQ(run({"info", "--buffer", "fd:9"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("placement   system"));
  EXPECT_THAT(out(), HasSubstr("[demoted]"));
  EXPECT_THAT(out(), HasSubstr("demoted by  mlx5_0: see below why"));
  EXPECT_THAT(out(), HasSubstr("user mlx5_0 (static_attachment)"));
  EXPECT_THAT(out(), HasSubstr("[static_importer]"));

  fake_surroundings other;
  other.variables["DMABRIDGE_BUFFER_FD"] = "9";
  EXPECT_EQ(command::run({"dmabridge", "info", "--json"}, other), exit_ok);
  const auto object = nlohmann::json::parse(other.out_.str());
  EXPECT_EQ(object["buffer"]["users"][0]["name"], "mlx5_0");
  EXPECT_EQ(object["regions"][0]["name"], "vram0");
  EXPECT_EQ(object["module"]["abi_version"], DMABRIDGE_ABI_VERSION);
}

TEST_F(command_test, info_tells_kinds_and_states_of_regions_apart) {
  auto& stolen = module_.add_region("stolen0", 64 << 20);
  stolen.kind = DMABRIDGE_REGION_STOLEN;
  stolen.flags |= DMABRIDGE_REGION_SUSPENDED;
  stolen.quarantined = 3 << 20;
  auto& system = module_.add_region("system0", 64 << 20);
  system.kind = DMABRIDGE_REGION_SYSTEM;
  system.flags |= DMABRIDGE_REGION_NOT_PCI;
  auto& ended = module_.add_region("ended0", 64 << 20);
  ended.kind = DMABRIDGE_REGION_STOLEN;
  ended.flags |= DMABRIDGE_REGION_QUARANTINED;
  module_.add_region("engine0", 64 << 20).flags |= DMABRIDGE_REGION_HAS_ENGINE;
  const auto shown = [this](const char* region) {
    fake_surroundings around;
    EXPECT_EQ(command::run({"dmabridge", "info", "--region", region}, around), exit_ok);
    return around.out_.str();
  };
  const auto plain = shown("vram0");
  EXPECT_THAT(plain, HasSubstr("kind        bar, BAR 2 of 0000:03:00.0"));
  EXPECT_THAT(plain, HasSubstr("state       in use"));
  EXPECT_THAT(plain, Not(HasSubstr("quarantine")));
  EXPECT_THAT(shown("stolen0"), HasSubstr("stolen, system RAM behind BAR 2 of 0000:04:00.0"));
  EXPECT_THAT(shown("stolen0"), HasSubstr("quarantine  3 MiB (3145728 bytes): freed, but pinned"));
  EXPECT_THAT(shown("stolen0"), HasSubstr("state       suspended"));
  EXPECT_THAT(shown("system0"), HasSubstr("ordinary system RAM, for no PCI device"));
  EXPECT_THAT(shown("ended0"), HasSubstr("state       unregistered"));
  EXPECT_THAT(shown("ended0"), HasSubstr("you may allocate: no, nobody may"));
  EXPECT_THAT(shown("engine0"), HasSubstr("move limit  none"));

  EXPECT_EQ(run({"info", "--json"}), exit_ok);
  const auto regions = nlohmann::json::parse(out())["regions"];
  EXPECT_EQ(regions[1]["quarantined"], 3 << 20);
  EXPECT_EQ(regions[1]["kind"], "stolen");
  EXPECT_EQ(regions[1]["suspended"], true);
  EXPECT_TRUE(regions[2]["device"].is_null());
  EXPECT_EQ(regions[3]["unregistered"], true);
}

TEST_F(command_test, info_says_who_bounces) {
  std::uint32_t flags = DMABRIDGE_USER_BOUNCES;
  ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .WillByDefault([&](int, unsigned long, void* argument) {
        auto& query = *static_cast<dmabridge_query*>(argument);
        query.nr_users = 1;
        auto& user = *reinterpret_cast<dmabridge_user*>(query.users);
        user.kind = DMABRIDGE_USER_BINDING;
        user.flags = flags;
        user.verdict.route = DMABRIDGE_ROUTE_BOUNCE;
        return 0;
      });
  EXPECT_EQ(run({"info", "--buffer", "fd:9"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("device memory by copies only"));
  flags = 0;
  fake_surroundings other;
  EXPECT_EQ(command::run({"dmabridge", "info", "--buffer", "fd:9"}, other), exit_ok);
  EXPECT_THAT(other.out_.str(), Not(HasSubstr("by copies only")));
}

TEST_F(command_test, info_shows_each_buffer_once_and_what_it_may_not_see) {
  ON_CALL(module_.calls, pidfd_open).WillByDefault([](pid_t pid) {
    return pid == 10 ? 108 : -EPERM;
  });
  ON_CALL(module_.calls, pidfd_getfd(108, _)).WillByDefault(Return(buffer_fd));
  ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .WillByDefault([](int, unsigned long, void* argument) {
        auto& query = *static_cast<dmabridge_query*>(argument);
        std::snprintf(query.region, sizeof(query.region), "vram0");
        query.placement = DMABRIDGE_PLACEMENT_DEVICE;
        query.generation = 42;
        return 0;
      });
  around_.held.buffers = {
      {.inode = 1,
       .size = 4096,
       .holders = {{.pid = 11, .command = "train", .descriptor = 3},
                   {.pid = 10, .command = "load", .descriptor = 5}}},
      {.inode = 2, .size = 8192, .name = "x\n", .holders = {{.pid = 12, .command = "other"}}}};
  around_.held.hidden = 3;
  EXPECT_EQ(run({"info"}), exit_ok) << err();
  EXPECT_THAT(out(), HasSubstr("buffer pid:11:3\n  held by     pid:11:3 (train), pid:10:5 (load)"));
  EXPECT_THAT(out(), HasSubstr("generation  42"));
  EXPECT_THAT(out(), HasSubstr("buffer pid:12:-1, \"x?\"\n"));
  EXPECT_THAT(out(), HasSubstr("not visible "));
  EXPECT_THAT(out(), HasSubstr("not visible: the buffers of 3 process(es) of other users"));

  fake_surroundings other;
  other.held = around_.held;
  EXPECT_EQ(command::run({"dmabridge", "info", "--json"}, other), exit_ok);
  const auto object = nlohmann::json::parse(other.out_.str());
  EXPECT_EQ(object["buffers"].size(), 2U);
  EXPECT_EQ(object["buffers"][0]["buffer"]["generation"], 42);
  EXPECT_TRUE(object["buffers"][1]["buffer"].is_null());
  EXPECT_FALSE(object["buffers"][1]["why_not_visible"].get<std::string>().empty());
  EXPECT_EQ(object["hidden_processes"], 3);
}

TEST_F(command_test, info_of_one_region_leaves_out_the_buffers_of_others) {
  ON_CALL(module_.calls, pidfd_open).WillByDefault(Return(108));
  ON_CALL(module_.calls, pidfd_getfd(108, _)).WillByDefault(Return(buffer_fd));
  ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
      .WillByDefault([](int, unsigned long, void* argument) {
        auto& query = *static_cast<dmabridge_query*>(argument);
        std::snprintf(query.region, sizeof(query.region), "vram0");
        return 0;
      });
  module_.add_region("vram1", 1 << 20);
  around_.held.buffers = {{.inode = 1, .holders = {{.pid = 10, .descriptor = 5}}}};
  EXPECT_EQ(run({"info", "--region", "vram1"}), exit_ok);
  EXPECT_THAT(out(), Not(HasSubstr("pid:10:5")));
  EXPECT_EQ(run({"info", "--region", "/dev/dmabridge-vram0"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("pid:10:5"));
  // Who asks about one buffer is told about that one.
  fake_surroundings other;
  other.held = around_.held;
  EXPECT_EQ(command::run({"dmabridge", "info", "--buffer", "fd:9"}, other), exit_ok);
  EXPECT_THAT(other.out_.str(), Not(HasSubstr("pid:10:5")));
}

TEST_F(command_test, buffer_of_the_environment_is_named_as_such_where_it_is_wrong) {
  for (const auto* value : {"", "abc", "fd:3", "-1"}) {
    fake_surroundings around;
    around.variables["DMABRIDGE_BUFFER_FD"] = value;
    EXPECT_EQ(command::run({"dmabridge", "info"}, around), exit_usage) << value;
    EXPECT_THAT(around.err_.str(), HasSubstr(fmt::format("DMABRIDGE_BUFFER_FD=\"{}\"", value)));
    EXPECT_THAT(around.err_.str(), HasSubstr("unset it"));
  }
  ON_CALL(module_.calls, duplicate).WillByDefault(Return(-EBADF));
  around_.variables["DMABRIDGE_BUFFER_FD"] = "9";
  EXPECT_EQ(run({"info"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("this process has no such fd"));
}

TEST_F(command_test, usage_errors_on_either_stream) {
  EXPECT_EQ(run({"load", "--policy", "maybe", "x"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("maybe"));
  EXPECT_EQ(out(), "");
  EXPECT_EQ(run({"load", "--json", "--policy", "maybe", "x"}), exit_usage);
  EXPECT_EQ(nlohmann::json::parse(out())["error"]["kind"], "usage");
}

TEST_F(command_test, json_of_a_successor_is_not_ours) {
  EXPECT_EQ(run({"load", "/nowhere", "--", "program", "--json"}), exit_usage);
  EXPECT_EQ(out(), "");
}

TEST_F(command_test, file_that_is_not_there) {
  EXPECT_EQ(run({"load", "/nowhere"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("ENOENT"));
}

TEST_F(command_test, file_larger_than_its_buffer_is_refused_with_both_sizes) {
  file_size_ = 2 << 20;
  EXPECT_EQ(run({"load", "/data/file", "--size", "1M"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("2097152 bytes"));
  EXPECT_THAT(err(), HasSubstr("1048576 bytes"));
  EXPECT_EQ(run({"load", "/data/file", "--buffer", "fd:9"}), exit_usage);
}

TEST_F(command_test, ranges_outside_the_file) {
  EXPECT_EQ(run({"load", "/data/file", "--offset", "1001"}), exit_usage);
  EXPECT_EQ(run({"load", "/data/file", "--offset", "512", "--length", "489"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("488 bytes from offset 512 on, 489 were asked for"));
}

TEST_F(command_test, several_regions_must_be_told_apart) {
  module_.add_region("vram1", 1 << 20);
  EXPECT_EQ(run({"load", "/data/file"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("vram0"));
  EXPECT_THAT(err(), HasSubstr("vram1"));
}

TEST_F(command_test, refusal_has_its_own_status_and_all_reasons) {
  ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
      .WillByDefault([](int, unsigned long, void* argument) {
        auto& wanted = *static_cast<dmabridge_bind*>(argument);
        wanted.verdict.nr_reasons = 2;
        wanted.verdict.reasons[0].code = DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED;
        wanted.verdict.reasons[1].code = 777;
        return -EOPNOTSUPP;
      });
  EXPECT_CALL(module_.calls, close).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, close(buffer_fd)).Times(testing::AtLeast(1));
  EXPECT_EQ(run({"load", "/data/file", "--policy", "require"}), exit_refused);
  EXPECT_THAT(err(), HasSubstr("or use policy prefer"));
  EXPECT_THAT(err(), HasSubstr("[host_bridge_unlisted]"));
  EXPECT_THAT(err(), HasSubstr("one PCIe switch"));
  EXPECT_THAT(err(), HasSubstr("[unknown_reason_777]"));
  EXPECT_EQ(run({"load", "/data/file", "--json"}), exit_refused);
  const auto object = nlohmann::json::parse(out());
  EXPECT_EQ(object["error"]["reasons"].size(), 2U);
  EXPECT_EQ(object["error"]["errno"]["name"], "EOPNOTSUPP");
}

// An empty file needs no command, so that everything around the I/O runs without a kernel.
class loaded_command_test : public command_test {
 protected:
  loaded_command_test() {
    file_size_ = 0;
    ON_CALL(module_.calls, read(file_fd, _, _)).WillByDefault(Return(0));
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_BIND, _))
        .WillByDefault([](int, unsigned long, void* argument) {
          auto& wanted = *static_cast<dmabridge_bind*>(argument);
          wanted.binding_fd = binding_fd;
          wanted.verdict.route = DMABRIDGE_ROUTE_P2P_BUS;
          wanted.verdict.policy = DMABRIDGE_POLICY_PREFER;
          return 0;
        });
    ON_CALL(module_.calls, ioctl(binding_fd, DMABRIDGE_IOCTL_BINDING, _))
        .WillByDefault([this](int, unsigned long, void* argument) {
          auto& raw = *static_cast<dmabridge_binding_info*>(argument);
          raw.offset_align = 512;
          raw.memory_align = 512;
          raw.max_length = 1 << 20;
          raw.buffer_size = static_cast<std::uint64_t>(module_.buffer_size);
          raw.routes[counted_route_] = {.commands = calls_, .bytes = calls_ * 512};
          calls_ += counting_;
          return 0;
        });
    ON_CALL(module_.calls, ioctl(control_fd, DMABRIDGE_IOCTL_QUERY, _))
        .WillByDefault([](int, unsigned long, void* argument) {
          auto& query = *static_cast<dmabridge_query*>(argument);
          query.placement = DMABRIDGE_PLACEMENT_DEVICE;
          query.policy = DMABRIDGE_POLICY_PREFER;
          return 0;
        });
  }

  std::uint32_t counted_route_ = DMABRIDGE_ROUTE_P2P_BUS;
  std::uint64_t calls_ = 0;
  std::uint64_t counting_ = 0;
};

TEST_F(loaded_command_test, empty_file_is_loaded_exactly) {
  EXPECT_EQ(run({"load", "/data/file"}), exit_ok) << err();
  EXPECT_THAT(out(), HasSubstr("loaded 0 B (0 bytes)"));
  EXPECT_THAT(out(), HasSubstr("route       none taken"));
  EXPECT_THAT(out(), HasSubstr("placement device"));
  EXPECT_THAT(out(), HasSubstr("released"));
  EXPECT_EQ(around_.waits, 0);
}

TEST_F(loaded_command_test, file_that_only_says_to_be_empty_is_not_loaded_as_nothing) {
  ON_CALL(module_.calls, read(file_fd, _, _)).WillByDefault(Return(1));
  EXPECT_EQ(run({"load", "/data/file"}), exit_usage);
  EXPECT_EQ(out(), "");
  EXPECT_THAT(err(), HasSubstr("there are bytes in it"));
}

TEST_F(loaded_command_test, kept_buffer_is_named_for_others) {
  EXPECT_EQ(run({"load", "/data/file", "--keep"}), exit_ok);
  EXPECT_THAT(out(), HasSubstr("pid:4711:102"));
  EXPECT_EQ(around_.waits, 1);

  fake_surroundings other;
  EXPECT_EQ(command::run({"dmabridge", "load", "/data/file", "--keep", "--json"}, other), exit_ok);
  EXPECT_EQ(nlohmann::json::parse(other.out_.str())["spec"], "pid:4711:102");
}

TEST_F(loaded_command_test, successor_gets_the_buffer) {
  EXPECT_EQ(run({"load", "/data/file", "--", "program", "-x"}), exit_not_found);
  ASSERT_EQ(around_.successors.size(), 1U);
  EXPECT_EQ(around_.successors[0].buffer, buffer_fd);
  EXPECT_THAT(around_.successors[0].arguments, testing::ElementsAre("program", "-x"));
  EXPECT_THAT(err(), HasSubstr("cannot run program: ENOENT"));
}

TEST_F(loaded_command_test, counters_that_contradict_the_policy_are_a_failure) {
  counted_route_ = DMABRIDGE_ROUTE_BOUNCE;
  counting_ = 1;
  EXPECT_EQ(run({"load", "/data/file"}), exit_ok);
  EXPECT_EQ(run({"load", "/data/file", "--policy", "require"}), exit_refused);
  EXPECT_THAT(err(), HasSubstr("the kernel counted 512 bytes by route bounce"));
  counted_route_ = DMABRIDGE_ROUTE_P2P_BUS;
  EXPECT_EQ(run({"load", "/data/file", "--policy", "forbid"}), exit_refused);
}

// No bytes, and so no holes: what cannot be vouched for is data.
TEST_F(loaded_command_test, unproved_bytes_that_are_no_holes_are_a_failure) {
  counted_route_ = DMABRIDGE_ROUTE_UNPROVED;
  counting_ = 1;
  EXPECT_EQ(run({"load", "/data/file", "--policy", "require"}), exit_refused);
  EXPECT_THAT(err(), HasSubstr("512 bytes by route unproved"));
}

TEST_F(command_test, save_wants_a_buffer) {
  EXPECT_EQ(run({"save", "/data/new"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("--buffer pid:PID:FD"));
}

TEST_F(command_test, save_does_not_overwrite) {
  EXPECT_EQ(run({"save", "/data/file", "--buffer", "fd:9"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("EEXIST"));
  EXPECT_THAT(err(), HasSubstr("--force"));
}

TEST_F(command_test, save_to_a_block_device_says_what_it_would_overwrite) {
  ON_CALL(module_.calls, stat(StrEq("/dev/disk"), _)).WillByDefault([](auto, struct stat* found) {
    found->st_mode = S_IFBLK | 0600;
    return 0;
  });
  EXPECT_CALL(module_.calls, open).Times(testing::AnyNumber());
  EXPECT_CALL(module_.calls, open(StrEq("/dev/disk"), _, _)).Times(0);
  EXPECT_EQ(run({"save", "/dev/disk", "--buffer", "fd:9", "--offset", "1M"}), exit_usage);
  EXPECT_THAT(err(), HasSubstr("1048576 bytes from offset 1048576 on would be overwritten"));
}

TEST_F(command_test, save_of_more_than_there_is) {
  EXPECT_EQ(run({"save", "/data/new", "--buffer", "fd:9", "--length", "2M"}), exit_usage);
  EXPECT_EQ(run({"save", "/data/new", "--buffer", "fd:9", "--at", "2M"}), exit_usage);
}

}  // namespace
}  // namespace dmabridge::command

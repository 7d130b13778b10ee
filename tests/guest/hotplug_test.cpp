// SPDX-License-Identifier: MIT
//
// Devices that are taken out of the running machine, asked for or by surprise, while they are in
// use.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <vector>

#include "support/block_fixture.hpp"
#include "support/hotplug.hpp"
#include "support/named_device.hpp"
#include "support/pci_driver.hpp"

namespace dmabridge::test {
namespace {

struct Case {
  const char* memory;
  Machine::Removal removal;
};

class HotPlug : public BlockTest, public testing::WithParamInterface<Case> {
 protected:
  void TearDown() override {
    if (!find_device(name_)) machine_.plug(name_);
    const std::string path = find_device(name_).value();
    if (access((path + "/driver").c_str(), F_OK) != 0) {
      EXPECT_EQ(bind_function(std::filesystem::path(path).filename(), "dmabridge_pci"), 0);
    }
    BlockTest::TearDown();
  }

  const std::string name_ = GetParam().memory;
  Machine machine_;
};

INSTANTIATE_TEST_SUITE_P(Memory, HotPlug,
                         testing::Values(Case{"vram0", Machine::Removal::surprise},
                                         Case{"vram0", Machine::Removal::asked_for},
                                         Case{"apu0", Machine::Removal::surprise},
                                         Case{"apu0", Machine::Removal::asked_for}),
                         [](const auto& test) {
                           return fmt::format("{}_{}", test.param.memory,
                                              test.param.removal == Machine::Removal::surprise
                                                  ? "surprise"
                                                  : "asked_for");
                         });

// Whether the first byte of a mapping can be written, by a process of its own.
bool can_write(const Mapping& mapping) {
  const pid_t child = fork();
  if (child == 0) {
    mapping.data()[0] = std::byte(2);
    _exit(0);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status);
}

TEST_P(HotPlug, TakenOutInUseThenPutBack) {
  const Drive raw = drive("SAMESW");
  const auto region = region_of(name_);
  const Bound bound =
      make_in(region, raw.path(), MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(bound.binding.error, 0) << describe(bound.binding.verdict);
  const Mapping mapping(bound.buffer.get(), MiB);
  ASSERT_TRUE(can_write(mapping));

  machine_.unplug(name_, GetParam().removal);
  EXPECT_FALSE(find_device(name_));
  EXPECT_NE(access(region_node(region).c_str(), F_OK), 0) << "its driver's remove() did not run";
  EXPECT_THROW(region_of(name_), std::runtime_error);
  EXPECT_FALSE(can_write(mapping));
  EXPECT_EQ(load(bound, MiB), -ENODEV);
  EXPECT_EQ(placement(bound.buffer.get()), static_cast<unsigned>(DMABRIDGE_PLACEMENT_NONE));

  machine_.plug(name_);
  const std::string function = std::filesystem::path(find_device(name_).value()).filename();
  ASSERT_EQ(bind_function(function, "dmabridge_pci"), 0);
  const auto fresh = region_of(name_);
  EXPECT_EQ(fresh.kind, region.kind);
  const Bound again =
      make_in(fresh, raw.path(), MiB, DMABRIDGE_POLICY_REQUIRE, DMABRIDGE_BIND_READ, O_RDONLY);
  ASSERT_EQ(again.binding.error, 0) << describe(again.binding.verdict);
  ASSERT_EQ(load(again, MiB), static_cast<std::int64_t>(MiB));
  EXPECT_EQ(difference(again, MiB, 0xa0), "");
}

}  // namespace
}  // namespace dmabridge::test

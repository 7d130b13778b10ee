// SPDX-License-Identifier: MIT
//
// The samples, as their own Makefiles have made them against the installed project. What the RDMA
// pair does is in rdma_sample_test.cpp, and the Vulkan program's work in vulkan_test.cpp.
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <dmabridge/drm_memory.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <stdexcept>
#include <string>

#include "support/block_fixture.hpp"
#include "support/pci_driver.hpp"

namespace dmabridge::test {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t size = 3 * MiB + 1234;
constexpr std::uint8_t tag = 0x3c;

// "ring/ring-copy"
Output run(const std::string& program, const std::string& arguments) {
  return shell(fmt::format("/build/samples/{} {}", program, arguments));
}

// A device node that is not there for a while.
class Missing {
 public:
  explicit Missing(std::string path) : path_(std::move(path)) {
    std::filesystem::rename(path_, path_ + ".away");
  }
  ~Missing() { std::filesystem::rename(path_ + ".away", path_); }
  Missing(const Missing&) = delete;
  Missing& operator=(const Missing&) = delete;

 private:
  std::string path_;
};

class Samples : public GuestTest {
 protected:
  void SetUp() override { make_pattern_file(file_, size, tag); }
  void TearDown() override {
    for (const std::string& name : {file_, copy_}) unlink(name.c_str());
    near_mount_.reset();
    GuestTest::TearDown();
  }

  // All of a file that a sample wrote, from the drive.
  static std::string difference(const std::string& name) {
    drop_page_cache(open_file(name, O_RDONLY).get());
    const auto bytes = read_file(name, 0, size + 1);
    if (bytes.size() != size) return fmt::format("{} has {} bytes", name, bytes.size());
    return pattern_difference(bytes.data(), bytes.size(), tag, 0);
  }
  bool copy_is_there() const { return std::filesystem::exists(copy_); }

  const Drive near_ = drive("SAMESW", "ext4");
  std::unique_ptr<Mount> near_mount_ = std::make_unique<Mount>(near_.path(), "ext4");
  const std::string file_ = near_mount_->file("sample-file");
  const std::string copy_ = near_mount_->file("sample-copy");
};

// --- each of them

struct Program {
  const char* path;
  const char* operand;    // as its help calls the file
  const char* arguments;  // behind the file
};
void PrintTo(const Program& program, std::ostream* out) {
  *out << program.path;
}

class EverySample : public Samples, public testing::WithParamInterface<Program> {
 protected:
  // A DRM device that all have.
  static void SetUpTestSuite() { ASSERT_EQ(shell("modprobe vgem").status, 0); }
  static Output run_with(const std::string& file) {
    return run(GetParam().path, fmt::format("{} {}", file, GetParam().arguments));
  }
};

INSTANTIATE_TEST_SUITE_P(, EverySample,
                         testing::Values(Program{"ring/ring-copy", "FROM",
                                                 "/tmp/never /dev/dmabridge-*"},
                                         Program{"drm/drm-load", "FILE", ""},
                                         Program{"udmabuf/udmabuf-load", "FILE", ""},
                                         Program{"vulkan/vulkan-sum", "FILE", ""}),
                         [](const auto& program) {
                           std::string name = program.param.path;
                           name = name.substr(name.find('/') + 1);
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(EverySample, TellsHowItIsUsed) {
  const Output help = run(GetParam().path, "--help");
  EXPECT_EQ(help.status, 0) << help.text;
  EXPECT_THAT(help.text, HasSubstr(GetParam().operand));
  EXPECT_NE(run(GetParam().path, "").status, 0);
  EXPECT_NE(run(GetParam().path, "--nonsense").status, 0);
}

TEST_P(EverySample, FileThatCannotBeLoadedIsNamed) {
  for (const std::string& name :
       {near_mount_->file("none"), near_mount_->file("lost+found"), near_mount_->file("empty")}) {
    if (name.ends_with("empty")) open_file(name, O_WRONLY | O_CREAT);
    const Output output = run_with(name);
    unlink(name.c_str());
    EXPECT_EQ(output.status, 1) << output.text;
    EXPECT_THAT(output.text, HasSubstr(name));
    EXPECT_THAT(output.text, Not(HasSubstr("loaded")));
  }
  EXPECT_FALSE(std::filesystem::exists("/tmp/never"));
}

// --- io_uring into a ring of one's own

class RingSample : public Samples {
 protected:
  Output copy(const std::string& from, const std::string& options = "") const {
    return run("ring/ring-copy", fmt::format("{} {} {} {}", options, from, copy_, node_));
  }
  // Another drive, from which the device cannot be reached, with the same file.
  struct Far {
    Drive where = drive("OTHERRP", "ext4");
    Mount mount{where.path(), "ext4"};
    std::string file = mount.file("sample-far");
    Far() { make_pattern_file(file, size, tag); }
    ~Far() { unlink(file.c_str()); }
    Far(const Far&) = delete;
    Far& operator=(const Far&) = delete;
  };

  const std::string node_ = region_node(first_region());
};

TEST_F(RingSample, CopiesByWayOfTheDevice) {
  const TraceWatch watch;
  const Output output = copy(file_, "--require");
  ASSERT_EQ(output.status, 0) << output.text;
  EXPECT_EQ(difference(copy_), "");
  // A read ends with the file, a write with a whole unit of the drive.
  EXPECT_THAT(output.text, HasSubstr("read: route p2p_bus, 3146962 bytes in 25 commands\n"));
  EXPECT_THAT(output.text, HasSubstr("written: route p2p_bus, 3147264 bytes in 25 commands\n"));
  EXPECT_THAT(output.text, Not(HasSubstr("because")));
  for (const auto& [name, operation] :
       {std::pair{file_, oracle::Operation::read}, {copy_, oracle::Operation::write}}) {
    const auto account = watch.account(
        near_, operation, oracle::extents_of(open_file(name, O_RDONLY).get()), region_window());
    EXPECT_GE(account.payload.inside, size) << name;
  }
}

TEST_F(RingSample, WhatCannotReachTheDeviceGoesThroughSystemMemory) {
  const Far far;
  const Output output = copy(far.file);
  ASSERT_EQ(output.status, 0) << output.text;
  EXPECT_EQ(difference(copy_), "");
  EXPECT_THAT(output.text, HasSubstr("read: route system, "));
  // DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED, with the bridge.
  EXPECT_THAT(output.text, HasSubstr("because: reason 41 of dmabridge-reasons(7)"));
  EXPECT_THAT(output.text, HasSubstr(" 0000:00:00.0\n"));
}

TEST_F(RingSample, RequiredItIsRefusedAndNoFileIsLeft) {
  const Far far;
  const Output output = copy(far.file, "--require");
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.text, HasSubstr("cannot bind " + far.file));
  EXPECT_THAT(output.text, HasSubstr("reason 41"));
  EXPECT_FALSE(copy_is_there());
}

TEST_F(RingSample, FileThatIsThereStaysAsItIs) {
  make_pattern_file(copy_, size, tag);
  const Output output = copy(file_);
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.text, HasSubstr("cannot open " + copy_));
  EXPECT_EQ(difference(copy_), "");
}

TEST_F(RingSample, WithoutTheModuleItSaysWhatToLoad) {
  const Missing node("/dev/dmabridge");
  const Output output = copy(file_);
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.text, HasSubstr("modprobe dmabridge_block"));
  EXPECT_FALSE(copy_is_there());
}

TEST_F(RingSample, WithoutTheRegionItSaysWhereToLook) {
  const Output output = run("ring/ring-copy", file_ + " " + copy_ + " /dev/dmabridge-none");
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.text, HasSubstr("dmabridge info"));
  EXPECT_FALSE(copy_is_there());
}

TEST_F(RingSample, FullDriveIsAnErrorAndNoFileIsLeft) {
  ASSERT_EQ(shell("mkdir /tmp/small && mount -t tmpfs -o size=1M small /tmp/small").status, 0);
  const Output output = run("ring/ring-copy", fmt::format("{} /tmp/small/copy {}", file_, node_));
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.text, HasSubstr("/tmp/small/copy: No space left on device"));
  EXPECT_FALSE(std::filesystem::exists("/tmp/small/copy"));
  EXPECT_EQ(shell("umount /tmp/small && rmdir /tmp/small").status, 0);
}

// --- DRM PRIME

class DrmSample : public Samples {
 protected:
  // vgem's node of this kind ("card", "renderD").
  static std::string vgem(const std::string& kind) {
    std::string found;
    shell("modprobe vgem");
    eventually([&] {
      if (!std::filesystem::exists("/dev/dri")) return false;
      for (const auto& entry : std::filesystem::directory_iterator("/dev/dri")) {
        if (entry.path().filename().string().starts_with(kind) &&
            drm_device::open(entry.path()).driver() == "vgem")
          found = entry.path();
      }
      return !found.empty();
    });
    return found;
  }
  Output load(const std::string& device, const std::string& options = "") const {
    return run("drm/drm-load", fmt::format("{} --device {} {}", file_, device, options));
  }
};

TEST_F(DrmSample, DriveWritesIntoVgemsPages) {
  const Output output = load(vgem("card"));
  EXPECT_EQ(output.status, 0) << output.text;
  EXPECT_THAT(
      output.text,
      HasSubstr(fmt::format("loaded {} bytes into memory of vgem: binding, route system", size)));
  EXPECT_THAT(output.text, HasSubstr("because the buffer comes from another exporter"));
  EXPECT_THAT(output.text,
              HasSubstr(fmt::format("compared: {} bytes in the buffer are the file's", size)));
}

TEST_F(DrmSample, WithoutTheModuleItIsCopied) {
  const std::string node = vgem("card");
  for (const bool there : {true, false}) {
    std::optional<Missing> away;
    if (!there) away.emplace("/dev/dmabridge");
    const Output output = load(node, there ? "--no-module" : "");
    EXPECT_EQ(output.status, 0) << output.text;
    EXPECT_THAT(output.text, HasSubstr("bounce, route bounce"));
    EXPECT_THAT(output.text, HasSubstr("compared: "));
    EXPECT_EQ(output.text.find("going on without the module: cannot open") == 0, !there)
        << output.text;
  }
}

TEST_F(DrmSample, NodesWithoutDumbBuffersAreRefused) {
  const Output render = load(vgem("renderD"));
  EXPECT_EQ(render.status, 1);
  EXPECT_THAT(render.text, HasSubstr("primary nodes"));
  const Output none = load("/dev/null");
  EXPECT_EQ(none.status, 1);
  EXPECT_THAT(none.text, HasSubstr("it is no DRM node"));
}

// --- memfd and udmabuf, and nothing of ours in the kernel

class UdmabufSample : public Samples {};

TEST_F(UdmabufSample, LoadsAndHandsOnWithoutAnyModule) {
  const Missing node("/dev/dmabridge");
  const Output output =
      run("udmabuf/udmabuf-load",
          fmt::format("{} -- sh -c 'exec dmabridge save {} --length $DMABRIDGE_BUFFER_LENGTH'",
                      file_, copy_));
  EXPECT_EQ(output.status, 0) << output.text;
  EXPECT_THAT(output.text, HasSubstr(fmt::format(
                               "loaded {} bytes: pinned_mapping, route system (predicted)", size)));
  EXPECT_EQ(difference(copy_), "");
}

TEST_F(UdmabufSample, MissingNodeAndCommandAreNamed) {
  const Output command = run("udmabuf/udmabuf-load", file_ + " -- /nowhere/command");
  EXPECT_EQ(command.status, 1);
  EXPECT_THAT(command.text, HasSubstr("run /nowhere/command: No such file"));
  const Missing node("/dev/udmabuf");
  const Output output = run("udmabuf/udmabuf-load", file_);
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.text, HasSubstr("modprobe udmabuf"));
  EXPECT_THAT(output.text, Not(HasSubstr("loaded")));
}

// --- Vulkan

TEST_F(Samples, VulkanProgramNamesWhatIsMissing) {
  const Output device = run("vulkan/vulkan-sum", file_ + " --device Nonesuch");
  EXPECT_EQ(device.status, 1);
  EXPECT_THAT(device.text, HasSubstr("llvmpipe"));
  const Missing node("/dev/dmabridge");
  const Output module = run("vulkan/vulkan-sum", file_);
  EXPECT_EQ(module.status, 1);
  EXPECT_THAT(module.text, HasSubstr("modprobe dmabridge"));
}

// --- RDMA

TEST_F(Samples, RdmaPairNamesTheDeviceThatIsMissing) {
  for (const std::string& program :
       {"rdma-server " + file_, std::string("rdma-client 127.0.0.1")}) {
    const Output output = run("rdma/" + program, "--device nonesuch");
    EXPECT_EQ(output.status, 1);
    EXPECT_THAT(output.text, HasSubstr("nonesuch"));
  }
}

// --- the driver

TEST_F(Samples, DriverMadeByItselfServesTheRing) {
  utsname kernel{};
  ASSERT_EQ(uname(&kernel), 0);
  const std::string function = pci_address(first_region().device);
  const Output loaded = shell(
      fmt::format("insmod /build/samples/accelerator-{}/dmabridge_accelerator.ko", kernel.release));
  ASSERT_EQ(loaded.status, 0) << loaded.text;
  ASSERT_EQ(bind_function(function, "dmabridge_accelerator"), 0);
  const std::string node = region_node(first_region());
  EXPECT_TRUE(eventually([&] { return access(node.c_str(), R_OK | W_OK) == 0; }));
  EXPECT_STREQ(first_region().driver, "dmabridge_accelerator");
  const Output output =
      run("ring/ring-copy", fmt::format("--require {} {} {}", file_, copy_, node));
  EXPECT_EQ(output.status, 0) << output.text;
  EXPECT_EQ(difference(copy_), "");
  EXPECT_THAT(output.text, HasSubstr("read: route p2p_bus"));

  EXPECT_EQ(bind_function(function, "dmabridge_pci"), 0);
  EXPECT_TRUE(eventually([] {
    return !regions().empty() && access(region_node(first_region()).c_str(), R_OK | W_OK) == 0;
  }));
  EXPECT_EQ(shell("rmmod dmabridge_accelerator").status, 0);
}

}  // namespace
}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
// A made-up procfs, as the kernel's is laid out.
#include "held_buffers.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace dmabridge::command {
namespace {

namespace files = std::filesystem;

class held_buffers : public testing::Test {
 protected:
  held_buffers() {
    files::remove_all(proc_);
    files::create_directories(proc_);
  }
  ~held_buffers() override { files::remove_all(proc_); }

  void add(int pid, int descriptor, const std::string& link, const std::string& fdinfo) {
    const auto process = proc_ / std::to_string(pid);
    files::create_directories(process / "fd");
    files::create_directories(process / "fdinfo");
    files::create_symlink(link, process / "fd" / std::to_string(descriptor));
    std::ofstream(process / "fdinfo" / std::to_string(descriptor)) << fdinfo;
    std::ofstream(process / "comm") << "load\n";
  }
  static auto info(unsigned inode, const std::string& exporter, const std::string& more = "")
      -> std::string {
    return fmt::format(
        "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t{}\nsize:\t65536\ncount:\t1\nexp_name:\t{}\n"
        "{}",
        inode, exporter, more);
  }
  auto find() const -> census { return find_held_buffers(proc_.string()); }

  const files::path proc_ =
      files::path(testing::TempDir()) /
      fmt::format("proc-{}", testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(held_buffers, each_buffer_once_with_all_who_hold_it) {
  add(20, 7, "/dmabuf:", info(11, "dmabridge"));
  add(10, 3, "/dmabuf:", info(12, "dmabridge"));
  add(10, 4, "/dmabuf:mine", info(11, "dmabridge", "name:\tmine\n"));
  const auto all = find();
  ASSERT_EQ(all.buffers.size(), 2U);
  const auto& shared = all.buffers[0];
  EXPECT_EQ(shared.inode, 11U);
  EXPECT_EQ(shared.size, 65536U);
  ASSERT_EQ(shared.holders.size(), 2U);
  EXPECT_EQ(spec_of(shared.holders[0]), "pid:10:4");
  EXPECT_EQ(spec_of(shared.holders[1]), "pid:20:7");
  EXPECT_EQ(shared.holders[0].command, "load");
  EXPECT_EQ(all.buffers[1].inode, 12U);
  EXPECT_EQ(all.hidden, 0U);
}

TEST_F(held_buffers, other_exporters_and_other_files_are_not_ours) {
  add(10, 3, "/dmabuf:", info(11, "drm"));
  add(10, 4, "/tmp/file", info(12, "dmabridge"));
  add(10, 5, "/dmabuf:", info(13, "amdgpu", "name:\tx\nexp_name:\tdmabridge\n"));
  add(10, 6, "/dmabuf:", "");
  EXPECT_TRUE(find().buffers.empty());
}

TEST_F(held_buffers, folders_that_are_no_processes_are_passed_over) {
  files::create_directories(proc_ / "sys");
  files::create_directories(proc_ / "99999999999999999999");
  files::create_directories(proc_ / "5");
  EXPECT_TRUE(find().buffers.empty());
  EXPECT_EQ(find().hidden, 0U);
}

TEST_F(held_buffers, no_procfs_is_no_buffer) {
  files::remove_all(proc_);
  EXPECT_TRUE(find().buffers.empty());
}

}  // namespace
}  // namespace dmabridge::command

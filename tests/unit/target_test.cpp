// SPDX-License-Identifier: MIT
#include "dmabridge/target.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "error_of.hpp"
#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

namespace filesystem = std::filesystem;
using test::error_of;
using testing::_;
using testing::HasSubstr;
using testing::Return;

class folder_test : public testing::Test {
 protected:
  folder_test() {
    std::string name = filesystem::temp_directory_path() / "dmabridge-test-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~folder_test() override { filesystem::remove_all(folder_); }

  auto path(const std::string& name) const -> std::string { return folder_ / name; }
  auto content(const std::string& name) const -> std::string {
    std::ifstream file(path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
  auto entries() const -> std::ptrdiff_t {
    return std::distance(filesystem::directory_iterator(folder_), {});
  }

  filesystem::path folder_;
};

using source_test = folder_test;
using sink_test = folder_test;

TEST_F(source_test, opens_a_file) {
  write("data", "12345");
  const auto from = source::open(path("data"));
  EXPECT_EQ(from.kind(), target_kind::file);
  EXPECT_EQ(from.size(), 5U);
}

TEST_F(source_test, says_what_it_cannot_read) {
  EXPECT_THAT(error_of([this] { source::open(folder_); }).what(), HasSubstr("it is a directory"));
  EXPECT_THAT(error_of([] { source::open("/dev/null"); }).what(), HasSubstr("character device"));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([this] { source::open(path("pipe")); }).what(), HasSubstr("it is a pipe"));
  const auto missing = error_of([this] { source::open(path("missing")); });
  EXPECT_EQ(missing.kind(), error_kind::usage);
  EXPECT_EQ(missing.code(), ENOENT);
}

TEST_F(source_test, empty_file_is_empty) {
  write("empty", "");
  EXPECT_EQ(source::open(path("empty")).size(), 0U);
}

// Its size is 0 and it is not empty: it would be loaded as nothing, and called a success.
TEST(source, file_that_hides_its_bytes_is_refused) {
  const auto failure = error_of([] { source::open("/proc/version"); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("cannot read /proc/version: its size is given as 0"));
  EXPECT_THAT(failure.what(), HasSubstr("cat /proc/version >COPY"));
}

TEST(source, empty_file_that_cannot_be_read_is_not_taken_for_empty) {
  testing::NiceMock<test::mock_system_calls> calls;
  const system_calls_override active(calls);
  const auto is_empty = [](auto, struct stat* found) {
    found->st_mode = S_IFREG | 0600;
    found->st_size = 0;
    return 0;
  };
  EXPECT_CALL(calls, stat).WillOnce(is_empty);
  EXPECT_CALL(calls, fstat).WillOnce(is_empty);
  EXPECT_CALL(calls, open).WillOnce(Return(60));
  // Such a file may wait for what comes next, which nobody asked for.
  EXPECT_CALL(calls,
              open(_, testing::Truly([](int flags) { return (flags & O_NONBLOCK) != 0; }), _))
      .WillOnce(Return(61));
  EXPECT_CALL(calls, read(61, _, _)).WillOnce(Return(-EAGAIN));
  EXPECT_EQ(error_of([] { source::open("/proc/kmsg"); }).code(), EAGAIN);
}

TEST_F(source_test, holes_are_counted) {
  constexpr auto unit = 1 << 20;  // more than any file system's block
  {
    const auto file = fd::open(path("sparse"), O_RDWR | O_CREAT, 0600);
    const std::string data(unit, 'x');
    ASSERT_EQ(::ftruncate(file.get(), 4 * unit), 0);
    ASSERT_EQ(::pwrite(file.get(), data.data(), unit, unit), unit);
  }
  const auto from = source::open(path("sparse"));
  if (from.hole_bytes(0, 4 * unit) == 0) GTEST_SKIP() << "this file system does not tell of holes";
  EXPECT_EQ(from.hole_bytes(0, 4 * unit), 3U * unit);
  EXPECT_EQ(from.hole_bytes(unit, unit), 0U);
  EXPECT_EQ(from.hole_bytes(unit + unit / 2, unit), unit / 2U);
  EXPECT_EQ(from.hole_bytes(3 * unit, 100), 100U);
  EXPECT_EQ(from.hole_bytes(0, 0), 0U);
}

TEST(source, block_device_has_the_size_of_the_device) {
  testing::NiceMock<test::mock_system_calls> calls;
  const system_calls_override active(calls);
  const auto is_block_device = [](auto, struct stat* found) {
    found->st_mode = S_IFBLK | 0600;
    return 0;
  };
  EXPECT_CALL(calls, stat).WillOnce(is_block_device);
  EXPECT_CALL(calls, fstat).WillOnce(is_block_device);
  EXPECT_CALL(calls, open).WillOnce(Return(60));
  EXPECT_CALL(calls, ioctl(60, BLKGETSIZE64, _)).WillOnce([](int, unsigned long, void* size) {
    *static_cast<std::uint64_t*>(size) = 1 << 30;
    return 0;
  });
  const auto from = source::open("/dev/nvme0n1");
  EXPECT_EQ(from.kind(), target_kind::block_device);
  EXPECT_EQ(from.size(), 1U << 30);
}

TEST_F(sink_test, file_appears_only_when_complete_and_has_its_exact_length) {
  auto into = sink::create_file(path("out"), 4096, sink::existing::refuse);
  EXPECT_FALSE(filesystem::exists(path("out")));
  ASSERT_EQ(::pwrite(into.descriptor(), "abcdef", 6, 0), 6);
  into.commit(4);
  EXPECT_EQ(content("out"), "abcd");
  EXPECT_EQ(entries(), 1);
}

TEST_F(sink_test, nothing_is_left_without_commit) {
  {
    const auto into = sink::create_file(path("out"), 4096, sink::existing::refuse);
  }
  EXPECT_EQ(entries(), 0);
}

TEST_F(sink_test, what_exists_is_not_touched_unless_allowed) {
  write("out", "old");
  const auto failure =
      error_of([this] { sink::create_file(path("out"), 4096, sink::existing::refuse); });
  EXPECT_EQ(failure.kind(), error_kind::usage);
  EXPECT_THAT(failure.what(), HasSubstr("--force"));
  EXPECT_EQ(content("out"), "old");
  EXPECT_EQ(entries(), 1);
}

TEST_F(sink_test, replacing_keeps_the_old_file_until_the_new_one_is_whole) {
  write("out", "old");
  filesystem::permissions(path("out"), filesystem::perms::owner_read);
  auto into = sink::create_file(path("out"), 8, sink::existing::replace);
  EXPECT_EQ(content("out"), "old");
  into.commit(2);
  EXPECT_EQ(filesystem::file_size(path("out")), 2U);
  EXPECT_EQ(filesystem::status(path("out")).permissions(), filesystem::perms::owner_read);
}

TEST_F(sink_test, symbolic_link_stays_one) {
  write("real", "old");
  filesystem::create_symlink("real", path("link"));
  sink::create_file(path("link"), 8, sink::existing::replace).commit(3);
  EXPECT_TRUE(filesystem::is_symlink(path("link")));
  EXPECT_EQ(filesystem::file_size(path("real")), 3U);
}

TEST_F(sink_test, file_that_appears_meanwhile_is_not_replaced) {
  auto into = sink::create_file(path("out"), 8, sink::existing::refuse);
  write("out", "somebody else's");
  EXPECT_EQ(error_of([&] { into.commit(3); }).code(), EEXIST);
  EXPECT_EQ(content("out"), "somebody else's");
}

TEST_F(sink_test, directory_is_no_place_to_write_to) {
  EXPECT_THAT(error_of([this] { sink::create_file(folder_, 8, sink::existing::replace); }).what(),
              HasSubstr("it is a directory"));
}

class failing_sink_test : public testing::Test {
 protected:
  failing_sink_test() {
    ON_CALL(calls_, open).WillByDefault(Return(70));
    EXPECT_CALL(calls_, unlink).Times(1);
  }
  testing::NiceMock<test::mock_system_calls> calls_;
  system_calls_override active_{calls_};
};

TEST_F(failing_sink_test, no_space) {
  EXPECT_CALL(calls_, fallocate(70, 4096)).WillOnce(Return(-ENOSPC));
  const auto failure = error_of([] { sink::create_file("/x/out", 4096, sink::existing::refuse); });
  EXPECT_EQ(failure.code(), ENOSPC);
  EXPECT_THAT(failure.what(), HasSubstr("reserve 4 KiB"));
}

TEST_F(failing_sink_test, file_system_that_cannot_reserve_is_given_the_size) {
  EXPECT_CALL(calls_, fallocate(70, 4096)).WillOnce(Return(-EOPNOTSUPP));
  EXPECT_CALL(calls_, ftruncate(70, 4096)).WillOnce(Return(0));
  sink::create_file("/x/out", 4096, sink::existing::refuse);
}

TEST_F(failing_sink_test, bytes_that_do_not_get_durable_are_not_committed) {
  EXPECT_CALL(calls_, fsync(70)).WillOnce(Return(-EIO));
  EXPECT_CALL(calls_, rename).Times(0);
  auto into = sink::create_file("/x/out", 4096, sink::existing::refuse);
  EXPECT_EQ(error_of([&] { into.commit(4096); }).code(), EIO);
}

}  // namespace
}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "uverbs.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/rdma_user_ioctl_cmds.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "mock_system_calls.hpp"

namespace dmabridge {
namespace {

using testing::_;

constexpr int device_fd = 140;
constexpr std::uint32_t domain_handle = 23;

class uverbs_test : public testing::Test {
 protected:
  uverbs_test() {
    context_.cmd_fd = device_fd;
    domain_.context = &context_;
    domain_.handle = domain_handle;
    ON_CALL(calls_, ioctl(device_fd, RDMA_VERBS_IOCTL, _))
        .WillByDefault([this](int, unsigned long, void* command) {
          std::memcpy(header_.get(), command, sizeof(*header_));
          tried_.push_back(header_->driver_id);
          if (header_->driver_id != driver_) return -EINVAL;
          take_attributes(static_cast<const std::byte*>(command) + sizeof(*header_));
          return answer_;
        });
  }

  void take_attributes(const std::byte* at) {
    EXPECT_EQ(header_->length, sizeof(*header_) + header_->num_attrs * sizeof(ib_uverbs_attr));
    for (auto i = 0; i < header_->num_attrs; ++i) {
      ib_uverbs_attr one{};
      std::memcpy(&one, at + i * sizeof(one), sizeof(one));
      EXPECT_TRUE(attributes_.emplace(one.attr_id, one).second) << one.attr_id;
    }
  }

  auto ask() -> driver_answer { return ask_driver_for_dmabuf_mr(domain_); }

  testing::NiceMock<test::mock_system_calls> calls_;
  system_calls_override active_{calls_};
  ibv_context context_{};
  ibv_pd domain_{};
  std::uint32_t driver_ = RDMA_DRIVER_MLX5;
  int answer_ = -EBADF;
  // Not a member itself: it ends in an array without a size.
  const std::unique_ptr<ib_uverbs_ioctl_hdr> header_ = std::make_unique<ib_uverbs_ioctl_hdr>();
  std::map<unsigned, ib_uverbs_attr> attributes_{};
  std::vector<std::uint32_t> tried_{};
};

TEST_F(uverbs_test, fd_that_is_none_is_not_found_by_a_driver_that_has_them) {
  EXPECT_EQ(ask(), driver_answer::has);
  EXPECT_THAT(tried_, testing::ElementsAre(RDMA_DRIVER_UNKNOWN, RDMA_DRIVER_MLX5));
}

TEST_F(uverbs_test, driver_without_them_says_so_before_it_looks) {
  for (const auto answer : {-EOPNOTSUPP, -EPROTONOSUPPORT}) {
    answer_ = answer;
    EXPECT_EQ(ask(), driver_answer::lacks);
    attributes_.clear();
  }
}

TEST_F(uverbs_test, whatever_else_it_says_is_unknown_and_nobody_else_is_tried) {
  for (const auto answer : {0, -EIO, -ENODEV, -ENOMEM, -ENOTTY, -EPERM}) {
    tried_.clear();
    attributes_.clear();
    answer_ = answer;
    EXPECT_EQ(ask(), driver_answer::unknown) << answer;
    EXPECT_EQ(tried_.back(), driver_);
  }
}

// Ids are given one after the other.
TEST_F(uverbs_test, driver_that_is_yet_to_be_written_is_found) {
  driver_ = RDMA_DRIVER_SIW + 20;
  EXPECT_EQ(ask(), driver_answer::has);
}

TEST_F(uverbs_test, nobody_who_answers_is_unknown_after_a_bounded_time) {
  driver_ = 1000000;
  EXPECT_EQ(ask(), driver_answer::unknown);
  EXPECT_LE(tried_.size(), 100U);
}

// As the kernel checks it (drivers/infiniband/core/uverbs_std_types_mr.c).
TEST_F(uverbs_test, command_has_all_that_the_kernel_demands) {
  ASSERT_EQ(ask(), driver_answer::has);
  EXPECT_EQ(header_->object_id, UVERBS_OBJECT_MR);
  EXPECT_EQ(header_->method_id, UVERBS_METHOD_REG_DMABUF_MR);
  EXPECT_EQ(header_->reserved1, 0U);
  EXPECT_EQ(header_->reserved2, 0U);
  struct expected {
    unsigned id;
    unsigned length;
    std::uint64_t data;
  };
  for (const auto& [id, length, data] : {
           expected{UVERBS_ATTR_REG_DMABUF_MR_HANDLE, 0, 0},
           expected{UVERBS_ATTR_REG_DMABUF_MR_PD_HANDLE, 0, domain_handle},
           expected{UVERBS_ATTR_REG_DMABUF_MR_OFFSET, 8, 0},
           expected{UVERBS_ATTR_REG_DMABUF_MR_LENGTH, 8, 1},
           expected{UVERBS_ATTR_REG_DMABUF_MR_IOVA, 8, 0},
           expected{UVERBS_ATTR_REG_DMABUF_MR_FD, 4, static_cast<std::uint32_t>(-1)},
           expected{UVERBS_ATTR_REG_DMABUF_MR_ACCESS_FLAGS, 4, IBV_ACCESS_LOCAL_WRITE},
       }) {
    ASSERT_TRUE(attributes_.contains(id)) << id;
    EXPECT_EQ(attributes_[id].len, length) << id;
    EXPECT_EQ(attributes_[id].data, data) << id;
  }
  for (const auto id : {UVERBS_ATTR_REG_DMABUF_MR_RESP_LKEY, UVERBS_ATTR_REG_DMABUF_MR_RESP_RKEY}) {
    ASSERT_TRUE(attributes_.contains(id));
    EXPECT_EQ(attributes_[id].len, 4);
    EXPECT_NE(attributes_[id].data, 0U);
  }
  EXPECT_EQ(attributes_.size(), 9U);
  for (const auto& [id, one] : attributes_) {
    EXPECT_EQ(one.flags, UVERBS_ATTR_F_MANDATORY) << id;
    EXPECT_EQ(one.attr_data.reserved, 0U) << id;
  }
}

}  // namespace
}  // namespace dmabridge

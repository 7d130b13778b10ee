// SPDX-License-Identifier: MIT
#include "rdma_device.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <utility>

#include "error_of.hpp"
#include "rdma_fixture.hpp"

namespace dmabridge {
namespace {

using test::error_of;
using testing::_;
using testing::HasSubstr;
using testing::Return;
using testing::SizeIs;

class rdma_device_test : public test::rdma_fixture {};

TEST_F(rdma_device_test, nic_is_known_by_its_function_and_driver) {
  const auto device = identify(&provider_.domain);
  EXPECT_EQ(device.name, "nic0");
  EXPECT_EQ(device.function, pci_address::unpack(test::nic_function));
  EXPECT_EQ(device.driver, "mlx5_core");
  EXPECT_FALSE(device.by_cpu || device.ignores_iova);
  EXPECT_TRUE(device.has_dmabuf_mr());
  EXPECT_TRUE(device.why_no_dmabuf_mr().empty());
}

// mlx5's, whose DMA is that of the function below which they are.
TEST_F(rdma_device_test, subfunction_is_known_by_the_function_that_it_is_a_part_of) {
  place_ = "../../devices/pci0000:00/0000:00:01.0/0000:05:00.0/mlx5_core.sf.4/infiniband/nic0";
  const auto device = identify(&provider_.domain);
  EXPECT_EQ(device.function, pci_address::unpack(test::nic_function));
  EXPECT_EQ(device.driver, "mlx5_core");
}

TEST_F(rdma_device_test, device_on_no_pci_bus_has_no_function) {
  for (const auto* place : {"../../devices/virtual/infiniband/nic0", "nic0", "a/", "/"}) {
    place_ = place;
    const auto device = identify(&provider_.domain);
    EXPECT_FALSE(device.function) << place;
    EXPECT_EQ(device.driver, "") << place;
  }
}

TEST_F(rdma_device_test, software_devices_are_known_by_their_vendor) {
  for (const auto& [vendor, driver] :
       {std::pair(test::rxe_vendor, "rdma_rxe"), std::pair(test::siw_vendor, "siw")}) {
    provider_.vendor = vendor;
    const auto device = identify(&provider_.domain);
    EXPECT_TRUE(device.by_cpu);
    EXPECT_EQ(device.driver, driver);
    EXPECT_EQ(device.ignores_iova, vendor == test::siw_vendor);
    // It may lie on the network device of a PCI function, which does none of its work.
    EXPECT_FALSE(device.function);
  }
}

TEST_F(rdma_device_test, device_without_sysfs_has_no_function) {
  ON_CALL(module_.calls, read_link).WillByDefault(Return(-ENOENT));
  const auto device = identify(&provider_.domain);
  EXPECT_FALSE(device.function);
  EXPECT_EQ(device.driver, "");
}

TEST_F(rdma_device_test, dmabuf_mrs_are_asked_for_with_an_fd_that_is_none) {
  EXPECT_CALL(provider_.calls,
              reg_dmabuf_mr(&provider_.domain, 0, 1, 0, -1, IBV_ACCESS_LOCAL_WRITE, _));
  EXPECT_CALL(provider_.calls, dereg_mr).Times(0);
  EXPECT_TRUE(identify(&provider_.domain).has_dmabuf_mr());
}

TEST_F(rdma_device_test, whatever_else_asking_gives_is_no_and_kept) {
  EXPECT_CALL(module_.calls, ioctl(test::verbs_fd, _, _)).Times(0);
  for (const auto code : {ENOTTY, EINVAL, EPERM, ENOMEM}) {
    provider_.dmabuf_error = code;
    const auto device = identify(&provider_.domain);
    EXPECT_FALSE(device.has_dmabuf_mr());
    const auto why = device.why_no_dmabuf_mr();
    ASSERT_THAT(why, SizeIs(1));
    EXPECT_EQ(why[0].code, std::uint32_t{DMABRIDGE_REASON_NO_DMABUF_MR});
    EXPECT_EQ(why[0].value, static_cast<std::uint64_t>(code));
    EXPECT_EQ(why[0].name, "nic0");
    EXPECT_TRUE(why[0].blocks_p2p);
  }
}

// It is one answer of libibverbs for two faults, which have two remedies.
TEST_F(rdma_device_test, driver_is_asked_whether_it_or_the_provider_library_lacks_them) {
  provider_.dmabuf_error = EOPNOTSUPP;
  for (const auto& [answer, code] : {std::pair(EOPNOTSUPP, DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR),
                                     std::pair(EBADF, DMABRIDGE_REASON_PROVIDER_NO_DMABUF_MR),
                                     std::pair(ENOTTY, DMABRIDGE_REASON_NO_DMABUF_MR)}) {
    driver_error_ = answer;
    const auto why = identify(&provider_.domain).why_no_dmabuf_mr();
    ASSERT_THAT(why, SizeIs(1));
    EXPECT_EQ(why[0].code, static_cast<std::uint32_t>(code));
    EXPECT_EQ(why[0].value, static_cast<std::uint64_t>(EOPNOTSUPP));
    EXPECT_EQ(why[0].name, "nic0");
    EXPECT_TRUE(why[0].blocks_p2p);
  }
}

TEST_F(rdma_device_test, software_device_has_a_reason_of_its_own_besides) {
  provider_.dmabuf_error = EOPNOTSUPP;
  provider_.vendor = test::rxe_vendor;
  const auto why = identify(&provider_.domain).why_no_dmabuf_mr();
  ASSERT_THAT(why, SizeIs(2));
  EXPECT_EQ(why[0].code, std::uint32_t{DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR});
  EXPECT_EQ(why[1].code, std::uint32_t{DMABRIDGE_REASON_BY_CPU});
  EXPECT_EQ(why[1].name, "rdma_rxe");
}

// No provider does; should one, nothing is left behind.
TEST_F(rdma_device_test, provider_that_registers_nothing_at_all_is_taken_at_its_word) {
  ibv_mr made{};
  EXPECT_CALL(provider_.calls, reg_dmabuf_mr).WillOnce(Return(&made));
  EXPECT_CALL(provider_.calls, dereg_mr(&made)).Times(1);
  EXPECT_TRUE(identify(&provider_.domain).has_dmabuf_mr());
}

TEST_F(rdma_device_test, device_that_cannot_be_asked_is_an_error) {
  EXPECT_CALL(provider_.calls, query_vendor).WillOnce(Return(EIO));
  const auto failure = error_of([&] { identify(&provider_.domain); });
  EXPECT_EQ(failure.kind(), error_kind::system);
  EXPECT_EQ(failure.code(), EIO);
  EXPECT_THAT(failure.what(), HasSubstr("RDMA device nic0"));
}

}  // namespace
}  // namespace dmabridge

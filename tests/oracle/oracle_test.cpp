// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "account.hpp"
#include "claim.hpp"
#include "trace.hpp"

namespace dmabridge::oracle {
namespace {

// As QEMU 11.1 wrote them.
constexpr const char* captured =
    "pci_nvme_admin_cmd cid 20 sqid 0 opc 0x6 opname 'NVME_ADM_CMD_IDENTIFY'\n"
    "pci_nvme_map_prp trans_len 4096 len 4096 prp1 0x6da6000 prp2 0x0 num_prps 2\n"
    "pci_nvme_map_addr addr 0x6da6000 len 4096\n"
    "pci_nvme_enqueue_req_completion cid 20 cqid 0 dw0 0x0 dw1 0x0 status 0x0\n"
    "pci_nvme_io_cmd cid 20800 nsid 0x3 sqid 2 opc 0x2 opname 'NVME_NVM_CMD_READ'\n"
    "pci_nvme_read cid 20800 nsid 3 nlb 2048 count 1048576 lba 0x2800\n"
    "pci_nvme_map_sgl type 0x0 len 1048576\n"
    "pci_nvme_map_addr addr 0xf4000000 len 1048576\n"
    "pci_nvme_rw_cb cid 20800 blk 'disk-SAMESW-n3.img'\n"
    "pci_nvme_io_cmd cid 7 nsid 0x4 sqid 1 opc 0x1 opname 'NVME_NVM_CMD_WRITE'\n"
    "pci_nvme_write cid 7 opname 'write' nsid 4 nlb 16 count 8192 lba 0x40\n"
    "pci_nvme_map_prp trans_len 4096 len 8192 prp1 0x62b0000 prp2 0x72ee000 num_prps 3\n"
    "pci_nvme_map_addr addr 0x62b0000 len 4096\n"
    "pci_nvme_map_addr addr 0x62b1000 len 4096\n"
    "pci_nvme_io_cmd cid 8 nsid 0x4 sqid 1 opc 0x0 opname 'NVME_NVM_CMD_FLUSH'\n"
    "pci_nvme_admin_cmd cid 12 sqid 0 opc 0x6 opname 'NVME_ADM_CMD_IDENTIFY'\n"
    "pci_nvme_map_addr addr 0x6da7000 len 4096\n";

TEST(Trace, JoinsCommandsWithTheirTargets) {
  TraceParser parser;
  parser.feed(captured);
  EXPECT_TRUE(parser.damaged().empty());
  ASSERT_EQ(parser.commands().size(), 2u);
  const Command &read = parser.commands()[0], &write = parser.commands()[1];
  EXPECT_EQ(read.operation, Operation::read);
  EXPECT_EQ(read.nsid, 3u);
  EXPECT_EQ(read.lba, 0x2800u);
  EXPECT_EQ(read.blocks, 2048u);
  EXPECT_EQ(read.bytes, 1u << 20);
  ASSERT_EQ(read.targets.size(), 1u);
  EXPECT_EQ(read.targets[0].address, 0xf4000000u);
  EXPECT_EQ(read.targets[0].length, 1u << 20);
  EXPECT_EQ(write.operation, Operation::write);
  EXPECT_EQ(write.nsid, 4u);
  EXPECT_EQ(write.targets.size(), 2u) << "targets of the admin command behind it are not its own";
}

TEST(Trace, TakesAnyPieces) {
  const std::string text = captured;
  for (std::size_t size : {1u, 7u, 64u}) {
    TraceParser parser;
    for (std::size_t at = 0; at < text.size(); at += size)
      parser.feed(std::string_view(text).substr(at, size));
    ASSERT_EQ(parser.commands().size(), 2u) << size;
    EXPECT_EQ(parser.commands()[1].targets.size(), 2u) << size;
  }
}

TEST(Trace, KeepsAnUnfinishedLineForLater) {
  TraceParser parser;
  parser.feed("pci_nvme_read cid 1 nsid 3 nlb 8 count 40");
  EXPECT_TRUE(parser.commands().empty());
  EXPECT_TRUE(parser.damaged().empty());
  parser.feed("96 lba 0x10\n");
  ASSERT_EQ(parser.commands().size(), 1u);
  EXPECT_EQ(parser.commands()[0].bytes, 4096u);
}

class DamagedLine : public testing::TestWithParam<const char*> {};

TEST_P(DamagedLine, IsReported) {
  TraceParser parser;
  parser.feed(std::string(GetParam()) + "\n");
  EXPECT_EQ(parser.damaged().size(), 1u);
  EXPECT_TRUE(parser.commands().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Trace, DamagedLine,
    testing::Values(
        "pci_nvme_read cid 1 nsid 3 nlb 8 count 4096 lba",            // cut off
        "pci_nvme_read cid 1 nsid 3 nlb 8 count 4096 lba 0x",         // cut off in the number
        "pci_nvme_read cid 1 nsid 3 nlb 8 count 4096 lba 0x1g",       // not a number
        "pci_nvme_read cid 1 nlb 8 count 4096 lba 0x10",              // field missing
        "pci_nvme_read cid 1 nsid 3 nlb 0 count 4096 lba 0x10",       // nonsense
        "pci_nvme_read cid 1 nsid 3 nlb 3 count 4096 lba 0x10",       // no whole blocks
        "pci_nvme_map_addr addr 0x1000",                              // field missing
        "pci_nvme_map_addr addr 0x1000 len 99999999999999999999999",  // out of range
        "pci_nvme_map_addr addr 0x10pci_nvme_io_cmd cid 1 nsid 0x1",  // two lines in one
        "garbage pci_nvme_map_addr addr 0x1000 len 4096"));

TEST(Trace, TargetsBehindADamagedCommandAreNobodys) {
  TraceParser parser;
  parser.feed(
      "pci_nvme_read cid 1 nsid 3 nlb 8 count 4096 lba 0x10\n"
      "pci_nvme_read cid 1 nsid 3 nlb\n"
      "pci_nvme_map_addr addr 0x1000 len 4096\n");
  ASSERT_EQ(parser.commands().size(), 1u);
  EXPECT_TRUE(parser.commands()[0].targets.empty());
}

TEST(Trace, FileWithADamagedLineIsRefused) {
  const std::string path = testing::TempDir() + "damaged-trace";
  std::ofstream(path) << captured << "pci_nvme_map_addr addr\n";
  EXPECT_THROW(read_trace(path), std::runtime_error);
  EXPECT_EQ(read_trace(path, 0, std::string_view(captured).size()).size(), 2u);
  EXPECT_THROW(read_trace(path + "-missing"), std::runtime_error);
  std::remove(path.c_str());
}

TEST(Window, HoldsOnlyWhatLiesInsideWhole) {
  const Window window{0x1000, 0x1000};
  EXPECT_TRUE(window.holds({0x1000, 0x1000}));
  EXPECT_TRUE(window.holds({0x1fff, 1}));
  EXPECT_FALSE(window.holds({0xfff, 1}));
  EXPECT_FALSE(window.holds({0x2000, 1}));
  EXPECT_FALSE(window.holds({0x1fff, 2}));
  EXPECT_FALSE(window.holds({0x1800, ~std::uint64_t(0)}));
}

const Window bar{0xf4000000, 0x4000000};

Command read_command(std::uint32_t nsid, std::uint64_t lba, std::vector<DmaTarget> targets) {
  return {nsid, Operation::read, lba, 8, 4096, std::move(targets)};
}

TEST(Account, TellsPayloadFromMetadataAndInsideFromOutside) {
  const std::vector<Extent> extents{{0x10000, 0x2000, 0}};
  const std::vector<Command> commands{
      read_command(1, 0x80, {{0xf4000000, 4096}}),  // first block of the extent, into the BAR
      read_command(1, 0x88,
                   {{0xf7fff000, 0x800}, {0x1000, 0x800}}),  // second block, half of it elsewhere
      read_command(1, 0x90, {{0x2000, 4096}}),               // just behind the extent
      read_command(1, 0x78, {{0x3000, 4096}}),               // just before it
      read_command(2, 0x80, {{0x4000, 4096}}),               // another drive
      read_command(1, 0x80, {}),                             // nobody knows where to
  };
  const Account result = account(commands, {1, Operation::read, extents, bar});
  EXPECT_EQ(result.payload.commands, 3u);
  EXPECT_EQ(result.payload.inside, 4096u + 0x800u);
  EXPECT_EQ(result.payload.outside, 0x800u);
  EXPECT_EQ(result.payload.unmapped, 4096u);
  EXPECT_EQ(result.metadata.commands, 2u);
  EXPECT_EQ(result.metadata.inside, 0u);
  EXPECT_EQ(result.metadata.outside, 8192u);
  EXPECT_EQ(account(commands, {1, Operation::write, extents, bar}).payload.commands, 0u);
}

TransferClaim claim(Expectation expectation) {
  return {"s", expectation, Operation::read, 1, {{0, 8192, 0}}, 5000, 8192, bar, 0, 1, 0};
}
Account moved(std::uint64_t inside, std::uint64_t outside) {
  return {{1, inside, outside, 0}, {}};
}

TEST(Claim, HoldsOnlyIfAllPayloadWentWhereItShould) {
  EXPECT_TRUE(judge(claim(Expectation::device), moved(8192, 0)).good);
  EXPECT_TRUE(judge(claim(Expectation::device), moved(5000, 0)).good);
  EXPECT_FALSE(judge(claim(Expectation::device), moved(8192, 512)).good);
  EXPECT_FALSE(judge(claim(Expectation::device), moved(4096, 0)).good) << "too little moved";
  EXPECT_FALSE(judge(claim(Expectation::device), moved(16384, 0)).good) << "moved twice";
  EXPECT_FALSE(judge(claim(Expectation::device), {{2, 8192, 0, 512}, {}}).good)
      << "some of it unseen";
  EXPECT_TRUE(judge(claim(Expectation::system), moved(0, 8192)).good);
  EXPECT_FALSE(judge(claim(Expectation::system), moved(512, 8192)).good);
}

TEST(Claim, FailedCommandIsWrongUnlessItHadToBeRefused) {
  TransferClaim failed = claim(Expectation::device);
  failed.exit_status = 3;
  EXPECT_FALSE(judge(failed, moved(8192, 0)).good);
  TransferClaim refused = claim(Expectation::refused);
  EXPECT_FALSE(judge(refused, {}).good) << "it succeeded";
  refused.exit_status = 3;
  EXPECT_TRUE(judge(refused, {}).good);
  EXPECT_FALSE(judge(refused, moved(0, 512)).good) << "refused, but moved bytes all the same";
}

TEST(Claim, SurvivesTheWayThroughJson) {
  const auto before = claim(Expectation::system);
  const nlohmann::json json = before;
  const auto after = json.get<TransferClaim>();
  EXPECT_EQ(nlohmann::json(after), json);
  EXPECT_EQ(after.expectation, Expectation::system);
  EXPECT_EQ(after.extents.size(), 1u);
}

class Comparison : public testing::Test {
 protected:
  Comparison() {
    std::ofstream(folder + "original") << "0123456789";
    std::ofstream(folder + "image") << "xx56789xx01234xx";
  }
  ~Comparison() override {
    std::remove((folder + "original").c_str());
    std::remove((folder + "image").c_str());
  }
  Finding compare_with(std::vector<Extent> extents, std::uint64_t bytes) {
    return compare({"s", "image", std::move(extents), folder + "original", 0, bytes}, folder);
  }
  const std::string folder = testing::TempDir();
};

TEST_F(Comparison, FollowsTheExtents) {
  EXPECT_TRUE(compare_with({{9, 5, 0}, {2, 5, 5}}, 10).good);
}
TEST_F(Comparison, EndsWithTheOriginal) {
  EXPECT_TRUE(compare_with({{9, 5, 0}, {2, 7, 5}}, 10).good);
}
TEST_F(Comparison, SeesADifference) {
  const Finding finding = compare_with({{9, 5, 0}, {3, 5, 5}}, 10);
  EXPECT_FALSE(finding.good);
  EXPECT_THAT(finding.problem, testing::HasSubstr("byte 5 "));
}
TEST_F(Comparison, SeesAGap) {
  EXPECT_FALSE(compare_with({{9, 5, 0}, {3, 4, 6}}, 10).good);
}
TEST_F(Comparison, SeesMissingBytes) {
  EXPECT_FALSE(compare_with({{9, 5, 0}}, 10).good);
}

}  // namespace
}  // namespace dmabridge::oracle

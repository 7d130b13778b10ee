// SPDX-License-Identifier: MIT
//
// dmabridge-oracle: in a guest, writes down what a command did; on its host, checks that against
// QEMU's trace and the images.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "account.hpp"
#include "claim.hpp"
#include "machine.hpp"
#include "trace.hpp"

namespace oracle = dmabridge::oracle;

namespace {

constexpr int exit_bad = 1;
constexpr const char* trace_path = "/host/trace.log";

void append(const std::string& claims, const nlohmann::json& claim) {
  std::ofstream file(claims, std::ios::app);
  file << claim.dump() << '\n';
  if (!file.flush()) throw std::runtime_error(fmt::format("cannot write {}", claims));
}

class File {
 public:
  explicit File(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw std::system_error(errno, std::generic_category(), path);
  }
  ~File() { close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

oracle::Namespace require_namespace(int fd, const std::string& path) {
  const auto found = oracle::namespace_of(fd);
  if (!found) throw std::runtime_error(fmt::format("{} is not on an NVMe namespace", path));
  return *found;
}

struct TransferOptions {
  std::string claims, step, file, operation, expect, device;
  unsigned bar = 2;
  std::uint64_t bytes = 0, begin = 0;
  int exit_status = 0;
};

// The file system itself cuts a file to a length that is no multiple of its block, by way of the
// page cache. So the last block of a file that was written is payload only if it is whole.
void leave_out_partial_block(oracle::TransferClaim& claim, std::uint64_t block) {
  claim.bytes -= claim.bytes % block;
  std::erase_if(claim.extents,
                [&](const oracle::Extent& extent) { return extent.file_offset >= claim.bytes; });
  for (oracle::Extent& extent : claim.extents) {
    extent.length = std::min(extent.length, claim.bytes - extent.file_offset);
  }
}

int transfer(const TransferOptions& options) {
  oracle::TransferClaim claim{};
  claim.step = options.step;
  claim.expectation = oracle::parse_expectation(options.expect);
  claim.operation = oracle::parse_operation(options.operation);
  claim.window = oracle::bar_window(options.device, options.bar);
  claim.trace_begin = options.begin;
  claim.trace_end = std::filesystem::file_size(trace_path);
  claim.exit_status = options.exit_status;
  const File file(options.file);
  claim.nsid = require_namespace(file.fd(), options.file).nsid;
  claim.extents = oracle::extents_of(file.fd());
  struct stat status;
  if (fstat(file.fd(), &status) != 0)
    throw std::system_error(errno, std::generic_category(), options.file);
  claim.bytes = options.bytes != 0 ? options.bytes : static_cast<std::uint64_t>(status.st_size);
  for (const oracle::Extent& extent : claim.extents) claim.most += extent.length;
  if (S_ISREG(status.st_mode) && claim.operation == oracle::Operation::write) {
    leave_out_partial_block(claim, static_cast<std::uint64_t>(status.st_blksize));
  }
  append(options.claims, claim);
  return 0;
}

struct ContentOptions {
  std::string claims, step, image, file, original;
  std::vector<std::string> chunks;
  std::uint64_t bytes = 0, original_offset = 0;
};

// "OFFSET:LENGTH" runs of a buffer in its region, in the buffer's order.
std::vector<oracle::Extent> parse_chunks(const std::vector<std::string>& texts) {
  std::vector<oracle::Extent> extents;
  std::uint64_t at = 0;
  for (const std::string& text : texts) {
    const std::size_t colon = text.find(':');
    if (colon == text.npos)
      throw std::runtime_error(fmt::format("'{}' is not OFFSET:LENGTH", text));
    extents.push_back(
        {std::stoull(text.substr(0, colon)), std::stoull(text.substr(colon + 1)), at});
    at += extents.back().length;
  }
  return extents;
}

int content(const ContentOptions& options) {
  oracle::ContentClaim claim{
      options.step,     options.image,           parse_chunks(options.chunks),
      options.original, options.original_offset, options.bytes};
  if (!options.file.empty()) {
    const File file(options.file);
    claim.extents = oracle::extents_of(file.fd());
    claim.image = require_namespace(file.fd(), options.file).image();
  }
  if (claim.bytes == 0) claim.bytes = std::filesystem::file_size(options.original);
  append(options.claims, claim);
  return 0;
}

std::string size_text(std::uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

bool check_transfer(const oracle::TransferClaim& claim, const std::string& run_dir) {
  const auto commands =
      oracle::read_trace(fmt::format("{}/trace.log", run_dir), claim.trace_begin, claim.trace_end);
  const oracle::Account account =
      oracle::account(commands, {claim.nsid, claim.operation, claim.extents, claim.window});
  const oracle::Finding finding = oracle::judge(claim, account);
  fmt::print("  {:<36} {:>9} {:>12} {:>12} {:>12} {:>12}  {}\n", claim.step,
             account.payload.commands, size_text(account.payload.inside),
             size_text(account.payload.outside), size_text(account.metadata.inside),
             size_text(account.metadata.outside),
             finding.good ? "ok" : "WRONG: " + finding.problem);
  return finding.good;
}

bool check_content(const oracle::ContentClaim& claim, const std::string& run_dir) {
  const oracle::Finding finding = oracle::compare(claim, run_dir);
  fmt::print("  {:<36} {:>12}  {:<24} {}\n", claim.step, size_text(claim.bytes), claim.image,
             finding.good ? "identical" : "WRONG: " + finding.problem);
  return finding.good;
}

int check(const std::string& claims, const std::string& run_dir) {
  std::ifstream file(claims);
  if (!file) throw std::runtime_error(fmt::format("the guest left no claims in {}", claims));
  std::vector<oracle::TransferClaim> transfers;
  std::vector<oracle::ContentClaim> contents;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.at("kind") == "transfer") {
      transfers.push_back(json.get<oracle::TransferClaim>());
    } else {
      contents.push_back(json.get<oracle::ContentClaim>());
    }
  }
  if (transfers.empty() || contents.empty())
    throw std::runtime_error(fmt::format("{} holds no claims to check", claims));

  bool good = true;
  fmt::print("Where the drives' DMA went (QEMU's trace):\n");
  fmt::print("  {:<36} {:>9} {:>25} {:>25}\n", "", "payload", "payload bytes", "metadata bytes");
  fmt::print("  {:<36} {:>9} {:>12} {:>12} {:>12} {:>12}\n", "step", "commands", "inside BAR",
             "outside BAR", "inside BAR", "outside BAR");
  for (const auto& claim : transfers) good &= check_transfer(claim, run_dir);
  fmt::print(
      "  (The last block of a file that was written is metadata unless it is whole: the file "
      "system "
      "cuts it.)\n");
  fmt::print("\nBytes, compared on the host after power-off:\n");
  fmt::print("  {:<36} {:>12}  {:<24}\n", "what", "size", "image");
  for (const auto& claim : contents) good &= check_content(claim, run_dir);
  return good ? 0 : exit_bad;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Writes down, in a guest, what a command did, and checks it on the host against QEMU's trace "
      "and the images.");
  app.require_subcommand(1);

  TransferOptions transfer_options;
  auto* transfer_command = app.add_subcommand(
      "transfer", "in the guest: claim where the payload of the command that just ended went");
  transfer_command->add_option("--claims", transfer_options.claims, "file to append the claim to")
      ->required();
  transfer_command->add_option("--step", transfer_options.step, "name in the table")->required();
  transfer_command
      ->add_option("--file", transfer_options.file,
                   "the file or block device whose bytes are the payload")
      ->required();
  transfer_command->add_option("--operation", transfer_options.operation, "what the drive did")
      ->required()
      ->check(CLI::IsMember({"read", "write"}));
  transfer_command->add_option("--expect", transfer_options.expect, "where the payload went")
      ->required()
      ->check(CLI::IsMember({"device", "system", "refused"}));
  transfer_command
      ->add_option("--begin", transfer_options.begin, "size of /host/trace.log before the command")
      ->required();
  transfer_command->add_option("--exit-status", transfer_options.exit_status, "of the command")
      ->required();
  transfer_command
      ->add_option("--device", transfer_options.device,
                   "PCI address of the function with the memory")
      ->required();
  transfer_command->add_option("--bar", transfer_options.bar, "its BAR")->capture_default_str();
  transfer_command->add_option("--bytes", transfer_options.bytes,
                               "size of the payload, if not the file's");

  ContentOptions content_options;
  auto* content_command =
      app.add_subcommand("content", "in the guest: claim that an image holds the bytes of a file");
  content_command->add_option("--claims", content_options.claims, "file to append the claim to")
      ->required();
  content_command->add_option("--step", content_options.step, "name in the table")->required();
  content_command
      ->add_option("--original", content_options.original,
                   "path of a file in the tree, or an image's name")
      ->required();
  content_command->add_option("--original-offset", content_options.original_offset,
                              "where its bytes start");
  content_command->add_option("--bytes", content_options.bytes, "how many, if not all");
  auto* file_option = content_command->add_option("--file", content_options.file,
                                                  "the file whose image is meant, at its extents");
  auto* image_option = content_command->add_option("--image", content_options.image,
                                                   "the image that is meant, at its chunks");
  content_command
      ->add_option("--chunk", content_options.chunks, "OFFSET:LENGTH in the image; repeatable")
      ->needs(image_option);
  file_option->excludes(image_option);

  std::string claims, run_dir;
  auto* check_command =
      app.add_subcommand("check", "on the host: check all claims; exit status 1 if any is wrong");
  check_command->add_option("--claims", claims, "what the guest wrote")->required();
  check_command->add_option("--run-dir", run_dir, "run directory of tests/vm")->required();

  CLI11_PARSE(app, argc, argv);
  try {
    if (*transfer_command) return transfer(transfer_options);
    if (*content_command) return content(content_options);
    return check(claims, run_dir);
  } catch (const std::exception& error) {
    fmt::print(stderr, "dmabridge-oracle: error: {}\n", error.what());
    return 2;
  }
}

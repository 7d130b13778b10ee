// SPDX-License-Identifier: MIT
//
// What a guest says it did, one JSON object a line, for its host to check after power-off.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "account.hpp"

namespace dmabridge::oracle {

// Where a transfer's payload should have gone.
enum class Expectation { device, system, refused };

// "This command moved this file's bytes between drive and memory, between these two moments of the
// trace."
struct TransferClaim {
  std::string step;
  Expectation expectation;
  Operation operation;
  std::uint32_t nsid;
  std::vector<Extent> extents;
  std::uint64_t bytes;  // payload that the command was to move
  std::uint64_t most;   // with what it may move besides: blocks are moved whole
  Window window;        // of the region's BAR
  std::uint64_t trace_begin;
  std::uint64_t trace_end;
  int exit_status;
};

// "These bytes of an image in the run directory are those of that file."
struct ContentClaim {
  std::string step;
  std::string image;
  std::vector<Extent> extents;  // in the image; file_offset: in the original
  std::string
      original;  // path in the tree, or name of another image in the run directory if it has no '/'
  std::uint64_t original_offset;
  std::uint64_t bytes;
};

// From the words that claims use.
Expectation parse_expectation(const std::string& word);
Operation parse_operation(const std::string& word);

void to_json(nlohmann::json& json, const TransferClaim& claim);
void from_json(const nlohmann::json& json, TransferClaim& claim);
void to_json(nlohmann::json& json, const ContentClaim& claim);
void from_json(const nlohmann::json& json, ContentClaim& claim);

struct Finding {
  bool good;
  std::string problem;  // empty if good
};

// Whether the account bears the claim out.
Finding judge(const TransferClaim& claim, const Account& account);

// Compares image and original. Throws std::runtime_error if either cannot be read.
Finding compare(const ContentClaim& claim, const std::string& run_dir);

}  // namespace dmabridge::oracle

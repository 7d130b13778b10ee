// SPDX-License-Identifier: MIT
// The command line, as the subcommands want it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "dmabridge/block_importer.hpp"
#include "dmabridge/verdict.hpp"

namespace dmabridge::command {

struct bench_rdma_arguments {
  bool json = false;
  std::string device;  // empty: the only one
  std::string region;  // empty: the only one
  std::uint64_t size = 16 * 1024 * 1024;
  dmabridge::policy policy = dmabridge::policy::prefer;
  unsigned turns = 9;
};

struct explain_arguments {
  bool json = false;
  std::string memory;
  std::vector<std::string> importers;  // one at least
  dmabridge::policy policy = dmabridge::policy::prefer;
  direction way = direction::both;
  std::string from;  // empty: this machine
  bool prove = false;
  std::uint64_t size = 1024 * 1024;
};

struct info_arguments {
  bool json = false;
  std::string region;  // empty: all
  std::string buffer;  // empty: none
};

// What load and save have in common.
struct transfer_arguments {
  bool json = false;
  std::string path;
  std::string buffer;
  std::uint64_t offset = 0;  // in the file or block device
  std::optional<std::uint64_t> length;
  std::uint64_t at = 0;  // in the buffer
  dmabridge::policy policy = dmabridge::policy::prefer;
  unsigned depth = 16;
  std::uint32_t block_size = 1024 * 1024;
};

struct load_arguments : transfer_arguments {
  std::string region;
  std::string into;  // API; empty: a region's memory
  std::optional<std::uint64_t> size;
  bool keep = false;
  std::vector<std::string> successor;
};

struct save_arguments : transfer_arguments {
  bool force = false;
};

struct topo_arguments {
  bool json = false;
  bool dot = false;
  std::vector<std::string> path;  // memory and importer, or empty
  std::string record;             // empty: do not
  std::string from;               // empty: this machine
};

// Text to print instead of running anything: help, a version, or what is wrong.
struct message {
  std::string text;
  bool is_error = false;
};

using arguments = std::variant<bench_rdma_arguments, explain_arguments, info_arguments,
                               load_arguments, save_arguments, topo_arguments, message>;

// `command_line` begins with the program's name.
auto parse(const std::vector<std::string>& command_line) -> arguments;

}  // namespace dmabridge::command

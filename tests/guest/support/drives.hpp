// SPDX-License-Identifier: MIT
//
// The guest's drives, and file systems on them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fd.hpp"

namespace dmabridge::test {

struct Drive {
  std::string serial;
  std::uint32_t nsid;  // 0: no NVMe namespace
  std::string disk;    // kernel name
  std::uint64_t size;
  std::string fs;  // type of the file system on it, as blkid names it; empty: none

  std::string path() const { return "/dev/" + disk; }
  // Name of its image in the run directory.
  std::string image() const;
};

std::vector<Drive> drives();
// The drive with this serial and file system ("" for a raw one). Throws std::runtime_error if the
// topology has none.
Drive drive(const std::string& serial, const std::string& fs = "");

// Opens, or throws std::system_error.
Fd open_file(const std::string& path, int flags, int mode = 0644);

// A mounted file system, unmounted at the end.
class Mount {
 public:
  // Makes a mount point of its own. Throws std::system_error.
  Mount(const std::string& source, const std::string& type, const std::string& options = "");
  ~Mount();
  Mount(const Mount&) = delete;
  Mount& operator=(const Mount&) = delete;

  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Every 8-byte little-endian word at offset o is tag << 56 | o: bytes that are stale or in the
// wrong place show.
void fill_pattern(std::byte* to, std::size_t length, std::uint8_t tag, std::uint64_t offset);
// Where bytes differ from the pattern: a text for messages, empty if nowhere.
std::string pattern_difference(const std::byte* bytes, std::size_t length, std::uint8_t tag,
                               std::uint64_t offset);

// A new file with the pattern in it, on the drive when this returns and not in the page cache.
// Throws std::system_error.
void make_pattern_file(const std::string& path, std::uint64_t size, std::uint8_t tag);
void drop_page_cache(int fd);

}  // namespace dmabridge::test

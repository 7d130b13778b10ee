// SPDX-License-Identifier: MIT
// Files and block devices that bytes come from or go to.
#pragma once

#include <cstdint>
#include <string>

#include "dmabridge/api.hpp"
#include "dmabridge/fd.hpp"

namespace dmabridge {

enum class target_kind { file, block_device };

// An open file or block device to read from.
class DMABRIDGE_API source {
 public:
  // Throws dmabridge::error for anything else, such as a directory, or a file in /proc that says to
  // have no bytes and yet gives some.
  static auto open(const std::string& path) -> source;

  auto path() const noexcept -> const std::string& { return path_; }
  auto descriptor() const noexcept -> int { return fd_.get(); }
  auto kind() const noexcept -> target_kind { return kind_; }
  auto size() const noexcept -> std::uint64_t { return size_; }  // bytes, as of the opening

  // How many bytes of a range are in holes of the file: there is nothing on the disk for them, and
  // whoever reads them gets zeros from the CPU. 0 where the file system does not say.
  auto hole_bytes(std::uint64_t offset, std::uint64_t length) const -> std::uint64_t;

 private:
  source(std::string path, fd descriptor, target_kind kind, std::uint64_t size);

  std::string path_;
  fd fd_;
  target_kind kind_;
  std::uint64_t size_;
};

// An open file or block device to write to. A file is written under a temporary name beside its
// own, which it gets by commit() once it is complete; until then whatever had that name stays as it
// is. Without commit() the temporary file is removed. The functions throw dmabridge::error.
class DMABRIDGE_API sink {
 public:
  enum class existing { refuse, replace };

  // What `path` names, following symbolic links: decides which of the two below is right.
  static auto is_block_device(const std::string& path) -> bool;

  // `reserve` bytes of disk space are allocated at once, so that writing does not extend the file.
  static auto create_file(const std::string& path, std::uint64_t reserve, existing mode) -> sink;
  static auto open_block_device(const std::string& path) -> sink;

  sink(sink&& other) noexcept;
  auto operator=(sink&& other) -> sink& = delete;
  ~sink();

  auto path() const noexcept -> const std::string& { return path_; }
  auto descriptor() const noexcept -> int { return fd_.get(); }
  auto kind() const noexcept -> target_kind { return kind_; }
  // Of a block device; of a file what was reserved.
  auto size() const noexcept -> std::uint64_t { return size_; }
  // Bytes that are written as one: a block device's logical block; 1 for a file.
  auto unit() const -> std::uint32_t;

  // Makes the bytes durable, gives a file exactly `length` bytes and its name.
  void commit(std::uint64_t length);

 private:
  sink(std::string path, std::string temporary, fd descriptor, target_kind kind, std::uint64_t size,
       existing mode);

  std::string path_;
  std::string temporary_;  // empty: no file to rename or remove
  fd fd_;
  target_kind kind_;
  std::uint64_t size_;
  existing mode_;
};

}  // namespace dmabridge

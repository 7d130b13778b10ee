// SPDX-License-Identifier: MIT
// Reading the small files and links by which a kernel tells about itself.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "dmabridge/pci_address.hpp"

namespace dmabridge {

struct file_text {
  std::optional<std::string> text{};  // without the newline at its end
  int code = 0;                       // errno; 0 if there is text

  explicit operator bool() const { return text.has_value(); }
};

// The whole of a file, if it has no more than 16 MiB.
auto read_file(const std::string& path) -> file_text;

// "0" and "1"; nothing for everything else.
auto read_flag(const std::string& path) -> std::optional<bool>;
auto read_number(const std::string& path) -> std::optional<unsigned long long>;

// What is in a folder, in order; nothing if it cannot be listed.
auto names_in(const std::string& folder) -> std::vector<std::string>;

auto exists(const std::string& path) -> bool;

// The last part of what a link points to; empty: it is no link.
auto link_name(const std::string& link) -> std::string;

// The function that a device is of: the innermost one on its path in /sys/devices.
auto function_of(const std::string& device) -> std::optional<pci_address>;

// The name of the folder that a device is in, links resolved.
auto folder_name_of(const std::string& device) -> std::string;

}  // namespace dmabridge

// SPDX-License-Identifier: MIT
#include "claim.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace dmabridge::oracle {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Extent, offset, length, file_offset)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Window, start, length)
NLOHMANN_JSON_SERIALIZE_ENUM(Operation, {{Operation::other, "other"},
                                         {Operation::read, "read"},
                                         {Operation::write, "write"}})
NLOHMANN_JSON_SERIALIZE_ENUM(Expectation, {{Expectation::refused, "refused"},
                                           {Expectation::device, "device"},
                                           {Expectation::system, "system"}})

Expectation parse_expectation(const std::string& word) {
  return nlohmann::json(word).get<Expectation>();
}

Operation parse_operation(const std::string& word) {
  return nlohmann::json(word).get<Operation>();
}

void to_json(nlohmann::json& json, const TransferClaim& claim) {
  json = {{"kind", "transfer"},
          {"step", claim.step},
          {"expectation", claim.expectation},
          {"operation", claim.operation},
          {"nsid", claim.nsid},
          {"extents", claim.extents},
          {"bytes", claim.bytes},
          {"most", claim.most},
          {"window", claim.window},
          {"trace_begin", claim.trace_begin},
          {"trace_end", claim.trace_end},
          {"exit_status", claim.exit_status}};
}

void from_json(const nlohmann::json& json, TransferClaim& claim) {
  json.at("step").get_to(claim.step);
  json.at("expectation").get_to(claim.expectation);
  json.at("operation").get_to(claim.operation);
  json.at("nsid").get_to(claim.nsid);
  json.at("extents").get_to(claim.extents);
  json.at("bytes").get_to(claim.bytes);
  json.at("most").get_to(claim.most);
  json.at("window").get_to(claim.window);
  json.at("trace_begin").get_to(claim.trace_begin);
  json.at("trace_end").get_to(claim.trace_end);
  json.at("exit_status").get_to(claim.exit_status);
}

void to_json(nlohmann::json& json, const ContentClaim& claim) {
  json = {{"kind", "content"},          {"step", claim.step},
          {"image", claim.image},       {"extents", claim.extents},
          {"original", claim.original}, {"original_offset", claim.original_offset},
          {"bytes", claim.bytes}};
}

void from_json(const nlohmann::json& json, ContentClaim& claim) {
  json.at("step").get_to(claim.step);
  json.at("image").get_to(claim.image);
  json.at("extents").get_to(claim.extents);
  json.at("original").get_to(claim.original);
  json.at("original_offset").get_to(claim.original_offset);
  json.at("bytes").get_to(claim.bytes);
}

Finding judge(const TransferClaim& claim, const Account& account) {
  const Traffic& payload = account.payload;
  if (claim.expectation == Expectation::refused) {
    if (claim.exit_status == 0) return {false, "the command succeeded, but had to be refused"};
    if (payload.commands != 0)
      return {false,
              fmt::format("{} payload commands, though the command was refused", payload.commands)};
    return {true, ""};
  }
  if (claim.exit_status != 0)
    return {false, fmt::format("the command failed with exit status {}", claim.exit_status)};
  if (payload.unmapped != 0)
    return {false,
            fmt::format("the trace does not tell where {} payload bytes went", payload.unmapped)};

  const bool device = claim.expectation == Expectation::device;
  const std::uint64_t right = device ? payload.inside : payload.outside,
                      wrong = device ? payload.outside : payload.inside;
  if (wrong != 0)
    return {false,
            fmt::format("{} payload bytes went {} the BAR", wrong, device ? "outside" : "inside")};
  if (right < claim.bytes || right > claim.most) {
    return {false, fmt::format("{} payload bytes in the trace; expected {} to {}", right,
                               claim.bytes, claim.most)};
  }
  return {true, ""};
}

namespace {

constexpr std::uint64_t piece = 1 << 20;

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error(fmt::format("cannot open {}", path));
  }

  std::string read(std::uint64_t offset, std::uint64_t length) {
    std::string bytes(length, '\0');
    file_.seekg(static_cast<std::streamoff>(offset));
    file_.read(bytes.data(), static_cast<std::streamsize>(length));
    if (static_cast<std::uint64_t>(file_.gcount()) != length)
      throw std::runtime_error(fmt::format("{} ends before {}", path_, offset + length));
    return bytes;
  }

 private:
  std::string path_;
  std::ifstream file_;
};

}  // namespace

Finding compare(const ContentClaim& claim, const std::string& run_dir) {
  Reader image(fmt::format("{}/{}", run_dir, claim.image));
  Reader original(claim.original.find('/') != std::string::npos
                      ? claim.original
                      : fmt::format("{}/{}", run_dir, claim.original));
  std::uint64_t compared = 0;
  for (const Extent& extent : claim.extents) {
    if (extent.file_offset != compared)
      return {false, fmt::format("nothing is said about the bytes from {} to {}", compared,
                                 extent.file_offset)};
    const std::uint64_t length = std::min(extent.length, claim.bytes - compared);
    for (std::uint64_t at = 0; at < length; at += piece) {
      const std::uint64_t count = std::min(piece, length - at);
      const std::string is = image.read(extent.offset + at, count);
      const std::string expected = original.read(claim.original_offset + compared + at, count);
      const auto [difference, other] = std::ranges::mismatch(is, expected);
      if (difference != is.end()) {
        const auto where = compared + at + static_cast<std::uint64_t>(difference - is.begin());
        return {false, fmt::format("byte {} is {:#04x}, not {:#04x}", where,
                                   static_cast<unsigned char>(*difference),
                                   static_cast<unsigned char>(*other))};
      }
    }
    compared += length;
    if (compared == claim.bytes) return {true, ""};
  }
  return {false, fmt::format("only {} of {} bytes could be compared", compared, claim.bytes)};
}

}  // namespace dmabridge::oracle

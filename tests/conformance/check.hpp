// SPDX-License-Identifier: MIT
//
// A check: one thing that is expected of an exporter, by a rule that stands somewhere; and what
// checks have in common.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "exporter.hpp"
#include "support/mapping.hpp"
#include "support/test_importer.hpp"

namespace dmabridge::test::conformance {

enum class Outcome {
  pass,
  fail,  // a violation of dma-buf's contract
  yes,
  no,     // of a fact: either is as good
  lacks,  // the exporter does not have what the check is about
  untried,
};

struct Result {
  Outcome outcome;
  std::string detail;  // of a pass or a yes it may be empty
};

// Thrown by a check that can say its result at once.
struct Verdict {
  Result result;
};
// Fails the check unless the condition holds.
void require(bool condition, const std::string& otherwise);
// Fails it unless the error is 0.
void succeed(int error, const std::string& what);
[[noreturn]] void lacks(int error, const std::string& what);
[[noreturn]] void untried(const std::string& reason);
Result yes_or_no(int error, const std::string& detail = "");

// "EINVAL", from a positive or negative errno.
std::string errno_name(int error);

// A way to attach, and a device to do it for.
struct Importer {
  ImporterKind kind;
  Client client;
  std::string name;  // "static, no bus"
};

// The PCI function that importers are, and what is known of it.
struct Function {
  std::string address;
  Client client;
  bool translated;  // behind an IOMMU
};
// "0000:04:00.0", or the first NVMe drive's if empty; nothing if there is none. Throws
// std::runtime_error if that address is no function.
std::optional<Function> find_function(const std::string& address);

// What a check gets: a buffer that it may do anything with.
class Context {
 public:
  Context(Exporter& exporter, const std::optional<Function>& function)
      : exporter_(exporter), function_(function) {}

  Exporter& exporter() { return exporter_; }
  const std::optional<Function>& function() const { return function_; }
  // Whether that device's addresses are an IOMMU's, and say nothing about where memory is.
  bool is_translated(const Client& client) const {
    return client.pci && function_ && function_->translated;
  }
  // The check's own.
  int buffer();
  // Hands it over. The next buffer() is another, if the exporter can make one.
  Fd take();
  std::uint64_t size();

  // Every kind, for every device that there is.
  std::vector<Importer> importers() const;
  // An attachment that can be mapped, or the error.
  Attached try_importer(const Importer& importer, std::uint32_t on_invalidate);
  // Calls back with each importer that may attach and map, one after the other. Ends the check as
  // not tried if there is none.
  void each_attached(const std::function<void(const Importer&, Attachment&)>& body);
  // As each_attached, but for one device only: the one on no bus, or the function if that
  // takes nobody. For checks that map one attachment several times: an exporter that hands out
  // one table twice makes an IOMMU driver complain, which does not exist without bus.
  void each_attached_here(const std::function<void(const Importer&, Attachment&)>& body);
  // Whoever may attach and map, rather one that does not move the buffer; with what it is.
  std::pair<Importer, Attachment> any_attached(std::uint32_t on_invalidate = TEST_IMPORTER_UNMAP,
                                               bool revocable = false);

  // Or ends the check, as the exporter has no mmap.
  Mapping map_whole();

 private:
  bool each_of(bool pci, const std::function<void(const Importer&, Attachment&)>& body);

  Exporter& exporter_;
  const std::optional<Function>& function_;
  Fd buffer_;
};

struct Check {
  std::string group;
  std::string name;
  bool contract;       // else a fact
  std::string rule;    // one line
  std::string source;  // where the rule stands
  std::function<Result(Context&)> run;
};

std::vector<Check> attach_checks();
std::vector<Check> cpu_checks();
std::vector<Check> fence_checks();
std::vector<Check> lifetime_checks();
std::vector<Check> move_checks();
// All of them, in the order in which they run: what ends a buffer's life comes last.
std::vector<Check> all_checks();

}  // namespace dmabridge::test::conformance

// SPDX-License-Identifier: MIT
//
// What exporter-conformance (tests/conformance) reports of an exporter.
#pragma once

#include <map>
#include <set>
#include <string>

namespace dmabridge::test {

struct ConformanceResult {
  std::string outcome;
  std::string detail;
  bool known;  // a failure of the kernel's own
};

struct ConformanceReport {
  int status;                                       // the program's
  std::map<std::string, ConformanceResult> checks;  // by "group: name"

  const ConformanceResult& of(const std::string& name) const { return checks.at(name); }
  // The checks that had this outcome; and for messages, each with its detail.
  std::set<std::string> with(const std::string& outcome) const;
  std::string details(const std::string& outcome) const;
};

// Whether this kernel shows importers other tables than exporters made (CONFIG_DMABUF_DEBUG), so
// that what only those tell is left untried.
bool tables_are_hidden();

// Runs it for one exporter. Throws std::exception if it did not get as far as to report.
ConformanceReport run_conformance(const std::string& arguments);

}  // namespace dmabridge::test

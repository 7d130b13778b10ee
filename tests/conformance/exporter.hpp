// SPDX-License-Identifier: MIT
//
// Where dma-bufs come from.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/fd.hpp"

namespace dmabridge::test::conformance {

// This machine cannot have that exporter's buffers; what() says why.
class Unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Each check runs in a process of its own, which calls make() and all else but restore(); that is
// called in the process that made the object, after every check.
class Exporter {
 public:
  virtual ~Exporter() = default;

  virtual std::string name() const = 0;
  // A dma-buf. Throws std::exception.
  virtual Fd make() = 0;
  // Whether make() gives a new buffer at each call, of which nobody else has an fd.
  virtual bool fresh() const { return true; }
  // Whether that is memory which has to be all zeros.
  virtual bool cleared() const { return false; }

  virtual bool can_move() const { return false; }
  // Makes the exporter move this buffer to wherever it is not: 0 or -errno.
  virtual int move(int /*buffer*/) { return -1; }
  virtual bool can_revoke() const { return false; }
  // Makes it take this buffer away from all: 0 or -errno.
  virtual int revoke() { return -1; }
  // Undoes what revoke() did to the device.
  virtual void restore() {}
};

// What built-in exporters are to make.
struct Wish {
  std::uint64_t size;         // of a buffer, about
  std::string vfio_function;  // whose BAR vfio-pci exports; empty: that of dmabridge's first region
};

// Names of the exporters that are built in.
const std::vector<std::string>& built_in_names();
// Throws Unavailable.
std::unique_ptr<Exporter> built_in(const std::string& name, const Wish& wish);

// Shell commands that make an exporter do what only its owner can ask for; empty: none.
struct Hooks {
  std::string move;
  std::string revoke;
  std::string restore;
};

// A buffer that somebody has an fd of.
std::unique_ptr<Exporter> given(int fd, const Hooks& hooks);
// A program that sends the fd of a new buffer, each time it is run; see exporter-conformance(1).
std::unique_ptr<Exporter> from_command(std::vector<std::string> command, const Hooks& hooks);
// A BAR of a PCI function that is lent to user space; made in vfio.cpp. Throws Unavailable.
std::unique_ptr<Exporter> vfio_pci(const Wish& wish);

}  // namespace dmabridge::test::conformance

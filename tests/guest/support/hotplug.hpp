// SPDX-License-Identifier: MIT
//
// What happens to a machine's hardware while it runs: PCI functions are taken out and put back, and
// ports find errors.
//
// The guest's pciehp driver runs the slots. A removal that has been asked for (a button, sysfs, a
// host's device_del) takes the driver away first and the function then; a surprise removal takes
// the function, and the driver finds out.
#pragma once

#include <set>
#include <string>

#include "fd.hpp"

namespace dmabridge::test {

// Names are those of the topology. A whole slot goes: a function that shares its slot with others
// takes them along.
class Machine {
 public:
  enum class Removal { asked_for, surprise };
  // Right above a function, or where its tree begins: that one has others below it, too.
  enum class Port { nearest, root };
  enum class Recovery { successful, failed };

  Machine() = default;
  // Puts back what is out and can be put back.
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  // Returns when the function is gone, its driver's remove() has run, and the slot is off. Throws
  // std::runtime_error if that does not come to pass.
  void unplug(const std::string& name, Removal removal = Removal::surprise);

  // Returns when the function is there and can be bound. It has no driver_override, and so no
  // driver that is not its own. GPU-like devices only: QEMU cannot plug in an NVMe drive with its
  // namespaces. Throws std::runtime_error.
  void plug(const std::string& name);

  // A port above a function finds a PCI Express error, by QEMU's name of it: "DLP" is fatal,
  // "COMP_TIME" is not. Returns when the kernel has ended its recovery of all that is below that
  // port. Throws std::runtime_error if it does not come to that.
  Recovery raise_error(const std::string& name, const std::string& error,
                       Port port = Port::nearest);

 private:
  std::string ask_host(const std::string& request);

  Fd host_;
  std::set<std::string> out_;
};

}  // namespace dmabridge::test

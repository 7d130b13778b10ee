// SPDX-License-Identifier: MIT
#include "hotplug.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/pci_regs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <system_error>

#include "fixture.hpp"
#include "kernel_log.hpp"
#include "machine.hpp"
#include "named_device.hpp"

namespace dmabridge::test {
namespace {

constexpr std::chrono::seconds limit(30);

// Slot Control of a port.
class SlotControl {
 public:
  explicit SlotControl(const std::string& port)
      : config_(open_file(port + "/config", O_RDWR)), at_(capability() + PCI_EXP_SLTCTL) {}

  std::uint16_t read() const { return get<std::uint16_t>(at_); }
  void write(std::uint16_t value) const {
    if (pwrite(config_.get(), &value, sizeof(value), at_) != sizeof(value))
      throw std::system_error(errno, std::generic_category(), "Slot Control");
  }
  // The indicator is the last that pciehp sets: it blinks while a function is being set up.
  bool is_on() const { return is(PCI_EXP_SLTCTL_PWR_ON, PCI_EXP_SLTCTL_PWR_IND_ON); }
  bool is_off() const { return is(PCI_EXP_SLTCTL_PWR_OFF, PCI_EXP_SLTCTL_PWR_IND_OFF); }

 private:
  bool is(std::uint16_t power, std::uint16_t indicator) const {
    return (read() & (PCI_EXP_SLTCTL_PCC | PCI_EXP_SLTCTL_PIC)) == (power | indicator);
  }
  template <typename T>
  T get(off_t at) const {
    T value;
    if (pread(config_.get(), &value, sizeof(value), at) != sizeof(value))
      throw std::system_error(errno, std::generic_category(), "configuration space");
    return value;
  }
  off_t capability() const {
    for (auto at = get<std::uint8_t>(PCI_CAPABILITY_LIST); at != 0;
         at = get<std::uint8_t>(at + PCI_CAP_LIST_NEXT)) {
      if (get<std::uint8_t>(at) == PCI_CAP_ID_EXP) return at;
    }
    throw std::runtime_error("the port has no PCI Express capability");
  }

  Fd config_;
  off_t at_;
};

std::string port_of(const std::string& path) {
  return std::filesystem::path(path).parent_path();
}

// File that switches the slot of a function: its address there has no function number.
std::string power_file(const std::string& path) {
  const std::string function = std::filesystem::path(path).filename();
  for (const auto& slot : std::filesystem::directory_iterator("/sys/bus/pci/slots")) {
    if (function.starts_with(oracle::read_line(slot.path() / "address") + "."))
      return slot.path() / "power";
  }
  throw std::runtime_error(fmt::format("{} is in no slot", function));
}

// Cuts the slot's power behind the back of pciehp. QEMU then takes the function out. The interrupt
// that tells of it is held back until power and indicator look as if nothing had been done to them:
// a slot that is off is none that pciehp would look into.
void cut_power(const SlotControl& control) {
  const std::uint16_t before = control.read();
  control.write((before & ~PCI_EXP_SLTCTL_HPIE) | PCI_EXP_SLTCTL_PWR_OFF |
                PCI_EXP_SLTCTL_PWR_IND_OFF);
  control.write((before & ~PCI_EXP_SLTCTL_PIC) | PCI_EXP_SLTCTL_PWR_IND_ON);
}

// Address of a port above a function.
std::string port_address(const std::string& path, Machine::Port port) {
  std::filesystem::path above = std::filesystem::path(path).parent_path();
  while (port == Machine::Port::root && !above.parent_path().filename().string().starts_with("pci"))
    above = above.parent_path();
  return above.filename();
}

Fd open_port(const std::string& name) {
  for (const auto& port : std::filesystem::directory_iterator("/sys/class/virtio-ports")) {
    if (oracle::read_line(port.path() / "name") == name)
      return open_file("/dev/" + port.path().filename().string(), O_RDWR);
  }
  throw std::runtime_error(fmt::format("this guest has no port {}", name));
}

}  // namespace

Machine::~Machine() {
  while (!out_.empty()) {
    const std::string name = *out_.begin();
    try {
      plug(name);
    } catch (const std::exception& error) {
      ADD_FAILURE() << name << " is lost to the tests that follow: " << error.what();
      out_.erase(name);
    }
  }
}

void Machine::unplug(const std::string& name, Removal removal) {
  const auto path = find_device(name);
  if (!path) throw std::runtime_error(fmt::format("{} is not plugged in", name));
  const SlotControl control(port_of(*path));
  const std::string power = power_file(*path);
  if (removal == Removal::surprise) {
    cut_power(control);
  } else if (const int error = write_text(power, "0"); error != 0) {
    throw std::system_error(-error, std::generic_category(), power);
  }
  if (has_memory(name)) out_.insert(name);
  // pciehp drops what happens to a slot while it is busy switching it off: a plug would be lost.
  if (!eventually([&] { return access(path->c_str(), F_OK) != 0 && control.is_off(); }, limit))
    throw std::runtime_error(fmt::format("{} is still plugged in", name));
  // Returns, with an error as the slot is empty, when pciehp has nothing left to do.
  write_text(power, "1");
}

void Machine::plug(const std::string& name) {
  const std::string answer = ask_host("plug " + name);
  if (answer != "ok") throw std::runtime_error(fmt::format("plug {}: {}", name, answer));
  // A function that is seen may be bound by a driver only later.
  const auto is_ready = [&] {
    const auto path = find_device(name);
    return path && SlotControl(port_of(*path)).is_on();
  };
  if (!eventually(is_ready, limit))
    throw std::runtime_error(fmt::format("{} does not appear, or its slot is not on", name));
  out_.erase(name);
}

Machine::Recovery Machine::raise_error(const std::string& name, const std::string& error,
                                       Port port) {
  const auto path = find_device(name);
  if (!path) throw std::runtime_error(fmt::format("{} is not plugged in", name));
  const std::string mark = port_address(*path, port) + ": AER: device recovery ";
  const KernelLog log;
  const std::string request =
      fmt::format("aer {} {} {}", port == Port::nearest ? "nearest" : "root", name, error);
  if (const std::string answer = ask_host(request); answer != "ok")
    throw std::runtime_error(fmt::format("{}: {}", request, answer));
  std::string outcome;
  const auto has_ended = [&] {
    const auto line = log.find(mark);
    if (line) outcome = line->substr(mark.size());
    return line.has_value();
  };
  if (!eventually(has_ended, limit))
    throw std::runtime_error(fmt::format("{}: no recovery has ended", request));
  return outcome.starts_with("successful") ? Recovery::successful : Recovery::failed;
}

std::string Machine::ask_host(const std::string& request) {
  if (!host_) host_ = open_port("machine");
  const std::string line = request + "\n";
  if (write(host_.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    throw std::system_error(errno, std::generic_category(), "the host's port");
  std::string answer;
  while (!answer.ends_with('\n')) {
    std::array<char, 256> piece;
    const ssize_t got = read(host_.get(), piece.data(), piece.size());
    if (got <= 0) throw std::runtime_error("the host does not answer");
    answer.append(piece.data(), static_cast<std::size_t>(got));
  }
  answer.pop_back();
  return answer;
}

}  // namespace dmabridge::test

// SPDX-License-Identifier: MIT
#include "exporter.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "support/abi.hpp"
#include "support/drives.hpp"
#include "support/fixture.hpp"
#include "support/pci_driver.hpp"
#include "support/system_buffers.hpp"
#include "support/vgem.hpp"
#include "transfer_fd.hpp"

namespace dmabridge::test::conformance {
namespace {

void check(int error, const char* what) {
  if (error != 0) throw std::system_error(-error, std::generic_category(), what);
}

void check_there(const std::string& node) {
  if (access(node.c_str(), F_OK) != 0) throw Unavailable("there is no " + node);
}

// --- built in --------------------------------------------------------------------------------

class Dmabridge : public Exporter {
 public:
  explicit Dmabridge(const Wish& wish) : size_(wish.size) {
    check_there("/dev/dmabridge");
    const auto found = regions();
    if (found.empty()) throw Unavailable("no driver has registered a region");
    region_ = found.front();
  }

  std::string name() const override { return "dmabridge"; }
  Fd make() override { return allocate(size_); }
  bool cleared() const override { return true; }

  bool can_move() const override { return region_.kind == DMABRIDGE_REGION_BAR; }
  int move(int buffer) override {
    return test::move(buffer, placement(buffer) == DMABRIDGE_PLACEMENT_DEVICE
                                  ? DMABRIDGE_PLACEMENT_SYSTEM
                                  : DMABRIDGE_PLACEMENT_DEVICE);
  }
  // By taking its driver from it.
  bool can_revoke() const override { return std::string(region_.driver) == "dmabridge_pci"; }
  int revoke() override { return unbind_function(pci_address(region_.device)); }
  void restore() override {
    if (!can_revoke() || access(region_node(region_).c_str(), F_OK) == 0) return;
    check(bind_function(pci_address(region_.device), region_.driver), "binding dmabridge_pci");
  }

 private:
  const std::uint64_t size_;
  dmabridge_region_info region_;
};

class Udmabuf : public Exporter {
 public:
  explicit Udmabuf(const Wish& wish) : size_(wish.size) { check_there("/dev/udmabuf"); }

  std::string name() const override { return "udmabuf"; }
  bool cleared() const override { return true; }
  Fd make() override { return make_udmabuf(size_).buffer; }

 private:
  const std::uint64_t size_;
};

class DmaHeap : public Exporter {
 public:
  explicit DmaHeap(const Wish& wish) : size_(wish.size) { check_there("/dev/dma_heap/system"); }

  std::string name() const override { return "dma-heap"; }
  bool cleared() const override { return true; }
  Fd make() override { return allocate_from_heap(size_); }

 private:
  const std::uint64_t size_;
};

class VgemExporter : public Exporter {
 public:
  explicit VgemExporter(const Wish& wish) : size_(wish.size) {
    try {
      vgem_.emplace();
    } catch (const std::runtime_error& error) {
      throw Unavailable(error.what());
    }
  }

  std::string name() const override { return "vgem"; }
  bool cleared() const override { return true; }
  Fd make() override { return vgem_->export_new(size_); }

 private:
  const std::uint64_t size_;
  std::optional<Vgem> vgem_;
};

// --- somebody else's -----------------------------------------------------------------------------

class Foreign : public Exporter {
 public:
  explicit Foreign(Hooks hooks) : hooks_(std::move(hooks)) {}

  bool can_move() const override { return !hooks_.move.empty(); }
  int move(int /*buffer*/) override { return run(hooks_.move); }
  bool can_revoke() const override { return !hooks_.revoke.empty(); }
  int revoke() override { return run(hooks_.revoke); }
  void restore() override {
    if (!hooks_.restore.empty() && run(hooks_.restore) != 0)
      throw std::runtime_error("the command that restores the exporter failed: " + hooks_.restore);
  }

 private:
  static int run(const std::string& command) { return shell(command).status == 0 ? 0 : -EIO; }

  const Hooks hooks_;
};

class Given : public Foreign {
 public:
  Given(int fd, const Hooks& hooks) : Foreign(hooks), fd_(fd) {}

  std::string name() const override { return "fd " + std::to_string(fd_); }
  bool fresh() const override { return false; }
  Fd make() override {
    Fd copy(fcntl(fd_, F_DUPFD_CLOEXEC, 0));
    if (!copy) throw std::system_error(errno, std::generic_category(), name());
    return copy;
  }

 private:
  const int fd_;
};

class FromCommand : public Foreign {
 public:
  FromCommand(std::vector<std::string> command, const Hooks& hooks)
      : Foreign(hooks), command_(std::move(command)) {}

  std::string name() const override { return command_.front(); }

  Fd make() override {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
      throw std::system_error(errno, std::generic_category(), "socketpair");
    const Fd ours(sockets[0]);
    Fd theirs(sockets[1]);
    const pid_t child = fork();
    if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (child == 0) run(theirs.get());
    theirs.reset();
    return receive_fd(ours.get());
  }

 private:
  [[noreturn]] void run(int socket) {
    std::vector<char*> arguments;
    for (std::string& word : command_) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    // dup2() of 3 onto itself would leave it close-on-exec.
    if (socket == 3 ? fcntl(3, F_SETFD, 0) < 0 : dup2(socket, 3) < 0) _exit(127);
    setenv("EXPORTER_CONFORMANCE_SOCKET", "3", 1);
    execvp(arguments.front(), arguments.data());
    const std::string text = "cannot run " + command_.front() + ": " + std::strerror(errno) + "\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, text.data(), text.size());
    _exit(127);
  }

  std::vector<std::string> command_;
};

template <class Kind>
std::unique_ptr<Exporter> make_one(const Wish& wish) {
  return std::make_unique<Kind>(wish);
}

}  // namespace

const std::vector<std::string>& built_in_names() {
  static const std::vector<std::string> names = {"dmabridge", "udmabuf", "dma-heap", "vgem",
                                                 "vfio-pci"};
  return names;
}

std::unique_ptr<Exporter> built_in(const std::string& name, const Wish& wish) {
  static const std::map<std::string, std::unique_ptr<Exporter> (*)(const Wish&)> makers = {
      {"dmabridge", make_one<Dmabridge>},
      {"udmabuf", make_one<Udmabuf>},
      {"dma-heap", make_one<DmaHeap>},
      {"vgem", make_one<VgemExporter>},
      {"vfio-pci", vfio_pci},
  };
  return makers.at(name)(wish);
}

std::unique_ptr<Exporter> given(int fd, const Hooks& hooks) {
  return std::make_unique<Given>(fd, hooks);
}

std::unique_ptr<Exporter> from_command(std::vector<std::string> command, const Hooks& hooks) {
  return std::make_unique<FromCommand>(std::move(command), hooks);
}

}  // namespace dmabridge::test::conformance

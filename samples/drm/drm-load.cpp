// SPDX-License-Identifier: MIT
//
// Loads a file into memory of a DRM device, a dumb buffer made by libdrm, which goes out as a
// dma-buf by PRIME: by the best way that there is for this driver, and says which. Then compares
// what the CPU sees in the buffer, by DRM's own mapping, with the file.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <xf86drm.h>
#include <xf86drmMode.h>
#include <dmabridge/block_attachment.hpp>
#include <dmabridge/control.hpp>
#include <dmabridge/drm_memory.hpp>
#include <dmabridge/error.hpp>
#include <dmabridge/fd.hpp>
#include <dmabridge/target.hpp>
#include <dmabridge/transfer.hpp>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace {

struct options {
  std::string file;
  std::string device = "/dev/dri/card0";
  bool module = true;
};

[[noreturn]] void fail(int code, const std::string& what) {
  throw std::system_error(code, std::generic_category(), what);
}

// A picture of 32-bit pixels with room for so many bytes, mapped by DRM.
class dumb_buffer {
 public:
  dumb_buffer(int device, std::uint64_t size) : device_(device) {
    constexpr std::uint32_t width = 4096;
    const auto height = (size + width * 4 - 1) / (width * 4);
    std::uint32_t pitch = 0;
    // A negative errno, as the other calls give.
    if (const int code = ::drmModeCreateDumbBuffer(
            device, width, static_cast<std::uint32_t>(height), 32, 0, &handle_, &pitch, &size_)) {
      fail(-code, "create a dumb buffer (which primary nodes of displays have)");
    }
    std::uint64_t where = 0;
    int code = -::drmModeMapDumbBuffer(device, handle_, &where);
    if (code == 0) {
      at_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, device, static_cast<off_t>(where));
      if (at_ == MAP_FAILED) code = errno;
    }
    if (code == 0) return;
    ::drmModeDestroyDumbBuffer(device_, handle_);
    fail(code, "map a dumb buffer");
  }
  dumb_buffer(const dumb_buffer&) = delete;
  auto operator=(const dumb_buffer&) -> dumb_buffer& = delete;
  ~dumb_buffer() {
    ::munmap(at_, size_);
    ::drmModeDestroyDumbBuffer(device_, handle_);
  }

  auto handle() const -> std::uint32_t { return handle_; }
  auto bytes() const -> const char* { return static_cast<const char*>(at_); }

 private:
  int device_;
  std::uint32_t handle_ = 0;
  std::uint64_t size_ = 0;
  void* at_ = nullptr;
};

// Without it the library moves bytes by io_uring and copies.
auto find_module(bool wanted) -> std::optional<dmabridge::control> {
  if (!wanted) return {};
  try {
    return dmabridge::control();
  } catch (const dmabridge::error& failure) {
    fmt::print("going on without the module: {}\n", failure.what());
    return {};
  }
}

void compare(const dmabridge::source& from, const char* bytes) {
  std::ifstream file(from.path(), std::ios::binary);
  std::vector<char> piece(1 << 20);
  std::uint64_t at = 0;
  while (at < from.size() && file) {
    const auto want = std::min<std::uint64_t>(piece.size(), from.size() - at);
    if (!file.read(piece.data(), static_cast<std::streamsize>(want))) break;
    if (std::memcmp(piece.data(), bytes + at, want) != 0) {
      throw std::runtime_error(fmt::format("the buffer differs from the file behind {}", at));
    }
    at += want;
  }
  if (at != from.size()) throw std::runtime_error("cannot read all of " + from.path());
  fmt::print("compared: {} bytes in the buffer are the file's\n", at);
}

void run(const options& asked) {
  const auto from = dmabridge::source::open(asked.file);
  if (from.size() == 0) throw std::runtime_error(from.path() + " is empty");
  const auto device = dmabridge::drm_device::open(asked.device);
  // Whole blocks: a read may bring what follows the file's end.
  constexpr std::uint64_t block = 1 << 16;
  const dumb_buffer picture(device.descriptor(), (from.size() + block - 1) / block * block);
  const auto memory = dmabridge::export_drm(device, picture.handle());

  const auto module = find_module(asked.module);
  const dmabridge::block_attachment between(module ? &*module : nullptr, memory, from.descriptor(),
                                            from.path(), dmabridge::policy::prefer,
                                            dmabridge::direction::read);
  const auto done = dmabridge::transfer_engine().load(between, {.length = from.size()});
  if (done.error != 0) fail(-done.error, "load " + from.path());
  fmt::print("loaded {} bytes into memory of {}: {}, route {}\n", done.bytes, device.driver(),
             dmabridge::to_string(between.method()), dmabridge::to_string(between.verdict().route));
  for (const auto& why : between.verdict().reasons) fmt::print("  because {}\n", why.text());
  compare(from, picture.bytes());
}

}  // namespace

auto main(int count, char** arguments) -> int {
  options asked;
  CLI::App app("Loads a file into memory of a DRM device, and says by which way");
  app.add_option("FILE", asked.file, "file or block device")->required();
  app.add_option("--device", asked.device, "primary node of a display")->capture_default_str();
  app.add_flag("!--no-module", asked.module, "do without dmabridge's kernel module");
  CLI11_PARSE(app, count, arguments);
  try {
    run(asked);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print(stderr, "drm-load: {}\n", failure.what());
    return 1;
  }
}

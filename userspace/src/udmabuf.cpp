// SPDX-License-Identifier: MIT
#include "dmabridge/udmabuf.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <linux/udmabuf.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/exporter_rules.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/size.hpp"
#include "mapped_owner.hpp"
#include "page.hpp"
#include "sysfs.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

constexpr const char* node = "/dev/udmabuf";
constexpr const char* limit_file = "/sys/module/udmabuf/parameters/size_limit_mb";
constexpr std::uint64_t huge_page = std::uint64_t{2} << 20;

// A memfd from its beginning, mapped.
class memfd_mapping {
 public:
  explicit memfd_mapping(std::span<std::byte> bytes) noexcept : bytes_(bytes) {}
  memfd_mapping(memfd_mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  auto operator=(memfd_mapping&&) -> memfd_mapping& = delete;
  ~memfd_mapping() {
    if (!bytes_.empty()) sys().munmap(bytes_.data(), bytes_.size());
  }
  auto bytes() const noexcept -> std::span<std::byte> { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

class udmabuf_owner final : public mapped_owner {
 public:
  udmabuf_owner(const buffer& memory, std::uint64_t size, memfd_mapping pages, std::uint64_t offset)
      : mapped_owner("udmabuf", memory, 0, size, rules_of("udmabuf")),
        pages_(std::move(pages)),
        pinnable_(pages_.bytes().subspan(offset, size)) {}

  auto pinnable() const noexcept -> std::span<std::byte> override { return pinnable_; }

 private:
  memfd_mapping pages_;
  std::span<std::byte> pinnable_;
};

// Part of a memfd that is to become a dma-buf; what of that is exported may be shorter.
struct part {
  int memfd;
  std::uint64_t offset;
  std::uint64_t size;
};

auto attempt(std::uint64_t size) -> std::string {
  return fmt::format("make a dma-buf of {} of a memfd", format_size(size));
}

[[noreturn]] void refuse(std::uint64_t size, std::string detail, std::string remedy) {
  throw error({.kind = error_kind::usage,
               .attempted = attempt(size),
               .detail = std::move(detail),
               .remedies = {std::move(remedy)}});
}

void check_aligned(const part& wanted) {
  const auto page = page_size();
  if (wanted.size != 0 && wanted.size % page == 0 && wanted.offset % page == 0) return;
  refuse(wanted.size,
         fmt::format("{} bytes from {} of the memfd are no whole pages of {} bytes", wanted.size,
                     wanted.offset, page),
         fmt::format("choose multiples of {}, and not 0", page));
}

void check_seals(const part& wanted) {
  const auto seals = sys().get_seals(wanted.memfd);
  if (seals == -EBADF) {
    refuse(wanted.size, fmt::format("this process has no fd {}", wanted.memfd),
           "name an open memfd");
  }
  if (seals < 0) {
    refuse(wanted.size,
           fmt::format("fd {} is not what memfd_create() makes: it takes no seals ({})",
                       wanted.memfd, errno_name(-seals)),
           "use a memfd made with MFD_ALLOW_SEALING; other memory has to be copied into one");
  }
  if ((seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) {
    refuse(wanted.size, "the memfd is sealed against writing, which a device could not be held to",
           "use a memfd without F_SEAL_WRITE and F_SEAL_FUTURE_WRITE");
  }
  if ((seals & F_SEAL_SHRINK) != 0) return;
  refuse(wanted.size, "the memfd may be shrunk, and its pages taken from under a device",
         (seals & F_SEAL_SEAL) != 0
             ? "make the memfd with MFD_ALLOW_SEALING: this one takes no more seals"
             : "seal it: fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK)");
}

void check_length(const part& wanted) {
  const auto length = sys().seek(wanted.memfd, 0, SEEK_END);
  if (length < 0) {
    throw error({.attempted = "ask a memfd for its size", .code = static_cast<int>(-length)});
  }
  const auto all = static_cast<std::uint64_t>(length);
  if (wanted.offset <= all && wanted.size <= all - wanted.offset) return;
  refuse(wanted.size,
         fmt::format("{} bytes from {} leave the memfd, which has {}", wanted.size, wanted.offset,
                     all),
         "choose a range in it, or ftruncate() it to a larger size first");
}

auto open_node(std::uint64_t size) -> fd {
  std::error_code ec;
  auto opened = fd::open(node, O_RDWR, 0, ec);
  if (!ec) return opened;
  error_details details{.attempted = attempt(size), .code = ec.value()};
  switch (ec.value()) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      details.detail = fmt::format("this kernel has no {}", node);
      details.remedies = {
          "as root: modprobe udmabuf; if there is no such module, boot a kernel with "
          "CONFIG_UDMABUF=y, as those of the distributions mostly are",
          "or allocate from a dma-heap: allocate_dma_heap()"};
      break;
    case EACCES:
    case EPERM:
      details.detail = fmt::format("this user may not open {}", node);
      details.remedies = {
          "join the group that it belongs to (ls -l /dev/udmabuf; systemd makes it kvm's), as "
          "root: usermod -aG kvm USER, and log in again",
          "or, as root: chmod 0666 /dev/udmabuf"};
      break;
    default:
      details.detail = fmt::format("{} cannot be opened", node);
      break;
  }
  throw error(std::move(details));
}

// Everything else that the kernel answers with EINVAL has been checked.
void explain_limit(error_details& details, std::uint64_t size) {
  const auto limit = read_number(limit_file);
  if (limit && size > *limit << 20) {
    details.detail =
        fmt::format("the module udmabuf makes no larger ones than {} MiB (size_limit_mb)", *limit);
  } else {
    details.detail =
        fmt::format("the module udmabuf refuses it; its limit, size_limit_mb, is {}",
                    limit ? fmt::format("{}, which is enough", *limit) : "not readable");
  }
  details.remedies = {
      fmt::format("as root: echo {} > {}", (size + (1 << 20) - 1) >> 20, limit_file),
      "or make several smaller ones"};
}

auto create(const part& wanted) -> buffer {
  const auto opened = open_node(wanted.size);
  udmabuf_create argument{};
  argument.memfd = static_cast<std::uint32_t>(wanted.memfd);
  argument.flags = UDMABUF_FLAGS_CLOEXEC;
  argument.offset = wanted.offset;
  argument.size = wanted.size;
  const auto made = sys().ioctl(opened.get(), UDMABUF_CREATE, &argument);
  if (made >= 0) return buffer::from_fd(fd(made));
  error_details details{.attempted = attempt(wanted.size), .code = -made};
  if (made == -EINVAL) explain_limit(details, wanted.size);
  if (made == -EBADFD) details.detail = "the kernel takes the fd for no memfd";
  if (made == -ENOMEM) {
    details.detail = "there is not so much memory to pin";
    details.remedies = {"free some memory, raise the cgroup's memory.max, or ask for less"};
  }
  throw error(std::move(details));
}

// The size of the memfd's pages, in whole numbers of which it is mapped.
auto page_of(int memfd) -> std::uint64_t {
  struct stat file{};
  const auto result = sys().fstat(memfd, &file);
  if (result < 0) throw error({.attempted = "look at a memfd", .code = -result});
  return static_cast<std::uint64_t>(file.st_blksize);
}

[[noreturn]] void fail_map(const part& wanted, int code, std::uint64_t page) {
  error_details details{.attempted = fmt::format("map {} of a memfd", format_size(wanted.size)),
                        .code = code};
  if (code == EACCES) details.detail = "its fd is not for reading and writing";
  if (code == ENOMEM && page > page_size()) {
    const auto pages = wanted.size / page;
    details.detail = fmt::format("{} huge page(s) of {} are not free", pages, format_size(page));
    details.remedies = {
        fmt::format("as root: echo {} > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages "
                    "(free_hugepages beside it tells how many are free)",
                    pages, page >> 10),
        "or use ordinary pages"};
  }
  throw error(std::move(details));
}

auto map_from_start(const part& wanted) -> memfd_mapping {
  const auto page = page_of(wanted.memfd);
  const auto length = round_up(wanted.offset + wanted.size, page).value();
  void* address = nullptr;
  const auto result = sys().mmap(length, PROT_READ | PROT_WRITE, wanted.memfd, &address);
  if (result < 0) fail_map(wanted, -result, page);
  return memfd_mapping({static_cast<std::byte*>(address), length});
}

auto export_part(const part& wanted, std::uint64_t exported) -> exported_memory {
  auto pages = map_from_start(wanted);
  auto memory = create(wanted);
  auto owner = std::make_unique<udmabuf_owner>(memory, exported, std::move(pages), wanted.offset);
  return {std::move(memory), 0, exported, std::move(owner)};
}

[[noreturn]] void fail_memfd(std::uint64_t size, int code, bool huge) {
  error_details details{.attempted = fmt::format("make a memfd of {}", format_size(size)),
                        .code = code};
  if (huge && (code == ENODEV || code == EINVAL || code == ENOENT))
    details.detail = "this kernel has no huge pages of 2 MiB";
  if (code == EACCES) {
    details.detail = "this machine forbids memfds that could be made executable";
    details.remedies = {"as root: sysctl vm.memfd_noexec=1"};
  }
  throw error(std::move(details));
}

auto make_memfd(std::uint64_t size, bool huge) -> fd {
  const unsigned kind = huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  const auto made = sys().memfd_create("dmabridge", MFD_CLOEXEC | MFD_ALLOW_SEALING | kind);
  if (made < 0) fail_memfd(size, -made, huge);
  fd memfd(made);
  auto result = sys().ftruncate(memfd.get(), size);
  if (result == 0) result = sys().add_seals(memfd.get(), F_SEAL_SHRINK);
  if (result < 0) fail_memfd(size, -result, huge);
  return memfd;
}

}  // namespace

auto allocate_udmabuf(std::uint64_t size, memfd_pages pages) -> exported_memory {
  const bool huge = pages == memfd_pages::huge;
  const auto whole = round_up(size, huge ? huge_page : page_size());
  if (size == 0 || !whole)
    refuse(size, "that is no size of memory", "ask for at least one byte, and for less");
  const auto memfd = make_memfd(*whole, huge);
  return export_part({memfd.get(), 0, *whole}, size);
}

auto udmabuf_of(int memfd, std::uint64_t offset, std::uint64_t size) -> exported_memory {
  const part wanted{memfd, offset, size};
  check_aligned(wanted);
  check_seals(wanted);
  check_length(wanted);
  return export_part(wanted, size);
}

}  // namespace dmabridge

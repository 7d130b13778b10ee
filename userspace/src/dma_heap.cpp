// SPDX-License-Identifier: MIT
#include "dmabridge/dma_heap.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/dma-heap.h>

#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>

#include "dmabridge/error.hpp"
#include "dmabridge/exporter_rules.hpp"
#include "dmabridge/fd.hpp"
#include "dmabridge/size.hpp"
#include "mapped_owner.hpp"
#include "sysfs.hpp"
#include "system_calls.hpp"

namespace dmabridge {
namespace {

constexpr const char* folder = "/dev/dma_heap";

auto attempt(std::uint64_t size, const std::string& heap) -> std::string {
  return fmt::format("allocate {} of the dma-heap \"{}\"", format_size(size), heap);
}

void check(std::uint64_t size, const std::string& heap) {
  std::string detail;
  if (size == 0) detail = "that is no size of memory";
  if (heap.empty() || heap.find('/') != std::string::npos) detail = "no heap is called that";
  if (detail.empty()) return;
  throw error(
      {.kind = error_kind::usage, .attempted = attempt(size, heap), .detail = std::move(detail)});
}

void explain_missing(error_details& details) {
  const auto heaps = dma_heaps();
  if (!heaps.empty()) {
    details.detail = fmt::format("there is no such heap; there are: {}", fmt::join(heaps, ", "));
    details.remedies = {"name one of these"};
    return;
  }
  details.detail = fmt::format("this kernel has no dma-heaps ({})", folder);
  details.remedies = {"boot a kernel with CONFIG_DMABUF_HEAPS=y and CONFIG_DMABUF_HEAPS_SYSTEM=y",
                      "or allocate a udmabuf: allocate_udmabuf()"};
}

auto open_heap(std::uint64_t size, const std::string& heap) -> fd {
  const auto path = fmt::format("{}/{}", folder, heap);
  std::error_code ec;
  auto opened = fd::open(path, O_RDONLY, 0, ec);
  if (!ec) return opened;
  error_details details{.attempted = attempt(size, heap), .code = ec.value()};
  switch (ec.value()) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      explain_missing(details);
      break;
    case EACCES:
    case EPERM:
      details.detail = fmt::format("this user may not open {}, which is root's at first", path);
      details.remedies = {
          fmt::format("as root: chgrp render {0} && chmod 0640 {0}, and be in that group", path),
          "or allocate a udmabuf: allocate_udmabuf()"};
      break;
    default:
      details.detail = fmt::format("{} cannot be opened", path);
      break;
  }
  throw error(std::move(details));
}

auto allocate(std::uint64_t size, const std::string& heap) -> buffer {
  const auto opened = open_heap(size, heap);
  dma_heap_allocation_data argument{};
  argument.len = size;
  argument.fd_flags = O_RDWR | O_CLOEXEC;
  const auto result = sys().ioctl(opened.get(), DMA_HEAP_IOCTL_ALLOC, &argument);
  if (result >= 0) return buffer::from_fd(fd(static_cast<int>(argument.fd)));
  error_details details{.attempted = attempt(size, heap), .code = -result};
  if (result == -ENOMEM) {
    details.detail = "the heap has not so much left";
    details.remedies = {"free some memory, raise the cgroup's memory.max, or ask for less",
                        "a heap of contiguous memory is as large as the kernel's argument cma= "
                        "says: cat /proc/meminfo, CmaFree"};
  }
  throw error(std::move(details));
}

}  // namespace

auto dma_heaps() -> std::vector<std::string> {
  return names_in(folder);
}

auto allocate_dma_heap(std::uint64_t size, const std::string& heap) -> exported_memory {
  check(size, heap);
  auto memory = allocate(size, heap);
  auto owner =
      std::make_unique<mapped_owner>("dma-heap " + heap, memory, 0, size, rules_of(memory));
  return {std::move(memory), 0, size, std::move(owner)};
}

}  // namespace dmabridge

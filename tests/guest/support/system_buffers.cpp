// SPDX-License-Identifier: MIT
#include "system_buffers.hpp"

#include <fcntl.h>
#include <linux/dma-heap.h>
#include <linux/udmabuf.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>
#include <random>
#include <system_error>
#include <vector>

#include "drives.hpp"
#include "mapping.hpp"

namespace dmabridge::test {
namespace {

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// Without an order, as the kernel gives pages that are asked for in turn side by side: udmabuf
// makes one segment of these, of any length, of which the DMA-API's checks complain.
void scatter_pages(int memory, std::size_t size) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::vector<std::size_t> places(size / page);
  std::iota(places.begin(), places.end(), 0);
  std::ranges::shuffle(places, std::mt19937(1));
  const Mapping mapping(memory, size, 0, PROT_READ);
  for (const std::size_t place : places)
    if (madvise(mapping.data() + place * page, page, MADV_POPULATE_READ) != 0)
      fail("MADV_POPULATE_READ");
}

}  // namespace

Fd allocate_from_heap(std::uint64_t size) {
  const Fd heap = open_file("/dev/dma_heap/system", O_RDWR);
  dma_heap_allocation_data argument{};
  argument.len = size;
  argument.fd_flags = O_RDWR | O_CLOEXEC;
  if (ioctl(heap.get(), DMA_HEAP_IOCTL_ALLOC, &argument) != 0) fail("DMA_HEAP_IOCTL_ALLOC");
  return Fd(static_cast<int>(argument.fd));
}

Udmabuf make_udmabuf(std::uint64_t size) {
  Udmabuf made;
  made.memory = Fd(memfd_create("udmabuf", MFD_ALLOW_SEALING | MFD_CLOEXEC));
  if (!made.memory || ftruncate(made.memory.get(), static_cast<off_t>(size)) != 0 ||
      fcntl(made.memory.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0)
    fail("memfd");
  scatter_pages(made.memory.get(), size);
  const Fd node = open_file("/dev/udmabuf", O_RDWR);
  udmabuf_create argument{};
  argument.memfd = static_cast<std::uint32_t>(made.memory.get());
  argument.flags = UDMABUF_FLAGS_CLOEXEC;
  argument.size = size;
  made.buffer = Fd(ioctl(node.get(), UDMABUF_CREATE, &argument));
  if (!made.buffer) fail("UDMABUF_CREATE");
  return made;
}

}  // namespace dmabridge::test

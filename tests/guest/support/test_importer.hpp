// SPDX-License-Identifier: MIT
//
// dma-buf importers of every kind, made by the module dmabridge_test_importer (tests/modules).
#pragma once

#include <test_importer.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fd.hpp"

namespace dmabridge::test {

// How a driver attaches.
struct ImporterKind {
  const char* name;
  std::uint32_t kind;   // enum test_importer_kind
  std::uint32_t flags;  // TEST_IMPORTER_PEER2PEER | TEST_IMPORTER_REVOCABLE

  bool dynamic() const { return kind == TEST_IMPORTER_DYNAMIC; }
  bool peer2peer() const { return (flags & TEST_IMPORTER_PEER2PEER) != 0; }
  bool revocable() const { return (flags & TEST_IMPORTER_REVOCABLE) != 0; }
};
inline constexpr ImporterKind static_importer{"Static", TEST_IMPORTER_STATIC, 0};
inline constexpr ImporterKind dynamic{"Dynamic", TEST_IMPORTER_DYNAMIC, 0};
inline constexpr ImporterKind revocable{"Revocable", TEST_IMPORTER_DYNAMIC,
                                        TEST_IMPORTER_REVOCABLE};
inline constexpr ImporterKind p2p{"P2p", TEST_IMPORTER_DYNAMIC, TEST_IMPORTER_PEER2PEER};
inline constexpr ImporterKind p2p_revocable{"P2pRevocable", TEST_IMPORTER_DYNAMIC,
                                            TEST_IMPORTER_PEER2PEER | TEST_IMPORTER_REVOCABLE};

// The device that an importer is.
struct Client {
  std::uint64_t function = 0;  // as in the ABI, if pci
  bool pci = false;
  std::uint32_t mask_bits = 0;    // DMA mask; 0: leave it, or 64 bits
  std::uint32_t max_segment = 0;  // of a device without PCI; 0: no limit
};
// One that hangs on no bus.
inline constexpr Client no_bus{};
// The NVMe drive with this serial number, whose driver must be bound. Throws std::runtime_error.
Client nvme(const std::string& serial);

// What a mapping gives the device.
struct Table {
  std::vector<test_importer_segment> segments;
  std::uint32_t orig_nents;
  std::uint32_t invalidations;  // since it was mapped
  std::uint32_t same_as;        // another mapping with this very table; 0: none

  // Whether the kernel hides whose table it is, and what pages it has.
  bool hidden() const { return same_as == TEST_IMPORTER_HIDDEN; }
  std::uint64_t length() const;
  bool has_pages() const;
  // Whether its exporter shows importers what they must not look at. Where the kernel hides it,
  // nothing is known, and nothing is to be seen: false.
  bool shows_cpu_side() const { return !hidden() && (orig_nents != 0 || has_pages()); }
};

// Owns an attachment, with its mappings, pins and fences. Calls give 0 or -errno; what cannot fail
// in a sound test throws std::system_error.
class Attachment {
 public:
  Attachment() = default;
  explicit Attachment(Fd fd) : fd_(std::move(fd)) {}

  explicit operator bool() const { return static_cast<bool>(fd_); }
  void detach() { fd_.reset(); }

  int map(std::uint32_t* id, std::uint32_t direction = TEST_IMPORTER_BIDIRECTIONAL);
  // Throws also if it cannot be mapped.
  std::uint32_t map(std::uint32_t direction = TEST_IMPORTER_BIDIRECTIONAL);
  int unmap(std::uint32_t id);
  Table table(std::uint32_t id) const;
  // -ENOENT: that mapping is gone.
  int table(std::uint32_t id, Table* table) const;
  int pin();
  int unpin();
  // Also while somebody waits for a fence of this attachment.
  test_importer_events events() const;
  void add_fence(std::uint32_t usage = TEST_IMPORTER_USAGE_BOOKKEEP);
  void signal();
  test_importer_bench bench(std::uint32_t rounds,
                            std::uint32_t direction = TEST_IMPORTER_BIDIRECTIONAL);
  // Physical address that the device gets to by a DMA address; 0: none. Without an IOMMU they are
  // the same.
  std::uint64_t translate(std::uint64_t address) const;

 private:
  Fd fd_;
};

struct Attached {
  int error;  // 0 or -errno
  Attachment attachment;
  bool peer2peer;  // what the exporter left of it
};
// Loads the module on the first call. Throws std::runtime_error if that is not possible.
Attached attach(int buffer, const ImporterKind& kind, const Client& client = no_bus,
                std::uint32_t on_invalidate = TEST_IMPORTER_KEEP);

// Kernel code's access with the CPU: 0 or -errno.
int begin_cpu_access(int buffer, std::uint32_t direction = TEST_IMPORTER_BIDIRECTIONAL);
int end_cpu_access(int buffer, std::uint32_t direction = TEST_IMPORTER_BIDIRECTIONAL);
int vmap_read(int buffer, std::uint64_t offset, void* to, std::uint32_t length);
int vmap_write(int buffer, std::uint64_t offset, const void* from, std::uint32_t length);

// Lets go of the node, as it keeps the module from being unloaded.
void close_test_importer();

}  // namespace dmabridge::test

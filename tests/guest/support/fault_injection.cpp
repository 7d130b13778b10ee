// SPDX-License-Identifier: MIT
#include "fault_injection.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <system_error>

#include "fixture.hpp"

namespace dmabridge::test {
namespace {

const std::string debugfs = "/sys/kernel/debug/";
// No call has as many; one that never ends fails.
constexpr unsigned most_faults = 3000;

void set(const std::string& path, const std::string& value) {
  const int error = write_text(debugfs + path, value);
  if (error != 0) throw std::system_error(-error, std::generic_category(), path);
}

struct Range {
  std::uint64_t start, end;
};

// Where a function of the kernel's is. Its symbols are sorted by address.
Range find_function(const std::string& wanted) {
  std::FILE* symbols = std::fopen("/proc/kallsyms", "re");
  if (symbols == nullptr) throw std::system_error(errno, std::generic_category(), "/proc/kallsyms");
  Range found{};
  std::uint64_t address = 0;
  std::array<char, 256> name{};
  while (found.end == 0 &&
         std::fscanf(symbols, "%lx %*c %255s%*[^\n]", &address, name.data()) == 2) {
    if (found.start == 0 && wanted == name.data())
      found.start = address;
    else if (found.start != 0 && address > found.start)
      found.end = address;
  }
  std::fclose(symbols);
  if (found.end == 0) throw std::runtime_error("the kernel has no function " + wanted);
  return found;
}

const Range& function(const std::string& name) {
  static std::map<std::string, Range> known;
  const auto found = known.find(name);
  return found != known.end() ? found->second : known[name] = find_function(name);
}

// The functions, and all that lies between them in the kernel: each kind of fault takes one range.
void spare(const std::string& kind, std::initializer_list<std::string> functions) {
  Range all{UINT64_MAX, 0};
  for (const std::string& name : functions)
    all = {std::min(all.start, function(name).start), std::max(all.end, function(name).end)};
  set(kind + "/stacktrace-depth", "32");
  set(kind + "/reject-start", fmt::format("{:#x}", all.start));
  set(kind + "/reject-end", fmt::format("{:#x}", all.end));
}

}  // namespace

std::string no_fault_injection() {
  for (const char* kind : {"failslab", "fail_page_alloc", "fail_usercopy"}) {
    if (access((debugfs + kind).c_str(), F_OK) != 0)
      return fmt::format("this kernel has no fault injection ({}): run this with --kernel debug",
                         kind);
  }
  return "";
}

void prepare_fault_injection(Spared spared) {
  // A stack of each would count as a fault of the kernel's.
  for (const std::string kind : {"failslab", "fail_page_alloc", "fail_usercopy"})
    set(kind + "/verbose", "0");
  if (spared == Spared::dma_debug) {
    spare("failslab", {"add_dma_entry"});
    spare("fail_page_alloc", {"add_dma_entry"});
    set("fail_page_alloc/ignore-gfp-highmem", "N");
  } else {
    // Between these are the kernel's core and per-CPU memory, but neither the allocators nor the
    // PCI core, the driver core and our modules, which ask them.
    for (const std::string kind : {"failslab", "fail_page_alloc"})
      spare(kind, {"arch_add_memory", "alloc_vmap_area", "__vmalloc_node_range_noprof"});
    // Pages for vmalloc().
    set("fail_page_alloc/ignore-gfp-highmem", "Y");
  }
  set("failslab/ignore-gfp-wait", "N");
  set("fail_page_alloc/ignore-gfp-wait", "N");
  set("fail_page_alloc/min-order", "0");
  // Faults are meant for the call, not for the program's own pages.
  if (mlockall(MCL_CURRENT) != 0)
    throw std::system_error(errno, std::generic_category(), "mlockall");
}

FaultPoint::FaultPoint(pid_t thread)
    : file_(open_file(fmt::format("/proc/self/task/{}/fail-nth", thread == 0 ? gettid() : thread),
                      O_RDWR)) {}

void FaultPoint::arm(unsigned nth) const {
  const std::string text = std::to_string(nth);
  if (pwrite(file_.get(), text.data(), text.size(), 0) < 0)
    throw std::system_error(errno, std::generic_category(), "fail-nth");
}

bool FaultPoint::disarm() const {
  std::array<char, 16> text{};
  // Both calls have faults of their own, which fail only if none was injected before.
  bool injected = pread(file_.get(), text.data(), text.size(), 0) > 0 && text[0] == '0';
  while (pwrite(file_.get(), "0", 1, 0) < 0) {
    if (errno != EFAULT && errno != ENOMEM)
      throw std::system_error(errno, std::generic_category(), "fail-nth");
    injected = false;
  }
  return injected;
}

namespace {

// What came of a call's faults.
struct Faults {
  unsigned injected = 0;
  unsigned tolerated = 0;          // the call succeeded all the same
  std::map<int, unsigned> failed;  // by errno, positive

  // "14 faults: 9 ENOMEM, 2 EFAULT, 3 tolerated".
  std::string text() const {
    std::string text = fmt::format("{} faults:", injected);
    for (const auto& [error, count] : failed)
      text += fmt::format(" {} {},", count, strerrorname_np(error));
    return text + fmt::format(" {} tolerated", tolerated);
  }
};

// Whether there was a fault.
bool make_call(const Sweep& what, const FaultPoint& point, unsigned nth, Faults* faults) {
  point.arm(nth);
  const int result = what.call();
  const bool injected = point.disarm();
  what.reset();
  if (!injected) {
    EXPECT_GE(result, 0) << "without a fault";
    return false;
  }
  faults->injected++;
  if (result >= 0) {
    faults->tolerated++;
  } else {
    faults->failed[-result]++;
    EXPECT_TRUE(what.errors.contains(-result)) << strerrorname_np(-result);
  }
  EXPECT_GE(what.call(), 0) << "after the fault, without one";
  what.reset();
  return true;
}

}  // namespace

void expect_regions(const std::vector<dmabridge_region_info>& before) {
  const auto same = [&] {
    const auto now = regions();
    return std::equal(now.begin(), now.end(), before.begin(), before.end(),
                      [](const auto& a, const auto& b) {
                        return a.id == b.id && a.available == b.available &&
                               a.nr_buffers == b.nr_buffers && a.flags == b.flags;
                      });
  };
  EXPECT_TRUE(eventually(same)) << "the regions are not what they were";
}

void sweep(const std::string& name, const Sweep& what) {
  SCOPED_TRACE(name);
  const auto before = regions();
  const FaultPoint point(what.thread);
  Faults faults;
  // What a first call makes for good is none of the others'.
  EXPECT_GE(what.call(), 0) << "without a fault";
  what.reset();
  for (unsigned nth = 1; !testing::Test::HasFailure(); nth++) {
    SCOPED_TRACE(fmt::format("fault {}", nth));
    if (!make_call(what, point, nth, &faults)) break;
    EXPECT_LT(nth, most_faults) << "there is no end of faults";
  }
  if (!what.may_have_none) {
    EXPECT_GT(faults.injected, 0U) << "nothing was tested";
  }
  expect_regions(before);
  fmt::print("  {}: {}\n", name, faults.text());
  std::fflush(stdout);
  testing::Test::RecordProperty("note " + name, faults.text());
}

PageShortage::PageShortage(unsigned pages) : file_(open_file("/proc/self/make-it-fail", O_RDWR)) {
  set("fail_page_alloc/task-filter", "Y");
  set("fail_page_alloc/probability", "100");
  set("fail_page_alloc/times", "-1");
  set("fail_page_alloc/space", std::to_string(pages));
  // Last: from here on the thread's own calls have it too.
  if (pwrite(file_.get(), "1", 1, 0) < 0)
    throw std::system_error(errno, std::generic_category(), "make-it-fail");
}

PageShortage::~PageShortage() {
  EXPECT_EQ(pwrite(file_.get(), "0", 1, 0), 1);
  EXPECT_EQ(write_text(debugfs + "fail_page_alloc/probability", "0"), 0);
}

}  // namespace dmabridge::test

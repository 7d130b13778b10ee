// SPDX-License-Identifier: MIT
//
// Faults on purpose: the kernel can be told to fail the nth thing in a thread's next system call
// that may fail for want of memory (failslab, fail_page_alloc), or because user memory is not there
// (fail_usercopy). Whoever tries n = 1, 2, 3... until a call has no nth, has gone every way that a
// call can fail.
//
// What a call leaves to others (interrupts, work queues) is not meant. Only kernels built with
// CONFIG_FAULT_INJECTION have it: the project's debugging kernel.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "abi.hpp"
#include "fd.hpp"

namespace dmabridge::test {

// Why this kernel cannot do it. Empty: it can.
std::string no_fault_injection();

// What of the kernel's own is not made to fail, as it cannot bear it. One at a time: each kind of
// fault can leave out one range of functions, with all that they call.
enum class Spared {
  // DMA_API_DEBUG switches itself off, and says so, if it has no memory for a node of its tree of
  // cache lines (active_cacheline_insert()).
  dma_debug,
  // What drivers call in probe():
  // - memory hot-plug, by which a BAR gets struct pages, writes through a null pointer where x86's
  //   direct map gets no page table (alloc_low_pages()), warns where a section gets no memory
  //   (add_pages()), and prints a stack where there is none for the struct pages
  //   (vmemmap_alloc_block());
  // - vmalloc() prints a stack whenever it fails, also for want of KASAN's shadow, and
  //   gen_pool_add() has no way to ask it not to;
  // - kmemleak complains where it cannot note what ioremap() has reserved.
  probe,
};

// Sets up which faults there are: all, but for those. Throws std::runtime_error.
void prepare_fault_injection(Spared spared = Spared::dma_debug);

// One thread's next fault.
class FaultPoint {
 public:
  // thread: of this process; 0: the caller. Throws std::system_error.
  explicit FaultPoint(pid_t thread = 0);

  // The nth from now on fails. Throws std::system_error.
  void arm(unsigned nth) const;
  // From now on none does. Whether one has. Throws std::system_error.
  bool disarm() const;

 private:
  Fd file_;
};

// What a sweep is about.
struct Sweep {
  // Under a fault: 0 or more, or -errno. What it leaves behind is for reset() to find.
  std::function<int()> call;
  // After each call, whether it failed or not: puts all back, so that the next one finds what the
  // first one found, and looks for what must not have changed.
  std::function<void()> reset;
  // As a call may fail, positive.
  std::set<int> errors;
  // Whose faults; 0: the caller's.
  pid_t thread = 0;
  // A call that may turn out to have no fault at all.
  bool may_have_none = false;
};

// Makes the call with its first, second, ... fault, and after each once more without one, which has
// to succeed. Fails the test if a call fails otherwise than it may, or has no fault at all, or if
// the regions are not in the end what they were. name: for the report, which tells what came of the
// faults.
void sweep(const std::string& name, const Sweep& what);

// Fails the test if the regions are not soon what they were: what is free of them, their buffers.
void expect_regions(const std::vector<dmabridge_region_info>& before);

// A fixture whose tests need faults. A kernel that has none skips them.
template <class Base>
class WithFaults : public Base {
 protected:
  void SetUp() override {
    const std::string missing = no_fault_injection();
    if (!missing.empty()) GTEST_SKIP() << missing;
    prepare_fault_injection();
    Base::SetUp();
  }
};

// While it lives the caller gets this many free pages, and then no more.
class PageShortage {
 public:
  // Throws std::runtime_error.
  explicit PageShortage(unsigned pages);
  ~PageShortage();
  PageShortage(const PageShortage&) = delete;
  PageShortage& operator=(const PageShortage&) = delete;

 private:
  Fd file_;
};

}  // namespace dmabridge::test

# SPDX-License-Identifier: MIT
"""What tests/lib/kernel_log.py takes for a fault. Lines as kernels print them."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "lib"))
sys.dont_write_bytecode = True
import kernel_log

FAULTS = """\
BUG: KASAN: slab-use-after-free in dmabridge_detach+0x2c/0x50 [dmabridge]
WARNING: possible circular locking dependency detected
WARNING: possible recursive locking detected
WARNING: inconsistent lock state
WARNING: suspicious RCU usage
INFO: trying to register non-static key.
INFO: possible irq lock inversion dependency detected
WARNING: bad unlock balance detected!
WARNING: lock held when returning to user space!
BUG: MAX_LOCKDEP_CHAINS too low!
turning off the locking correctness validator.
INFO: lockdep is turned off.
BUG: sleeping function called from invalid context at kernel/locking/mutex.c:591
BUG: scheduling while atomic: dmabridge/123/0x00000002
DMA-API: nvme 0000:03:00.0: device driver has pending DMA allocations while released from device [count=1]
DMA-API: dmabridge_pci 0000:04:00.0: device driver tries to free DMA memory it has not allocated [device address=0x0000000000000000]
DMA-API: exceeded 7 overlapping mappings of cacheline 0x00000000044f5c00
DMA-API: debugging out of memory - disabling
DMA-API: cacheline tracking ENOMEM, dma-debug disabled
kmemleak: unreferenced object 0xffff888107a0f900 (size 64):
kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
kmemleak: Kernel memory leak detector disabled
kmemleak: Memory pool empty, consider increasing CONFIG_DEBUG_KMEMLEAK_MEM_POOL_SIZE
ODEBUG: free active (active state 0) object: ffff88810b2f8c90 object type: work_struct hint: retire+0x0/0x80 [dmabridge]
ODEBUG: Out of memory. ODEBUG disabled
UBSAN: array-index-out-of-bounds in /src/exporter/region.c:42:7
UBSAN: shift-out-of-bounds in /src/exporter/chunk.c:7:3
list_del corruption. prev->next should be ffff888100f5a068, but was ffff888100f5a100
refcount_t: underflow; use-after-free.
page dumped because: VM_BUG_ON_FOLIO(folio_test_lru(folio))
INFO: task dmabridge:123 blocked for more than 20 seconds.
rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
Kernel panic - not syncing: Fatal exception
"""

HEALTHY = """\
rcu: 	RCU callback double-/use-after-free debug is enabled.
kasan: KernelAddressSanitizer initialized (generic)
kfence: initialized - using 2097152 bytes for 255 objects at 0x(____ptrval____)-0x(____ptrval____)
Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar
... MAX_LOCKDEP_CHAINS:      262144
DMA-API: preallocated 65536 debug entries
DMA-API: debugging enabled by kernel config
DMA-API: debugging disabled on kernel command line
DMA-API: dma_debug_entry pool grown to 131072 (200%)
kmemleak: Kernel memory leak detector initialized (mem pool available: 32744)
kmemleak: Automatic memory scanning thread started
dmabridge_pci 0000:04:00.0: registered 64 MiB of BAR 2
pcieport 0000:00:01.0: AER: Uncorrectable (Fatal) error message received from 0000:02:01.0
pcieport 0000:02:01.0: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Data Link Layer, (Receiver ID)
pcieport 0000:02:01.0:   device [104c:8233] error status/mask=00000010/00000000
pcieport 0000:02:01.0:    [ 4] DLP                    (First)
pcieport 0000:02:01.0: AER: device recovery successful
nvme nvme0: frozen state error detected, reset controller
EXT4-fs (nvme0n1): mounted filesystem 4b2e r/w with ordered data mode. Quota mode: none.
"""


class KernelLog(unittest.TestCase):
    def test_every_report_is_a_fault(self):
        for line in FAULTS.splitlines():
            with self.subTest(line):
                stamped = f"[   12.345678] {line}".encode()
                self.assertEqual(kernel_log.splats(stamped), [stamped])

    def test_a_healthy_kernel_has_none(self):
        self.assertEqual(kernel_log.splats(HEALTHY.encode()), [])

    def test_the_excerpt_begins_near_the_first_fault(self):
        log = "\n".join([HEALTHY, "before", "BUG: KASAN: here", "Read of size 8", *["x"] * 100]).encode()
        text = kernel_log.excerpt(log)
        self.assertIn("Read of size 8", text)
        self.assertNotIn("Lock dependency validator", text)

    def test_no_fault_has_no_excerpt(self):
        self.assertEqual(kernel_log.excerpt(HEALTHY.encode()), "")


if __name__ == "__main__":
    unittest.main()

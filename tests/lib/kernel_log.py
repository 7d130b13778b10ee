# SPDX-License-Identifier: MIT
"""Finds what a kernel says when something is wrong in it."""

import re

# Anything of these in a guest's kernel log fails the run. There is no list of exceptions.
SPLAT = re.compile(
    rb"WARNING: |BUG: |\bBUG at |Oops|Call Trace:|\bRIP: |general protection fault|Unable to handle kernel|Kernel panic"
    rb"|KASAN|KCSAN|KMSAN|UBSAN|KFENCE|refcount_t: |list_(?:add|del) corruption|DMA-API: "
    rb"|page still referenced|Bad page (?:state|map|cache)|page allocation failure|slab-(?:out-of-bounds|use-after-free)"
    rb"|possible (?:circular locking|recursive locking|irq lock inversion|deadlock)|inconsistent lock state|suspicious RCU usage"
    rb"|rcu: INFO: |blocked for more than \d+ seconds|soft lockup|hard LOCKUP|scheduling while atomic"
    rb"|INFO: (?:trying to register|possible )|bad unlock balance|lock held when returning|held lock freed"
    rb"|kmemleak: |ODEBUG: |turning off the locking correctness validator|lockdep is turned off|page dumped because"
    rb"|sleeping function called|Freeing .* with outstanding|cut here|Modules linked in|tainted by|[Uu]se-after-free"
)
# "KFENCE" and the others above also name themselves when they start, say that they are at work, or were switched off on purpose.
# What they say when they give up is a fault: nothing is proved by a check that no longer runs.
START_UP = re.compile(
    rb"kfence: initialized|kfence: using"
    rb"|DMA-API: (?:preallocated \d+ debug entries|debugging enabled by kernel config|debugging disabled on kernel command line|dma_debug_entry pool grown)"
    rb"|RCU callback double-/use-after-free debug is enabled"
    rb"|kmemleak: (?:Kernel memory leak detector initialized|Automatic memory scanning thread)"
)


def splats(log):
    """The lines of a kernel log (bytes) that tell of a fault."""
    return [line for line in log.splitlines() if SPLAT.search(line) and not START_UP.search(line)]


def excerpt(log, before=2, after=25):
    """The part of the log around its first fault, as text."""
    lines = log.splitlines()
    for index, line in enumerate(lines):
        if SPLAT.search(line) and not START_UP.search(line):
            return text(lines[max(0, index - before) : index + after])
    return ""


def tail(log, count=20):
    return text(log.splitlines()[-count:])


def text(lines):
    """Printable lines, indented; a serial console's escape sequences are dropped."""
    cleaned = (re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r", b"", line) for line in lines)
    return "\n".join("    " + line.decode(errors="replace") for line in cleaned)

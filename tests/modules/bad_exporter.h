/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/dmabridge-bad-exporter: dma-bufs with one fault each, which the conformance
 * suite has to find. For tests only: it is root's, and a leak leaks.
 */
#ifndef _DMABRIDGE_BAD_EXPORTER_H
#define _DMABRIDGE_BAD_EXPORTER_H

#include <linux/ioctl.h>

enum bad_exporter_fault {
	BAD_EXPORTER_NONE		= 0,
	BAD_EXPORTER_FORCES_P2P		= 1,	/* attach gives peer2peer unasked */
	BAD_EXPORTER_REFUSES_MAP	= 2,	/* all may attach, who has no P2P cannot map */
	BAD_EXPORTER_LEAKS		= 3,	/* each mapping leaves a reference behind */
	BAD_EXPORTER_SHORT_TABLE	= 4,	/* one page is missing at the end */
	BAD_EXPORTER_MISALIGNED		= 5,	/* DMA addresses within a page */
	BAD_EXPORTER_SHARES_TABLE	= 6,	/* one sg_table for all mappings */
	BAD_EXPORTER_PAGES_ON_P2P	= 7,	/* a BAR's address with a struct page */
	BAD_EXPORTER_MOVES_SILENTLY	= 8,	/* each mapping is of other memory */
	BAD_EXPORTER_NO_CPU_ACCESS	= 9,	/* begin_cpu_access fails */
	BAD_EXPORTER_MMAP_OFFSET	= 10,	/* mmap ignores the offset */
	BAD_EXPORTER_MMAP_GROWS		= 11,	/* a mapping can grow over the end */
	BAD_EXPORTER_VMAP_COPY		= 12,	/* vmap gives a copy */
	BAD_EXPORTER_NO_VMAP		= 13,	/* with BAD_EXPORTER_STATIC only */
	BAD_EXPORTER_VMAP_IO		= 14,	/* vmap gives device memory */
	BAD_EXPORTER_VMAP_IO_UNSAID	= 15,	/* ... as if it was none */
	BAD_EXPORTER_ENDLESS_ACCESS	= 16,	/* end_cpu_access fails */
};

/* Added to the fault: without operations to pin. */
#define BAD_EXPORTER_STATIC	0x100

#define BAD_EXPORTER_SIZE	65536

/* argument: enum bad_exporter_fault, BAD_EXPORTER_STATIC. Returns the fd of a new dma-buf. */
#define BAD_EXPORTER_IOCTL_EXPORT	_IO(0xDD, 0x00)

#endif /* _DMABRIDGE_BAD_EXPORTER_H */

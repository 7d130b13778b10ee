/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a range of DMA addresses is cut into the entries of a scatterlist that a
 * device takes. No state, no kernel calls: it is tested in user space.
 */
#ifndef _DMABRIDGE_SEGMENT_H
#define _DMABRIDGE_SEGMENT_H

#include <linux/types.h>

/* What a device takes in one entry. */
struct dmabridge_segment_limits {
	__u32 size;		/* at most so many bytes; whole pages */
	__u64 boundary;		/* a mask: none goes across a multiple of boundary + 1 */
};

/*
 * The limits of a device, rounded down to whole pages, but to one at least: there
 * are no smaller entries. @size and @boundary as of dma_get_max_seg_size() and
 * dma_get_seg_boundary(), @page is the size of a page.
 */
struct dmabridge_segment_limits dmabridge_limit_segments(__u64 size, __u64 boundary, __u32 page);

/*
 * Bytes of the first entry for @length > 0 bytes at @address, both whole pages: as
 * many as can be.
 */
__u32 dmabridge_segment_length(const struct dmabridge_segment_limits *limits, __u64 address,
			       __u64 length);

/* Entries for @length bytes at @address. */
__u64 dmabridge_segment_count(const struct dmabridge_segment_limits *limits, __u64 address,
			      __u64 length);

#endif /* _DMABRIDGE_SEGMENT_H */

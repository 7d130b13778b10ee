// SPDX-License-Identifier: GPL-2.0-only
/*
 * Entries of a scatterlist. See segment.h.
 */
#include "segment.h"

struct dmabridge_segment_limits dmabridge_limit_segments(__u64 size, __u64 boundary, __u32 page)
{
	const __u32 most = ~(page - 1);	/* an entry's length has 32 bits */

	if (size < page)
		size = page;
	return (struct dmabridge_segment_limits){
		.size = size < most ? size & most : most,
		.boundary = boundary | (page - 1),
	};
}

__u32 dmabridge_segment_length(const struct dmabridge_segment_limits *limits, __u64 address,
			       __u64 length)
{
	/* To the boundary, without the last byte: the next one may be 2^64. */
	__u64 rest = ~address & limits->boundary;

	if (length > limits->size)
		length = limits->size;
	return length - 1 > rest ? rest + 1 : length;
}

__u64 dmabridge_segment_count(const struct dmabridge_segment_limits *limits, __u64 address,
			      __u64 length)
{
	__u64 count = 0;

	while (length) {
		__u32 bytes = dmabridge_segment_length(limits, address, length);

		address += bytes;
		length -= bytes;
		count++;
	}
	return count;
}

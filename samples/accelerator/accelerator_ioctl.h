/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The sample accelerator's own node, /dev/accelerator-FUNCTION: what a program
 * gives it to do. Buffers have handles, which belong to the open file; what other
 * programs and drivers get of one is its dma-buf.
 */
#ifndef _ACCELERATOR_IOCTL_H
#define _ACCELERATOR_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum accelerator_memory {
	ACCELERATOR_MEMORY_DEVICE	= 0,
	ACCELERATOR_MEMORY_SYSTEM	= 1,	/* only with the module's parameter system_limit */
};

/* -ENOSPC: no memory left; -EBUSY: the device is suspended. */
struct accelerator_create {
	__u64 size;			/* in: a multiple of the page size */
	__u32 policy;			/* in: enum dmabridge_policy */
	__u32 memory;			/* in: enum accelerator_memory */
	__u32 handle;			/* out */
	__u32 __reserved;		/* in: 0 */
};

struct accelerator_handle {
	__u32 handle;
	__u32 __reserved;		/* in: 0 */
};

enum accelerator_job {
	ACCELERATOR_JOB_FILL		= 0,	/* all words of the range become value */
	ACCELERATOR_JOB_CHECKSUM	= 1,	/* the sum of the words goes to offset value */
};

/*
 * Queue a job on 8-byte words of a buffer. It runs after whatever was queued on
 * the buffer, by whomever, before. Its end can be waited for by poll() on the
 * dma-buf, or by DMA_BUF_IOCTL_SYNC.
 */
struct accelerator_run {
	__u32 handle;
	__u32 job;			/* enum accelerator_job */
	__u64 offset;			/* of the range; all three are multiples of 8 */
	__u64 length;
	__u64 value;
};

/* What the device's page table says of one page of a buffer. */
struct accelerator_lookup {
	__u32 handle;			/* in */
	__u32 placement;		/* out: enum dmabridge_placement */
	__u64 page;			/* in: its number in the buffer */
	__u64 offset;			/* out: in the region, if it is on the device */
	__u64 updates;			/* out: how often the table was filled in */
};

#define ACCELERATOR_IOC	0xDC

#define ACCELERATOR_IOCTL_CREATE	_IOWR(ACCELERATOR_IOC, 0, struct accelerator_create)
/* The buffer lives on for as long as others have its dma-buf. */
#define ACCELERATOR_IOCTL_DESTROY	_IOW(ACCELERATOR_IOC, 1, struct accelerator_handle)
/* Return: an fd of the dma-buf. */
#define ACCELERATOR_IOCTL_EXPORT	_IOW(ACCELERATOR_IOC, 2, struct accelerator_handle)
/* Make room on the device: the buffer goes to system memory. */
#define ACCELERATOR_IOCTL_EVICT		_IOW(ACCELERATOR_IOC, 3, struct accelerator_handle)
#define ACCELERATOR_IOCTL_RUN		_IOW(ACCELERATOR_IOC, 4, struct accelerator_run)
#define ACCELERATOR_IOCTL_LOOKUP	_IOWR(ACCELERATOR_IOC, 5, struct accelerator_lookup)

#endif /* _ACCELERATOR_IOCTL_H */

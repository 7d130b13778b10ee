/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/dmabridge-test-importer: dma-buf importers of every kind, on demand. For
 * tests only: it is root's, and hands out DMA addresses. It transfers nothing.
 *
 * TEST_IMPORTER_IOCTL_ATTACH on the node gives an attachment as an fd of its own, and
 * all that belongs to it (mappings, pins, fences, a device) goes with its last
 * close, also when its process is killed. The node's other calls leave nothing
 * behind.
 */
#ifndef _DMABRIDGE_TEST_IMPORTER_H
#define _DMABRIDGE_TEST_IMPORTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

enum test_importer_kind {
	TEST_IMPORTER_STATIC	= 0,	/* dma_buf_attach() */
	TEST_IMPORTER_DYNAMIC	= 1,	/* dma_buf_dynamic_attach() */
};

/* Of dynamic attachments. */
#define TEST_IMPORTER_PEER2PEER	(1U << 0)	/* allow_peer2peer */
#define TEST_IMPORTER_REVOCABLE	(1U << 1)	/* has invalidate_mappings */
/* The client is the PCI function in "device", else a device of the module's own. */
#define TEST_IMPORTER_PCI	(1U << 2)

/* What invalidate_mappings does, besides counting. */
enum test_importer_on_invalidate {
	TEST_IMPORTER_KEEP	= 0,	/* nothing: user space unmaps later */
	TEST_IMPORTER_UNMAP	= 1,	/* unmaps all at once */
	TEST_IMPORTER_FENCE	= 2,	/* puts a BOOKKEEP fence on the dma-buf */
};

/* As enum dma_data_direction. */
enum test_importer_direction {
	TEST_IMPORTER_BIDIRECTIONAL	= 0,
	TEST_IMPORTER_TO_DEVICE		= 1,
	TEST_IMPORTER_FROM_DEVICE	= 2,
};

/* As enum dma_resv_usage. */
enum test_importer_usage {
	TEST_IMPORTER_USAGE_KERNEL	= 0,
	TEST_IMPORTER_USAGE_WRITE	= 1,
	TEST_IMPORTER_USAGE_READ	= 2,
	TEST_IMPORTER_USAGE_BOOKKEEP	= 3,
};

/* --- the node ---------------------------------------------------------------- */

/*
 * The error is the attach's own, but for these: -EINVAL: wrong argument, or a
 * mask for a function that has a driver; -ENXIO: no such function; -EBUSY: another
 * attachment has set that function's mask; -EIO: no device can have that mask.
 */
struct test_importer_attach {
	__s32 fd;			/* in: the dma-buf */
	__u32 kind;			/* in: enum test_importer_kind */
	__u32 flags;			/* in: TEST_IMPORTER_* */
	__u32 on_invalidate;		/* in: enum test_importer_on_invalidate */
	__u64 device;			/* in: domain << 16 | bus << 8 | devfn, or 0 */
	__u32 mask_bits;		/* in: the client's DMA mask; 0: as it is, or 64 */
	__u32 max_segment;		/* in: of a device of the module's own; 0: no limit */
	__u32 peer2peer;		/* out: what the exporter left of it */
	__s32 attachment_fd;		/* out, O_CLOEXEC */
};

enum test_importer_cpu_operation {
	TEST_IMPORTER_BEGIN_CPU_ACCESS	= 0,
	TEST_IMPORTER_END_CPU_ACCESS	= 1,
	TEST_IMPORTER_VMAP_READ		= 2,	/* of a mapping that ends with the call */
	TEST_IMPORTER_VMAP_WRITE	= 3,
};

#define TEST_IMPORTER_CPU_MAX	65536

/* Kernel code that looks at a dma-buf with the CPU. */
struct test_importer_cpu {
	__s32 fd;			/* in: the dma-buf */
	__u32 operation;		/* in: enum test_importer_cpu_operation */
	__u32 direction;		/* in: enum test_importer_direction, of begin and end */
	__u32 length;			/* in: of read and write, at most TEST_IMPORTER_CPU_MAX */
	__u64 offset;			/* in: of read and write */
	__u64 data;			/* in: pointer, of read and write */
};

/* --- an attachment ------------------------------------------------------------ */

/* A new mapping, beside those that there are. */
struct test_importer_map {
	__u32 direction;		/* in: enum test_importer_direction */
	__u32 id;			/* out: never 0 */
};

/* One piece that the device gets. */
struct test_importer_segment {
	__u64 address;			/* DMA address */
	__u64 length;
	__u32 has_page;			/* the table's CPU side names a page here */
	__u32 __reserved;
};

struct test_importer_sg {
	__u32 id;			/* in: mapping; -ENOENT: gone */
	__u32 max;			/* in: room in segments */
	__u64 segments;			/* in: pointer */
	__u32 nents;			/* out: pieces, which may be more than max */
	__u32 orig_nents;		/* out: entries of the table's CPU side */
	__u32 invalidations;		/* out: seen while it was mapped */
	__u32 same_as;			/* out: another mapping with this very table; 0: none */
};

/* same_as, where CONFIG_DMABUF_DEBUG hides the tables: has_page says nothing either. */
#define TEST_IMPORTER_HIDDEN	(~0U)

/* Also while somebody holds the dma-buf's reservation. */
struct test_importer_events {
	__u32 invalidations;
	__u32 invalidations_mapped;	/* of those, with a mapping alive */
	__u32 mappings;			/* alive */
	__u32 pins;
	__u32 fences;			/* not signalled yet */
	__u32 failures;			/* fences that could not be made */
};

struct test_importer_bench {
	__u32 direction;		/* in: enum test_importer_direction */
	__u32 rounds;			/* in: how often it maps and unmaps */
	__u64 map_ns;			/* out: for all rounds */
	__u64 unmap_ns;			/* out */
	__u32 nents;			/* out: of the last mapping */
	__u32 __reserved;
};

/* Where a DMA address of the client's leads, by the tables of its IOMMU. */
struct test_importer_translate {
	__u64 address;			/* in */
	__u64 phys;			/* out; 0: nowhere */
};

#define TEST_IMPORTER_IOC	0xDC

#define TEST_IMPORTER_IOCTL_ATTACH	_IOWR(TEST_IMPORTER_IOC, 0x00, struct test_importer_attach)
#define TEST_IMPORTER_IOCTL_CPU	_IOW(TEST_IMPORTER_IOC, 0x01, struct test_importer_cpu)
#define TEST_IMPORTER_IOCTL_MAP	_IOWR(TEST_IMPORTER_IOC, 0x40, struct test_importer_map)
#define TEST_IMPORTER_IOCTL_UNMAP	_IOW(TEST_IMPORTER_IOC, 0x41, __u32)	/* id */
#define TEST_IMPORTER_IOCTL_SG	_IOWR(TEST_IMPORTER_IOC, 0x42, struct test_importer_sg)
#define TEST_IMPORTER_IOCTL_PIN	_IO(TEST_IMPORTER_IOC, 0x43)	/* -EINVAL: static */
#define TEST_IMPORTER_IOCTL_UNPIN	_IO(TEST_IMPORTER_IOC, 0x44)	/* -EINVAL: not pinned */
#define TEST_IMPORTER_IOCTL_EVENTS	_IOR(TEST_IMPORTER_IOC, 0x45, struct test_importer_events)
/* Puts an unsignalled fence on the dma-buf. */
#define TEST_IMPORTER_IOCTL_ADD_FENCE	_IOW(TEST_IMPORTER_IOC, 0x46, __u32)	/* usage */
/* Signals all that this attachment has put there. */
#define TEST_IMPORTER_IOCTL_SIGNAL	_IO(TEST_IMPORTER_IOC, 0x47)
#define TEST_IMPORTER_IOCTL_BENCH	_IOWR(TEST_IMPORTER_IOC, 0x48, struct test_importer_bench)
/* -ENODEV: no IOMMU */
#define TEST_IMPORTER_IOCTL_TRANSLATE	\
	_IOWR(TEST_IMPORTER_IOC, 0x49, struct test_importer_translate)

#endif /* _DMABRIDGE_TEST_IMPORTER_H */

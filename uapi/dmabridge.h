/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * dmabridge: the kernel/user ABI, and nothing else.
 *
 * Three kinds of file speak it:
 *
 *   /dev/dmabridge         anyone: look at regions, and query, hold, move and
 *                          bind buffers of which the caller holds the fd
 *   /dev/dmabridge-REGION  group render: allocate buffers in that region by
 *                          ioctl, or one anonymous buffer by mmap()
 *   a binding              an fd made by DMABRIDGE_IOCTL_BIND; io_uring commands
 *                          on it move bytes between a buffer and a file
 *
 * Rules for every structure here:
 *   - an ioctl's argument, and dmabridge_user, may grow at their end; what is
 *     nested in others (reason, verdict, chunk, counter) never changes. The size
 *     travels in the ioctl number: the kernel takes a shorter one as
 *     zero-extended, and a longer one only if the bytes that it does not know
 *     are zero (-E2BIG otherwise);
 *   - unknown flags and non-zero reserved fields are -EINVAL;
 *   - an fd that comes back is O_CLOEXEC and installed last: on any error there
 *     is none;
 *   - enumerations are append-only and travel as __u32;
 *   - sizes and offsets are in bytes;
 *   - a PCI function is domain << 16 | bus << 8 | devfn. Domains can have more
 *     than 16 bits (VMD);
 *   - no physical address goes in or out. Offsets in a region are relative to it.
 */
#ifndef _UAPI_DMABRIDGE_H
#define _UAPI_DMABRIDGE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMABRIDGE_ABI_VERSION	1

#define DMABRIDGE_NAME_MAX	64	/* with the closing NUL */

/* Memory that a driver can export from. */
enum dmabridge_region_kind {
	DMABRIDGE_REGION_BAR	= 1,	/* device memory behind a PCI BAR */
	DMABRIDGE_REGION_STOLEN	= 2,	/* system RAM reserved for a device */
	DMABRIDGE_REGION_SYSTEM	= 3,	/* ordinary system RAM */
};

/* Where the bytes of a buffer are now. Buffer-wide, never per importer. */
enum dmabridge_placement {
	DMABRIDGE_PLACEMENT_NONE	= 0,	/* revoked: nowhere */
	DMABRIDGE_PLACEMENT_DEVICE	= 1,
	DMABRIDGE_PLACEMENT_SYSTEM	= 2,
};

/*
 * What a buffer or an importer asks for. Those of a buffer and an importer
 * combine: the stricter wins; REQUIRE with FORBID is refused as a conflict.
 * 0 is not a policy.
 */
enum dmabridge_policy {
	DMABRIDGE_POLICY_REQUIRE	= 1,	/* P2P, or refuse */
	DMABRIDGE_POLICY_PREFER		= 2,	/* P2P, else redirect, else bounce */
	DMABRIDGE_POLICY_FORBID		= 3,	/* never P2P */
};

/* How one importer reaches the bytes. Also the index of the I/O counters. */
enum dmabridge_route {
	DMABRIDGE_ROUTE_NONE		= 0,	/* it does not: refused */
	DMABRIDGE_ROUTE_P2P_BUS		= 1,	/* inside a PCIe switch or root port */
	DMABRIDGE_ROUTE_P2P_HOST_BRIDGE	= 2,	/* through the host bridge */
	DMABRIDGE_ROUTE_STOLEN		= 3,	/* the RAM behind the BAR */
	DMABRIDGE_ROUTE_SYSTEM		= 4,	/* system memory */
	DMABRIDGE_ROUTE_BOUNCE		= 5,	/* system memory and a copy by the CPU */
	DMABRIDGE_ROUTE_UNPROVED	= 6,	/* counters only: bytes arrived, nobody can vouch how */
};
#define DMABRIDGE_NR_ROUTES	16		/* slots in counter arrays */

/*
 * Why a verdict is what it is. "device" names the PCI function in
 * dmabridge_reason.device; "value" is dmabridge_reason.value.
 */
enum dmabridge_reason_code {
	DMABRIDGE_REASON_NONE			= 0,

	/* the buffer */
	DMABRIDGE_REASON_REVOKED		= 1,	/* its device is gone; device: that one */
	DMABRIDGE_REASON_POLICY_FORBID		= 2,
	DMABRIDGE_REASON_POLICY_CONFLICT	= 3,	/* value: buffer's policy << 32 | importer's */
	DMABRIDGE_REASON_DEMOTED		= 4,	/* in system memory for another importer; device, name: that one */
	DMABRIDGE_REASON_HELD			= 5,	/* another user keeps the placement; value: placement; device, name: that one */
	DMABRIDGE_REASON_PINNED_BY_USER		= 6,	/* pages pinned through a mapping; value: how many */
	DMABRIDGE_REASON_PINNED_BY_IMPORTER	= 7,	/* dma_buf_pin(); value: how many pins */
	DMABRIDGE_REASON_MOVE_LIMIT		= 8,	/* a copy by the CPU would take too long; value: the region's limit */
	DMABRIDGE_REASON_NO_SYSTEM_MEMORY	= 9,	/* value: bytes asked for */
	DMABRIDGE_REASON_NO_DEVICE_MEMORY	= 10,	/* value: bytes asked for */
	DMABRIDGE_REASON_MOVED			= 11,	/* in system memory since it was moved there on request */
	DMABRIDGE_REASON_INTERRUPTED		= 12,	/* a signal ended the move */
	DMABRIDGE_REASON_NO_PAGES		= 13,	/* the region has no struct pages: no block I/O */
	DMABRIDGE_REASON_RESTORED		= 14,	/* back on the device: nobody needs system memory any more */
	DMABRIDGE_REASON_SYSTEM_REGION		= 15,	/* its region is system memory: there is no device memory */
	DMABRIDGE_REASON_EVICTED		= 16,	/* moved to system memory by the driver of its device */
	DMABRIDGE_REASON_SUSPENDED		= 17,	/* the driver lets nothing onto its device for now */
	DMABRIDGE_REASON_COPY_FAILED		= 18,	/* the device's copy engine; value: errno, positive */
	DMABRIDGE_REASON_NOT_MOVABLE		= 19,	/* its exporter cannot move it to system memory */

	/* the importer */
	DMABRIDGE_REASON_STATIC_IMPORTER	= 20,	/* dma_buf_attach(): cannot follow a move */
	DMABRIDGE_REASON_NOT_PEER2PEER		= 21,	/* dynamic, but allow_peer2peer not set */
	DMABRIDGE_REASON_NOT_REVOCABLE		= 22,	/* no invalidate_mappings: could not be stopped */
	DMABRIDGE_REASON_NOT_PCI		= 23,	/* no PCI function behind the importer */
	DMABRIDGE_REASON_EXPORTER_VETO		= 24,	/* the exporting driver refuses it; value: driver's own */
	DMABRIDGE_REASON_DMA_MASK		= 25,	/* it cannot address the device's memory; value: its DMA mask */
	DMABRIDGE_REASON_BY_CPU			= 26,	/* its driver touches memory by the CPU (software RDMA); name: it */

	/* the path */
	DMABRIDGE_REASON_ACS_REDIRECT		= 40,	/* a bridge sends P2P up; device: bridge, value: ACS control bits */
	DMABRIDGE_REASON_HOST_BRIDGE_UNLISTED	= 41,	/* device: host bridge's first function, value: vendor << 16 | device id */
	DMABRIDGE_REASON_NO_PATH		= 42,	/* the kernel says no; value: pci_p2pdma_distance() */
	DMABRIDGE_REASON_MEMORY_ENCRYPTION	= 43,	/* SEV, TDX */
	DMABRIDGE_REASON_DENIED			= 44,	/* by the administrator (parameter deny); device: the importer */
	DMABRIDGE_REASON_KERNEL_NO_P2PDMA	= 45,	/* built without CONFIG_PCI_P2PDMA; name: the kernel's release */
	DMABRIDGE_REASON_BAR_DISABLED		= 46,	/* it has no address, or its function does not decode it; value: its number */
	DMABRIDGE_REASON_SMALL_BAR		= 47,	/* it shows a part of the device's memory only; value: its size */
	DMABRIDGE_REASON_BROKEN_PATH		= 48,	/* bytes sent this way did not arrive; value: how many of them */
	DMABRIDGE_REASON_VIRTUAL_MACHINE	= 49,	/* the host's bridges cannot be seen; name: the hypervisor */
	DMABRIDGE_REASON_MODULE_LOCKED_OUT	= 50,	/* Secure Boot or lockdown takes signed modules only; name: which */
	DMABRIDGE_REASON_PATH_UNKNOWN		= 51,	/* what decides could not be read; name: what */
	DMABRIDGE_REASON_NOT_MAPPABLE		= 52,	/* the architecture cannot map a BAR; name: it */

	/* block devices and files */
	DMABRIDGE_REASON_QUEUE_NO_P2P		= 60,	/* the driver's queue lacks the PCI P2PDMA feature; name: the disk */
	DMABRIDGE_REASON_STACKED_DEVICE		= 61,	/* md, dm, loop, multipath: no single function behind it; name: the disk */
	DMABRIDGE_REASON_STABLE_WRITES		= 62,	/* data is checksummed by the CPU; name: the disk */
	DMABRIDGE_REASON_FILESYSTEM_UNLISTED	= 63,	/* value: its magic number; name: its type */
	DMABRIDGE_REASON_FILE_NO_DIRECT_IO	= 64,	/* journalled or inline data, or no O_DIRECT at all */
	DMABRIDGE_REASON_FILE_ENCRYPTED		= 65,
	DMABRIDGE_REASON_FILE_VERITY		= 66,
	DMABRIDGE_REASON_FILE_REALTIME		= 67,	/* data is on another device than the file system's */
	DMABRIDGE_REASON_TARGET_NOT_BLOCK	= 68,	/* neither block device nor file on one */
	DMABRIDGE_REASON_TARGET_READ_ONLY	= 69,
	DMABRIDGE_REASON_TARGET_NOT_READABLE	= 70,	/* fd not opened for that access; value: DMABRIDGE_BIND_* missing */
	DMABRIDGE_REASON_TARGET_BUSY		= 71,	/* mounted, or claimed by somebody else */
	DMABRIDGE_REASON_FOREIGN_BUFFER		= 72,	/* a dma-buf of another exporter; name: that one, value: errno if the kernel cannot have its pages, else 0 */
	DMABRIDGE_REASON_NO_IMPORTER		= 73,	/* dmabridge_block is not loaded */
	DMABRIDGE_REASON_LEG			= 74,	/* a disk that it is made of cannot; name: that one, device: its function */
	DMABRIDGE_REASON_RAID_WRITE		= 75,	/* md takes a failed P2P write for a failed leg; name: the disk */
	DMABRIDGE_REASON_IO_IN_FLIGHT		= 76,	/* it does not end, so the buffer cannot move; value: ms that it was waited for */

	/* RDMA devices */
	DMABRIDGE_REASON_NO_DMABUF_MR		= 80,	/* asking for a dma-buf MR failed, not known through whom; name: the device, value: errno */
	DMABRIDGE_REASON_DMABUF_MR_REFUSED	= 81,	/* its driver could not register the dma-buf; name: the device, value: errno */
	DMABRIDGE_REASON_PIN_LIMIT		= 82,	/* RLIMIT_MEMLOCK; name: the device, value: the limit */
	DMABRIDGE_REASON_NOT_PINNABLE		= 83,	/* the buffer's mapping cannot be pinned; name: its exporter, value: errno */
	DMABRIDGE_REASON_DRIVER_NO_DMABUF_MR	= 84,	/* its kernel driver lacks dma-buf MRs; name: the device, value: errno */
	DMABRIDGE_REASON_PROVIDER_NO_DMABUF_MR	= 85,	/* its driver has dma-buf MRs, its provider library lacks the call; name: the device, value: errno */
};

/* One reason with its evidence. device is set only with DMABRIDGE_REASON_HAS_DEVICE. */
struct dmabridge_reason {
	__u32 code;
	__u32 flags;
	__u64 device;
	__u64 value;
	char name[DMABRIDGE_NAME_MAX];
};
#define DMABRIDGE_REASON_HAS_DEVICE	(1U << 0)
/* It is why P2P was not taken. */
#define DMABRIDGE_REASON_BLOCKS_P2P	(1U << 1)
/* It is why the buffer could not be moved to serve the importer. */
#define DMABRIDGE_REASON_BLOCKS_MOVE	(1U << 2)

#define DMABRIDGE_MAX_REASONS	8

/*
 * The kernel's word on one (buffer, importer) pair. A route other than P2P or
 * STOLEN always has a reason. nr_reasons may exceed DMABRIDGE_MAX_REASONS:
 * then the rest did not fit.
 */
struct dmabridge_verdict {
	__u32 route;			/* enum dmabridge_route */
	__u32 policy;			/* combined; 0 if they conflict */
	__s32 distance;			/* pci_p2pdma_distance(); -1: unreachable or not asked */
	__u32 nr_reasons;
	struct dmabridge_reason reasons[DMABRIDGE_MAX_REASONS];
};

/* --- /dev/dmabridge ------------------------------------------------------ */

struct dmabridge_info {
	__u32 abi_version;		/* out */
	__u32 nr_regions;		/* out */
	__u64 importers;		/* out: bit n: importer n is there */
};
#define DMABRIDGE_IMPORTER_BLOCK	0

/*
 * Regions, one at a time: in: the smallest id wanted; out: the first region
 * with that id or a higher one. -ENOENT: no more. Ids are never used twice.
 */
struct dmabridge_region_info {
	__u32 id;			/* in, out */
	__u32 kind;			/* out: enum dmabridge_region_kind */
	__u32 flags;			/* in: 0; out: DMABRIDGE_REGION_* */
	__u32 bar;			/* out: its BAR number */
	__u64 device;			/* out: the PCI function */
	__u32 nr_buffers;		/* out */
	__u32 __reserved;		/* out: 0 */
	__u64 size;			/* out */
	__u64 available;		/* out: not handed out */
	__u64 limit;			/* out: most that may be handed out */
	__u64 move_limit;		/* out: most that an attach copies by CPU */
	char name[DMABRIDGE_NAME_MAX];	/* out: the node is /dev/dmabridge-NAME */
	char driver[DMABRIDGE_NAME_MAX];	/* out */
	__u64 quarantined;		/* out: freed, but pinned through user mappings still */
};
#define DMABRIDGE_REGION_HAS_PAGES	(1U << 0)	/* block I/O needs no bounce */
#define DMABRIDGE_REGION_TAKES_UNREVOCABLE (1U << 1)	/* gives P2P to importers it cannot stop */
#define DMABRIDGE_REGION_HAS_ENGINE	(1U << 2)	/* the device copies: no move_limit */
#define DMABRIDGE_REGION_SUSPENDED	(1U << 3)	/* no device memory for now */
#define DMABRIDGE_REGION_QUARANTINED	(1U << 4)	/* unregistered; kept for those who pinned it */
#define DMABRIDGE_REGION_NOT_PCI	(1U << 5)	/* device is not set */
#define DMABRIDGE_REGION_UNREGISTERED	(1U << 6)	/* by its driver; here until nobody has its memory */

enum dmabridge_user_kind {
	DMABRIDGE_USER_STATIC	= 1,	/* dma_buf_attach() */
	DMABRIDGE_USER_DYNAMIC	= 2,	/* dma_buf_dynamic_attach() */
	DMABRIDGE_USER_BINDING	= 3,	/* block importer */
	DMABRIDGE_USER_HOLD	= 4,	/* placement hold */
};

/* Somebody who uses a buffer: an attachment, a binding, a hold. */
struct dmabridge_user {
	__u32 kind;			/* enum dmabridge_user_kind */
	__u32 flags;			/* DMABRIDGE_USER_* */
	__u64 device;			/* the PCI function, with DMABRIDGE_USER_HAS_DEVICE */
	__u32 policy;			/* enum dmabridge_policy */
	__u32 __reserved;		/* 0 */
	char name[DMABRIDGE_NAME_MAX];	/* the device's, the disk's or the process's */
	char driver[DMABRIDGE_NAME_MAX];
	struct dmabridge_verdict verdict;	/* what it was told when it came */
};
#define DMABRIDGE_USER_HAS_DEVICE	(1U << 0)
#define DMABRIDGE_USER_NEEDS_SYSTEM	(1U << 1)	/* keeps the buffer in system memory */
#define DMABRIDGE_USER_NEEDS_DEVICE	(1U << 2)	/* keeps the buffer on the device */
#define DMABRIDGE_USER_P2P		(1U << 3)	/* P2P granted */
#define DMABRIDGE_USER_PEER2PEER	(1U << 4)	/* asked for P2P */
#define DMABRIDGE_USER_REVOCABLE	(1U << 5)
#define DMABRIDGE_USER_PINNED		(1U << 6)
#define DMABRIDGE_USER_BOUNCES		(1U << 7)	/* reaches device memory by copies only */

/* A run of the buffer's bytes on its device: offset is in the region. */
struct dmabridge_chunk {
	__u64 offset;
	__u64 length;
};

/*
 * All about a buffer. users and chunks point to arrays of the caller's with
 * room for max_users and max_chunks; nr_users and nr_chunks say how many there
 * are, which may be more. user_size: sizeof(struct dmabridge_user) as the
 * caller knows it, at most 4096. A buffer in system memory has no chunks.
 */
struct dmabridge_query {
	__s32 fd;			/* in: the dma-buf */
	__u32 flags;			/* in: 0; out: DMABRIDGE_BUFFER_* */
	__u64 users;			/* in: pointer, or 0 */
	__u32 max_users;		/* in */
	__u32 user_size;		/* in */
	__u64 chunks;			/* in: pointer, or 0 */
	__u32 max_chunks;		/* in */
	__u32 nr_chunks;		/* out */
	__u32 nr_users;			/* out */
	__u32 region_id;		/* out */
	__u32 placement;		/* out: enum dmabridge_placement */
	__u32 policy;			/* out: enum dmabridge_policy */
	__u64 size;			/* out */
	__u64 generation;		/* out: changes with every move and revoke */
	__u64 moves;			/* out */
	char region[DMABRIDGE_NAME_MAX];	/* out */
	struct dmabridge_reason last_move;	/* out: why it moved last; code 0: never */
	struct dmabridge_user last_refused;	/* out: who was refused last, and why; kind 0: nobody */
};
#define DMABRIDGE_BUFFER_REVOKED	(1U << 0)

/*
 * Keep a buffer in one placement for as long as hold_fd is open, and move it
 * there first. The verdict has reasons when that is refused; a hold does no I/O,
 * and so has no route.
 */
struct dmabridge_hold {
	__s32 fd;			/* in: the dma-buf */
	__u32 placement;		/* in: DEVICE or SYSTEM */
	__u32 flags;			/* in: 0 */
	__s32 hold_fd;			/* out */
	struct dmabridge_verdict verdict;	/* out, also on error */
};

/* Move a buffer once, without keeping it there. */
struct dmabridge_move {
	__s32 fd;			/* in: the dma-buf */
	__u32 placement;		/* in: DEVICE or SYSTEM */
	__u32 flags;			/* in: 0 */
	__u32 __reserved;		/* in: 0 */
	struct dmabridge_verdict verdict;	/* out, also on error */
};

/*
 * Join a buffer and a target: an open file or block device. Reads and writes
 * need the target fd opened for them. WRITE to a block device claims the device
 * exclusively for as long as the binding lives: it must not be mounted or be
 * opened O_EXCL, by the caller either.
 *
 * The dma-buf may be another exporter's, of system memory that it can map for the
 * kernel and does not move. It is served from there; else -EMEDIUMTYPE.
 */
struct dmabridge_bind {
	__s32 fd;			/* in: the dma-buf */
	__s32 target_fd;		/* in */
	__u32 importer;			/* in: DMABRIDGE_IMPORTER_* */
	__u32 policy;			/* in: enum dmabridge_policy */
	__u32 flags;			/* in: DMABRIDGE_BIND_*, one at least */
	__s32 binding_fd;		/* out */
	struct dmabridge_verdict verdict;	/* out, also on error */
};
#define DMABRIDGE_BIND_READ	(1U << 0)	/* target to buffer */
#define DMABRIDGE_BIND_WRITE	(1U << 1)	/* buffer to target */

/*
 * Be told when a buffer moves, is revoked or is released: by watch_fd and, if
 * eventfd is not -1, by that eventfd too, to which 1 is added each time. A watch
 * keeps neither the buffer nor its memory alive. -ENODEV: it is revoked already.
 *
 * read() on watch_fd, of sizeof(struct dmabridge_event) bytes or more (-EINVAL
 * otherwise), gives the buffer's state as it is now, if something has happened
 * since the watch was made, or since the last read(). Several moves in between are
 * one event, with the last one's generation. While nothing has happened read()
 * blocks, or fails with -EAGAIN if watch_fd is O_NONBLOCK (set by fcntl()).
 *
 * A revoke or a release is the last event. Once it has been read, read() gives 0.
 * The release of a buffer that was revoked is no event any more.
 *
 * poll(): POLLIN: read() gives an event; POLLHUP: the last event has happened.
 */
struct dmabridge_watch {
	__s32 fd;			/* in: the dma-buf */
	__s32 eventfd;			/* in: or -1 */
	__u32 flags;			/* in: 0 */
	__s32 watch_fd;			/* out */
	__u64 generation;		/* out: the buffer's now; every change after it is an event */
};

/* The state of a watched buffer. Never changes in size. */
struct dmabridge_event {
	__u64 generation;
	__u32 placement;		/* enum dmabridge_placement */
	__u32 flags;			/* DMABRIDGE_EVENT_* */
	struct dmabridge_reason reason;	/* of the last move or revoke; code 0: there was none */
};
#define DMABRIDGE_EVENT_REVOKED		(1U << 0)
#define DMABRIDGE_EVENT_RELEASED	(1U << 1)	/* its last reference is gone */

/*
 * What would an importer get? The same judgement as at its attach or bind, but
 * nothing is attached, bound, claimed or moved, nobody is told, and nothing keeps
 * the answer true. About a buffer that there is (fd), or, with fd -1, about one
 * of that size and policy which region_id would make, empty and on its device;
 * whether there is memory left for it is not asked. -ENOENT: no such region;
 * -ENODEV: it is gone; -ENOSPC: it is smaller than that; -EBUSY: it is suspended.
 *
 * The importer is a target as of DMABRIDGE_IOCTL_BIND with the block importer
 * (FILE: target_fd, and flags READ, WRITE), or a PCI function whose driver would
 * attach as flags say (PCI: device, and flags STATIC alone, or PEER2PEER,
 * REVOCABLE; no such function: -ENODEV, and no reason). A function without a driver
 * is judged by the DMA mask that it has: PCI's own, 32 bits. A file is opened for
 * the answer, which those who watch files can see.
 *
 * About another exporter's dma-buf only a FILE can be asked, for which it is
 * attached and mapped meanwhile; PCI: -EMEDIUMTYPE.
 *
 * 0: it would be served. Else the error that its attach or bind would get; the
 * verdict comes with both. What a move alone finds out is not foretold: memory
 * that is used up, pages pinned through user mappings, a copy engine that fails,
 * block I/O that does not end. Nor what only a claim finds out of a partition to be
 * written: that somebody has claimed the whole disk.
 */
struct dmabridge_negotiate {
	__s32 fd;			/* in: the dma-buf, or -1 */
	__u32 region_id;		/* in: with fd -1, else 0 */
	__u64 size;			/* in: with fd -1, else 0 */
	__u32 buffer_policy;		/* in: with fd -1, else 0 */
	__u32 policy;			/* in: the importer's */
	__u32 kind;			/* in: DMABRIDGE_NEGOTIATE_FILE or _PCI */
	__u32 flags;			/* in */
	__s32 target_fd;		/* in: FILE; else -1 */
	__u32 placement;		/* out: it would be served from there; NONE: refused */
	__u64 device;			/* in: PCI; else 0 */
	struct dmabridge_verdict verdict;	/* out, also on error */
};
#define DMABRIDGE_NEGOTIATE_FILE	1
#define DMABRIDGE_NEGOTIATE_PCI		2

#define DMABRIDGE_NEGOTIATE_READ	DMABRIDGE_BIND_READ
#define DMABRIDGE_NEGOTIATE_WRITE	DMABRIDGE_BIND_WRITE
#define DMABRIDGE_NEGOTIATE_STATIC	(1U << 2)
#define DMABRIDGE_NEGOTIATE_PEER2PEER	(1U << 3)
#define DMABRIDGE_NEGOTIATE_REVOCABLE	(1U << 4)

#define DMABRIDGE_IOC	0xDB

#define DMABRIDGE_IOCTL_INFO	_IOWR(DMABRIDGE_IOC, 0x00, struct dmabridge_info)
#define DMABRIDGE_IOCTL_REGION	_IOWR(DMABRIDGE_IOC, 0x01, struct dmabridge_region_info)
#define DMABRIDGE_IOCTL_QUERY	_IOWR(DMABRIDGE_IOC, 0x02, struct dmabridge_query)
#define DMABRIDGE_IOCTL_HOLD	_IOWR(DMABRIDGE_IOC, 0x03, struct dmabridge_hold)
#define DMABRIDGE_IOCTL_MOVE	_IOWR(DMABRIDGE_IOC, 0x04, struct dmabridge_move)
#define DMABRIDGE_IOCTL_BIND	_IOWR(DMABRIDGE_IOC, 0x05, struct dmabridge_bind)
#define DMABRIDGE_IOCTL_WATCH	_IOWR(DMABRIDGE_IOC, 0x06, struct dmabridge_watch)
#define DMABRIDGE_IOCTL_NEGOTIATE	_IOWR(DMABRIDGE_IOC, 0x07, struct dmabridge_negotiate)

/* --- /dev/dmabridge-REGION ----------------------------------------------- */

/*
 * A new buffer, cleared, as a dma-buf fd. size is rounded up to whole pages.
 * -EOPNOTSUPP: policy REQUIRE in a region of kind SYSTEM.
 * mmap() of the node (MAP_SHARED, offset 0) makes one of the mapping's size,
 * policy PREFER, that lives as long as the mapping.
 */
struct dmabridge_alloc {
	__u64 size;			/* in, out: rounded up */
	__u32 policy;			/* in: enum dmabridge_policy */
	__u32 flags;			/* in: 0 */
	__s32 fd;			/* out */
	__u32 __reserved;		/* in: 0 */
};

#define DMABRIDGE_IOCTL_ALLOC	_IOWR(DMABRIDGE_IOC, 0x40, struct dmabridge_alloc)

/* --- a binding ------------------------------------------------------------ */

struct dmabridge_io_counter {
	__u64 commands;
	__u64 bytes;
};

struct dmabridge_binding_info {
	__u32 flags;			/* in: 0; out: DMABRIDGE_BIND_* */
	__u32 offset_align;		/* out: of file offset and length */
	__u32 memory_align;		/* out: of buffer offset */
	__u32 max_length;		/* out: of one command */
	__u64 buffer_size;		/* out */
	__u64 errors;			/* out: commands that failed */
	__u64 reissued;			/* out: commands issued again after -EAGAIN */
	__u64 generation;		/* out: the buffer's; 0: another exporter's */
	struct dmabridge_io_counter routes[DMABRIDGE_NR_ROUTES];	/* out: by enum dmabridge_route */
	struct dmabridge_verdict verdict;	/* out: as at bind */
};

#define DMABRIDGE_IOCTL_BINDING	_IOWR(DMABRIDGE_IOC, 0x80, struct dmabridge_binding_info)

/*
 * IORING_OP_URING_CMD on a binding, in a plain 64-byte SQE:
 *
 *   sqe.cmd_op	DMABRIDGE_URING_READ or DMABRIDGE_URING_WRITE
 *   sqe.addr	offset in the buffer
 *   sqe.len	length, at most max_length
 *   sqe.cmd	struct dmabridge_uring_cmd
 *
 * The CQE's res is the number of bytes, short at the end of the file, or
 * -errno. The CQE is the completion: the binding publishes no fence. Fences
 * already on the buffer are waited for.
 *
 *   -EINVAL	unknown flags, reserved field set, misaligned
 *   -ERANGE	the range leaves the buffer
 *   -EBADF	the binding was not made for this direction
 *   -ENODEV	the buffer is revoked
 *   -EREMOTEIO	the buffer's placement can no longer be reached by this target
 */
struct dmabridge_uring_cmd {
	__u64 file_offset;
	__u32 flags;			/* 0 */
	__u32 __reserved;		/* 0 */
};

#define DMABRIDGE_URING_READ	_IOR(DMABRIDGE_IOC, 0xC0, struct dmabridge_uring_cmd)
#define DMABRIDGE_URING_WRITE	_IOW(DMABRIDGE_IOC, 0xC1, struct dmabridge_uring_cmd)

#endif /* _UAPI_DMABRIDGE_H */

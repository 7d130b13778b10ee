/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmabridge: what a GPU or accelerator driver needs to export its memory.
 *
 * The simplest driver makes one call in probe() and one in remove():
 *
 *	region = dmabridge_register_bar(pdev, &(struct dmabridge_bar_desc){ .bar = 2 });
 *	dmabridge_unregister(region);
 *
 * User space then allocates from the region's node. A driver with an ioctl of
 * its own makes buffers with dmabridge_buffer_create(), and one with a copy
 * engine or an opinion gives a struct dmabridge_region_ops.
 *
 * Lifetime. A driver registers a region in probe() and unregisters it in
 * remove(), both from the driver that is bound to the function. Unregistering
 * revokes every buffer: it waits until no importer can reach the BAR, so that
 * remove() may go on to take the device down. Who keeps it waiting, an importer
 * that does not unmap or block I/O that does not end, is named in the kernel's log
 * every five seconds. Buffers outlive the region as empty shells whose every use
 * fails with -ENODEV. No callback runs once dmabridge_unregister() has returned.
 *
 * All functions here sleep, unless they say otherwise, and none may be called
 * with the dma_resv of a buffer held. The function must stay in D0 for as long as
 * peers may reach it: hold a runtime PM reference while a region is registered.
 */
#ifndef _DMABRIDGE_EXPORTER_H
#define _DMABRIDGE_EXPORTER_H

#include <linux/pci.h>

#include "../uapi/dmabridge.h"

struct dma_buf;
struct dmabridge_buffer;
struct dmabridge_region;

/**
 * struct dmabridge_copy - one contiguous piece of a move, for a copy engine
 * @to_device: from @page to the device, else from the device to @page
 * @offset: of the device's side, in the region
 * @page: first of the contiguous pages of system memory on the other side. The
 *	engine maps them for DMA itself
 * @page_offset: of the first byte in @page, < PAGE_SIZE
 * @length: bytes, > 0
 * @driver_data: the driver's, from copy() to dmabridge_copy_done()
 */
struct dmabridge_copy {
	bool to_device;
	u64 offset;
	struct page *page;
	unsigned int page_offset;
	size_t length;
	void *driver_data;
};

/**
 * dmabridge_copy_done() - a copy has ended
 * @copy: not touched by the driver any more
 * @error: 0, or why it failed; then the move fails and the buffer stays
 *
 * Any context. Exactly once for each copy() that returned 0, in bounded time.
 */
void dmabridge_copy_done(struct dmabridge_copy *copy, int error);

/**
 * struct dmabridge_region_ops - what a driver may want to have a say in
 *
 * All optional. @priv is the desc's. None is called after dmabridge_unregister().
 */
struct dmabridge_region_ops {
	/**
	 * @copy: start to copy a piece with the device's engine. Several are in
	 * flight at a time, of several buffers, and of one buffer that bounces. A
	 * move has waited for the buffer's fences. The dma_resv of the buffer may be
	 * held: it must take none, and not wait for others who hold one.
	 * Without it the CPU copies, and the region's move_limit applies.
	 *
	 * Return: 0: dmabridge_copy_done() follows, or has come already; -errno:
	 * it does not, and the move fails.
	 */
	int (*copy)(void *priv, struct dmabridge_copy *copy);

	/**
	 * @veto: whether @importer must not reach device memory. It is then
	 * served from system memory, or refused, with reason EXPORTER_VETO. It must
	 * not make buffers. Anybody may ask about any function at any time
	 * (DMABRIDGE_IOCTL_NEGOTIATE), from the registration on: @importer need
	 * have no driver then, and nobody need attach.
	 * @importer is NULL for one that has no device. @value goes into the
	 * reason, for the driver's own documentation to explain.
	 */
	bool (*veto)(void *priv, struct device *importer, u64 *value);

	/**
	 * @moved: @buffer is at @placement (enum dmabridge_placement) now; NONE:
	 * revoked. For the driver's own page tables. Called with the dma_resv
	 * held: use dmabridge_buffer_locate() to learn where. A move waits for
	 * the buffer's fences, copies, and then tells: what the device does by
	 * those tables must have a fence in the dma_resv while it does it, and a
	 * reference on the buffer while they exist. A revoke tells first: jobs may
	 * still run, and the memory stays until their fences have signalled.
	 */
	void (*moved)(void *priv, struct dmabridge_buffer *buffer, u32 placement);
};

/**
 * struct dmabridge_region_desc - what all kinds of regions have
 * @name: unique, at most DMABRIDGE_NAME_MAX - 1 bytes, no '/'; NULL: "<device>-bar<n>",
 *	"<device>-stolen" or "<device>-system"
 * @limit: most bytes ever handed out at a time; 0: all
 * @move_limit: most bytes that an attach may move off the device by CPU reads,
 *	which are slow; 0: 256 MiB
 * @take_unrevocable: give P2P to importers that cannot be told to stop. Then
 *	unregistering waits for them for as long as it takes
 * @ops: NULL, or what lives until dmabridge_unregister()
 * @priv: for @ops
 */
struct dmabridge_region_desc {
	const char *name;
	u64 limit;
	u64 move_limit;
	bool take_unrevocable;
	const struct dmabridge_region_ops *ops;
	void *priv;
};

/**
 * struct dmabridge_bar_desc - a BAR, or part of one, to export from
 * @region: what all kinds have
 * @bar: number of a memory BAR
 * @offset: in the BAR; a multiple of 2 MiB, without pages of PAGE_SIZE
 * @size: likewise; 0: the rest of the BAR
 * @no_pages: do not give the BAR struct pages: it is smaller than 2 MiB, or the
 *	driver maps it write-combined itself. Importers that DMA, RDMA for one,
 *	reach it as ever; block I/O bounces
 */
struct dmabridge_bar_desc {
	struct dmabridge_region_desc region;
	int bar;
	u64 offset;
	u64 size;
	bool no_pages;
};

/**
 * dmabridge_register_bar() - make a BAR's memory available to peers
 * @pdev: enabled, and bound to the calling driver
 * @desc: copied
 *
 * Gives the BAR struct pages (pci_p2pdma_add_resource()), unless told not to,
 * and creates /dev/dmabridge-NAME. One region with pages per function: the
 * kernel's pool of such pages is per function. The driver must not add others
 * itself. They go with the driver's managed resources, after remove(): a BAR is
 * registered with pages once per binding. Regions must not overlap.
 *
 * Return: the region; -EBUSY: the function has one with pages, or one that
 * overlaps; -EEXIST: the name is taken; -EINVAL: no such BAR, range outside of
 * it or misaligned; -EOPNOTSUPP: kernel without PCI_P2PDMA, BAR not mappable, or
 * no x86-64; -ENOMEM.
 */
struct dmabridge_region *dmabridge_register_bar(struct pci_dev *pdev,
						const struct dmabridge_bar_desc *desc);

/**
 * struct dmabridge_stolen_desc - system RAM that the platform reserved for a device
 * @region: what all kinds have
 * @bar: number of the BAR by which the device's memory is seen
 * @bar_offset: where in that BAR it begins
 * @start: physical address of the same memory as RAM, on 2 MiB. Not known to the
 *	kernel as RAM of its own
 * @size: a multiple of 2 MiB
 * @cpu_reachable: the CPU may access it as RAM, cached
 * @dma_reachable: other devices may
 * @coherent: what is written by one of the two addresses is read by the other
 *
 * The last three are the platform's properties, which only the driver knows.
 */
struct dmabridge_stolen_desc {
	struct dmabridge_region_desc region;
	int bar;
	u64 bar_offset;
	phys_addr_t start;
	u64 size;
	bool cpu_reachable;
	bool dma_reachable;
	bool coherent;
};

/**
 * dmabridge_register_stolen() - make stolen memory available to everybody
 * @pdev: enabled, and bound to the calling driver
 * @desc: copied
 *
 * Every importer gets the RAM behind the BAR, without a copy, wherever it is on
 * the bus, and user space maps it cached and pins it as it likes. Without any of
 * the three properties the BAR is registered instead, as by
 * dmabridge_register_bar().
 *
 * Return: the region; -EBUSY: overlaps a region, or one that is in quarantine;
 * -EOPNOTSUPP: memory encryption is on; -EINVAL: no such BAR, misaligned, or the
 * range is RAM of the kernel's; others as of dmabridge_register_bar().
 */
struct dmabridge_region *dmabridge_register_stolen(struct pci_dev *pdev,
						   const struct dmabridge_stolen_desc *desc);

/**
 * dmabridge_register_system() - export ordinary system memory for a device
 * @dev: bound to the calling driver
 * @desc: copied; limit must be set
 *
 * For a device without memory of its own: its users get the same buffers, nodes
 * and queries. Nothing is ever P2P, and a buffer of policy REQUIRE is refused.
 *
 * Return: the region; -EINVAL: no limit; others as of dmabridge_register_bar().
 */
struct dmabridge_region *dmabridge_register_system(struct device *dev,
						   const struct dmabridge_region_desc *desc);

/**
 * dmabridge_unregister() - revoke all buffers of a region and forget it
 * @region: not used by the driver any more
 *
 * Waits for I/O in flight, importers' fences and their unmaps. On return no
 * importer maps the BAR and no CPU mapping of it is left. O_DIRECT I/O of user
 * space through a mapping may still be under way: its pages are waited for by
 * p2pdma's own teardown, when the driver's managed resources go after remove().
 * A device that must be quiet earlier has to see to its peers itself.
 *
 * Stolen memory that somebody has pinned, or maps and cannot be told to let go
 * of, or to which I/O goes that does not end, is put in quarantine: it stays what
 * it was, is not handed out again, is listed with DMABRIDGE_REGION_QUARANTINED, and
 * is released when the last of these goes.
 */
void dmabridge_unregister(struct dmabridge_region *region);

/**
 * dmabridge_revoke_all() - the device's memory is lost, or about to be
 * @region: goes on to exist
 *
 * For reset_prepare(), and for error_detected() and slot_reset(): a device that can
 * go on is reset all the same if another in the same recovery cannot, and is told
 * only by the latter. Revokes every buffer, and hands out no memory until
 * dmabridge_recovered(); a second call before that finds nothing left to do.
 *
 * Waits for no I/O, as that of other devices in the same recovery ends only after
 * this one has answered: DMA to the BAR may be under way until then, and gets what
 * the device gives.
 */
void dmabridge_revoke_all(struct dmabridge_region *region);

/**
 * dmabridge_recovered() - the device works again
 * @region: revoked by dmabridge_revoke_all(), or else nothing is done
 *
 * For reset_done() and resume() of an error handler. Memory is to be had again once
 * everybody has let go of the buffers that were revoked, which this does not wait
 * for. Until then new buffers are refused with -EBUSY.
 */
void dmabridge_recovered(struct dmabridge_region *region);

/**
 * dmabridge_suspend() - save all buffers to system memory
 * @region: goes on to exist
 *
 * Call it while other devices still work and memory can be had: from a prepare()
 * operation or a PM notifier, not from suspend(). Not for a system or a stolen
 * region, whose RAM stays what it is: there it does nothing.
 *
 * Moves every buffer off the device, whatever its users asked for: I/O of those
 * who insist on P2P fails with -EREMOTEIO until they are back. Nothing gets onto
 * the device until dmabridge_resume(). If one buffer cannot be moved the others
 * are as if they had been evicted, the device is in use as before, and why is
 * logged.
 *
 * Return: 0; -EBUSY: a buffer is pinned, or mapped by somebody who cannot be
 * told, or block I/O on it has not ended in some seconds; -ENOMEM; -EINTR: a fatal
 * signal; -EIO or another error of the engine's.
 */
int dmabridge_suspend(struct dmabridge_region *region);

/**
 * dmabridge_resume() - the device's memory is to be had again
 * @region: suspended
 *
 * Buffers that dmabridge_suspend() moved go back, but those that users need in
 * system memory by now. One that cannot stays where it is, whole; the query
 * tells.
 */
void dmabridge_resume(struct dmabridge_region *region);

/**
 * dmabridge_buffer_create() - a new buffer
 * @region: a region of the caller's
 * @size: in bytes, a multiple of PAGE_SIZE, > 0
 * @policy: enum dmabridge_policy
 *
 * The memory is cleared. System memory, now or later, is charged to the
 * current task's memory cgroup.
 *
 * Return: the buffer, with the caller's one reference, to be dropped with
 * dmabridge_buffer_put() or given to user space with dma_buf_fd() on
 * dmabridge_buffer_dma_buf(); -ENOSPC: no device memory; -EOPNOTSUPP: REQUIRE in a
 * system region; -EBUSY: suspended; -ENODEV: unregistered; -EINTR: a fatal signal;
 * -EINVAL; -ENOMEM.
 */
struct dmabridge_buffer *dmabridge_buffer_create(struct dmabridge_region *region, u64 size,
						 u32 policy);
void dmabridge_buffer_put(struct dmabridge_buffer *buffer);

/* The dma-buf of a buffer. No reference is taken: the dma-buf's is the buffer's. */
struct dma_buf *dmabridge_buffer_dma_buf(struct dmabridge_buffer *buffer);

/**
 * struct dmabridge_location - where a run of a buffer's bytes is
 * @placement: enum dmabridge_placement
 * @offset: in the region, if it is on the device
 * @page: first page, if it is in system memory
 * @length: bytes that are contiguous there
 */
struct dmabridge_location {
	u32 placement;
	u64 offset;
	struct page *page;
	u64 length;
};

/**
 * dmabridge_buffer_locate() - where the byte at @at is
 * @buffer: referenced
 * @at: a multiple of PAGE_SIZE, below the buffer's size
 * @location: filled in
 *
 * With the dma_resv of the buffer held, and true for as long as it is; after that
 * until the driver's moved() is called.
 *
 * Return: 0; -ENODEV: revoked.
 */
int dmabridge_buffer_locate(struct dmabridge_buffer *buffer, u64 at,
			    struct dmabridge_location *location);

/**
 * dmabridge_evict() - move one buffer to system memory
 * @buffer: referenced
 *
 * Whatever its users asked for; see dmabridge_suspend(). It goes back when asked,
 * or when the last user who needs system memory leaves.
 *
 * Return: 0, also if it was there; -ENODEV: revoked; else as of
 * dmabridge_suspend(), and the buffer is where it was.
 */
int dmabridge_evict(struct dmabridge_buffer *buffer);

#endif /* _DMABRIDGE_EXPORTER_H */

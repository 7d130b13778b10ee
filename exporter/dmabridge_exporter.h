/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * dmabridge: what a GPU or accelerator driver needs to export its memory.
 *
 * Lifetime. A driver registers a region in probe() and unregisters it in
 * remove(), both from the driver that is bound to the function. Unregistering
 * revokes every buffer: it waits until no importer can reach the BAR, so that
 * remove() may go on to take the device down. Buffers outlive the region as
 * empty shells whose every use fails with -ENODEV.
 */
#ifndef _DMABRIDGE_EXPORTER_H
#define _DMABRIDGE_EXPORTER_H

#include <linux/pci.h>

struct dmabridge_region;

/**
 * struct dmabridge_bar_desc - a BAR, or part of one, to export from
 * @name: unique, at most DMABRIDGE_NAME_MAX - 1 bytes, no '/'; NULL: "<BDF>-bar<n>"
 * @bar: number of a memory BAR
 * @offset: in the BAR, a multiple of 2 MiB
 * @size: a multiple of 2 MiB; 0: the rest of the BAR
 * @limit: most bytes ever handed out at a time; 0: all
 * @move_limit: most bytes that an attach may move off the device by CPU reads,
 *	which are slow; 0: 256 MiB
 * @take_unrevocable: give P2P to importers that cannot be told to stop. Then
 *	unregistering waits for them for as long as it takes
 */
struct dmabridge_bar_desc {
	const char *name;
	int bar;
	u64 offset;
	u64 size;
	u64 limit;
	u64 move_limit;
	bool take_unrevocable;
};

/**
 * dmabridge_register_bar() - make a BAR's memory available to peers
 * @pdev: enabled, and bound to the calling driver
 * @desc: copied
 *
 * Gives the BAR struct pages (pci_p2pdma_add_resource()) and creates
 * /dev/dmabridge-NAME. One region with pages per function: the kernel's pool of
 * such pages is per function. The driver must not add others itself.
 *
 * Return: the region; -EBUSY: the function has one; -EEXIST: the name is taken;
 * -EINVAL: no such BAR, range outside of it or not on 2 MiB; -EOPNOTSUPP: kernel
 * without PCI_P2PDMA, BAR not mappable, or no x86; -ENOMEM.
 */
struct dmabridge_region *dmabridge_register_bar(struct pci_dev *pdev,
						const struct dmabridge_bar_desc *desc);

/**
 * dmabridge_unregister() - revoke all buffers of a region and forget it
 * @region: not used by the driver any more
 *
 * Sleeps: for I/O in flight, importers' fences and their unmaps. On return no
 * importer maps the BAR and no CPU mapping of it is left. O_DIRECT I/O of user
 * space through a mapping may still be under way: its pages are waited for by
 * p2pdma's own teardown, when the driver's managed resources go after remove().
 * A device that must be quiet earlier has to see to its peers itself.
 */
void dmabridge_unregister(struct dmabridge_region *region);

#endif /* _DMABRIDGE_EXPORTER_H */

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions of a BAR.
 *
 * With pages they are p2pdma's, from its pool. References of such pages (7.2):
 * the pool hands them out with a count of 0 and one reference on the pagemap per
 * allocation; the last put_page() returns one page to the pool and drops one
 * pagemap reference. So each page gets a count of 1 here and each page but an
 * allocation's first one more pagemap reference; from then on they are freed by
 * put_page() alone, one by one, never by pci_free_p2pmem(). That is what lets
 * pins through user mappings outlive the buffer.
 *
 * Without pages the BAR's addresses are handed out by a pool of our own. Nothing
 * can pin such memory: whoever reaches it has a DMA mapping, which is waited for.
 */
#include <linux/io.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pci-p2pdma.h>

#include "internal.h"

#define PAGES_ALIGN		SZ_2M	/* memory hot-plug's subsection */

static int find_provider(struct dmabridge_region *region)
{
	region->provider = pcim_p2pdma_provider(region->pdev, region->bar);
	return region->provider ? 0 : -EOPNOTSUPP;
}

/* --- with pages ------------------------------------------------------------------ */

static int pages_open(struct dmabridge_region *region)
{
	u64 offset = region->start - pci_resource_start(region->pdev, region->bar);
	struct dev_pagemap *other = get_dev_pagemap(PHYS_PFN(region->start));
	int ret;

	/* Of an earlier registration by this binding, say. */
	if (other) {
		put_dev_pagemap(other);
		return -EBUSY;
	}
	ret = pci_p2pdma_add_resource(region->pdev, region->bar, region->size, offset);
	return ret ?: find_provider(region);
}

static void own_pages(struct page *page, u64 length)
{
	struct percpu_ref *ref = &page_pgmap(page)->ref;
	unsigned long nr = length >> PAGE_SHIFT;
	unsigned long i;

	for (i = 0; i < nr; i++)
		set_page_count(page + i, 1);
	percpu_ref_get_many(ref, nr - 1);
}

/* Whether the pool gave what is the region's: its driver may have filled in more. */
static bool is_in_region(const struct dmabridge_region *region, const struct dmabridge_run *run)
{
	return run->phys >= region->start &&
	       run->phys + run->length <= region->start + region->size;
}

static int pages_take(struct dmabridge_region *region, struct dmabridge_run *run)
{
	void *addr = pci_alloc_p2pmem(region->pdev, run->length);

	if (!addr)
		return -ENOSPC;
	run->page = virt_to_page(addr);
	run->phys = page_to_phys(run->page);
	if (!is_in_region(region, run)) {
		dev_warn_once(&region->pdev->dev, "P2P memory outside the region %s\n",
			      region->name);
		pci_free_p2pmem(region->pdev, addr, run->length);
		return -ENOSPC;
	}
	own_pages(run->page, run->length);
	return 0;
}

static u64 pages_give(struct dmabridge_region *region, const struct dmabridge_run *run)
{
	dmabridge_put_pages(run->page, run->length);
	return run->length;
}

/* p2pdma's own teardown waits for pages that are pinned. */
static bool pages_close(struct dmabridge_region *region)
{
	return true;
}

static void pages_free(struct dmabridge_region *region)
{
}

static const struct dmabridge_memory_ops bar_with_pages = {
	.open = pages_open,
	.take = pages_take,
	.give = pages_give,
	.close = pages_close,
	.free = pages_free,
};

/* --- without pages ----------------------------------------------------------------- */

static int plain_open(struct dmabridge_region *region)
{
	int ret;

	ret = pcim_p2pdma_init(region->pdev);
	if (!ret)
		ret = find_provider(region);
	if (!ret)
		ret = dmabridge_pool_create(region);
	if (ret)
		return ret;
	/* The CPU's way to clear and to copy. User mappings take its attribute over. */
	region->io = ioremap_wc(region->start, region->size);
	return region->io ? 0 : -ENOMEM;
}

/* Nobody clears, copies or bounces any more, and no user mapping is left. */
static bool plain_close(struct dmabridge_region *region)
{
	if (region->io)
		iounmap(region->io);
	region->io = NULL;
	return true;
}

static const struct dmabridge_memory_ops bar_without_pages = {
	.open = plain_open,
	.take = dmabridge_pool_take,
	.give = dmabridge_pool_give,
	.close = plain_close,
	.free = dmabridge_pool_destroy,
};

/* --- registration -------------------------------------------------------------------- */

static int check_range(struct pci_dev *pdev, const struct dmabridge_bar_desc *desc, u64 *size)
{
	u64 align = desc->no_pages ? PAGE_SIZE : PAGES_ALIGN;
	u64 length, end;

	if (desc->bar < 0 || desc->bar >= PCI_STD_NUM_BARS ||
	    !(pci_resource_flags(pdev, desc->bar) & IORESOURCE_MEM))
		return -EINVAL;
	length = pci_resource_len(pdev, desc->bar);
	if (desc->offset >= length)
		return -EINVAL;
	*size = desc->size ?: length - desc->offset;
	if (check_add_overflow(desc->offset, *size, &end) || end > length)
		return -EINVAL;
	if (!IS_ALIGNED(pci_resource_start(pdev, desc->bar) + desc->offset, align) ||
	    !IS_ALIGNED(*size, align))
		return -EINVAL;
	return 0;
}

struct dmabridge_region *dmabridge_register_bar(struct pci_dev *pdev,
						const struct dmabridge_bar_desc *desc)
{
	struct dmabridge_region *region;
	char suffix[8];
	u64 size;
	int ret;

	/* User mappings of a BAR with pages rely on x86's range registers; see mmap.c. */
	if (!IS_ENABLED(CONFIG_X86_64))
		return ERR_PTR(-EOPNOTSUPP);
	ret = check_range(pdev, desc, &size);
	if (ret)
		return ERR_PTR(ret);
	snprintf(suffix, sizeof(suffix), "bar%d", desc->bar);
	region = dmabridge_region_alloc(&pdev->dev, &desc->region, suffix);
	if (IS_ERR(region))
		return region;
	region->kind = DMABRIDGE_REGION_BAR;
	region->memory = desc->no_pages ? &bar_without_pages : &bar_with_pages;
	region->has_pages = !desc->no_pages;
	region->bar = desc->bar;
	region->start = pci_resource_start(pdev, desc->bar) + desc->offset;
	region->in_bar = region->start;
	region->size = size;
	return dmabridge_region_register(region);
}
EXPORT_SYMBOL_GPL(dmabridge_register_bar);

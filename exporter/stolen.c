// SPDX-License-Identifier: GPL-2.0-only
/*
 * Regions of stolen memory: system RAM that the platform keeps for a device. The
 * kernel gets pages for it (MEMORY_DEVICE_GENERIC), so that everybody uses it as
 * RAM: cached, mapped, pinned.
 *
 * Pins. The core takes such pages for idle at a count of 1, tells nobody when the
 * last pin goes, and memunmap_pages() does not wait for pins. So a page that comes
 * back with a higher count is not handed out again before it is down to 1, and
 * the pages of a region that ends stay until all are: quarantine. By then no user
 * mapping is left by which new pins could be had: moves, revokes and releases
 * take mappings away before memory comes back here. That of a revoked buffer comes
 * back with its release if I/O on it would not end before (placement.c).
 *
 * Who looks. Nobody tells, so a work looks now and then, while there is anything
 * in quarantine. It holds this module, and the region through the registry's
 * reference.
 */
#include <linux/bitmap.h>
#include <linux/cc_platform.h>
#include <linux/genalloc.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "internal.h"

#define PAGES_ALIGN	SZ_2M		/* memory hot-plug's subsection */
#define LOOK_AGAIN	(HZ / 5)

struct dmabridge_stolen {
	struct dmabridge_region *region;
	struct dev_pagemap pagemap;
	bool mapped;			/* the pagemap is in use */
	bool closing;			/* lock */
	struct mutex lock;		/* innermost */
	unsigned long *pinned;		/* by page: given back, but pinned; lock */
	u64 nr_pinned;			/* lock */
	struct delayed_work look;
};

/* Waited for at module exit: a work that drops the last reference is still ours. */
static struct workqueue_struct *looks;

static void look_later(struct dmabridge_stolen *stolen)
{
	queue_delayed_work(looks, &stolen->look, LOOK_AGAIN);
}

static bool is_idle(const struct page *page)
{
	return page_count(page) == 1;
}

/* Pages whose last pin went can be handed out. */
static void reclaim(struct dmabridge_stolen *stolen)
{
	struct dmabridge_region *region = stolen->region;
	unsigned long nr = region->size >> PAGE_SHIFT;
	unsigned long i;

	lockdep_assert_held(&stolen->lock);
	if (!stolen->nr_pinned)
		return;
	for_each_set_bit(i, stolen->pinned, nr) {
		phys_addr_t phys = region->start + ((phys_addr_t)i << PAGE_SHIFT);

		if (!is_idle(phys_to_page(phys)))
			continue;
		clear_bit(i, stolen->pinned);
		stolen->nr_pinned--;
		gen_pool_free(region->pool, phys, PAGE_SIZE);
		dmabridge_region_uncharge(region, PAGE_SIZE);
	}
}

/* Whether nobody has any of the region's memory any more. */
static bool is_unused(struct dmabridge_stolen *stolen)
{
	lockdep_assert_held(&stolen->lock);
	/* It was never opened all the way. */
	if (!stolen->mapped)
		return true;
	reclaim(stolen);
	return gen_pool_avail(stolen->region->pool) == stolen->region->size;
}

/*
 * Without the lock: unmapping takes locks of memory hot-plug. Nobody takes memory
 * or gives it back once a revoked region is unused.
 */
static void unmap(struct dmabridge_stolen *stolen)
{
	if (!stolen->mapped)
		return;
	memunmap_pages(&stolen->pagemap);
	release_mem_region(stolen->region->start, stolen->region->size);
	stolen->mapped = false;
}

static void look(struct work_struct *work)
{
	struct dmabridge_stolen *stolen = container_of(to_delayed_work(work),
						       struct dmabridge_stolen, look);
	struct dmabridge_region *region = stolen->region;
	bool again, gone = false;

	mutex_lock(&stolen->lock);
	reclaim(stolen);
	if (stolen->closing)
		gone = is_unused(stolen);
	again = stolen->closing ? !gone : stolen->nr_pinned;
	mutex_unlock(&stolen->lock);
	if (again)
		look_later(stolen);
	if (gone) {
		/* Queued by who gave back the last while this waited for the lock. */
		cancel_delayed_work(&stolen->look);
		unmap(stolen);
		dev_info(region->dev.parent, "%s: nobody uses its memory any more\n",
			 region->name);
		dmabridge_region_forget(region);
		module_put(THIS_MODULE);
	}
}

static int stolen_open(struct dmabridge_region *region)
{
	struct dmabridge_stolen *stolen = region->stolen;
	void *addr;
	int ret;

	stolen->pinned = bitmap_zalloc(region->size >> PAGE_SHIFT, GFP_KERNEL);
	if (!stolen->pinned)
		return -ENOMEM;
	ret = dmabridge_pool_create(region);
	if (ret)
		return ret;
	stolen->pagemap.type = MEMORY_DEVICE_GENERIC;
	stolen->pagemap.nr_range = 1;
	stolen->pagemap.range.start = region->start;
	stolen->pagemap.range.end = region->start + region->size - 1;
	/* Not somebody's device memory, nor of another pagemap. */
	if (!request_mem_region(region->start, region->size, region->name))
		return -EBUSY;
	addr = memremap_pages(&stolen->pagemap, dev_to_node(region->dev.parent));
	if (IS_ERR(addr)) {
		release_mem_region(region->start, region->size);
		return PTR_ERR(addr);
	}
	stolen->mapped = true;
	return 0;
}

static int stolen_take(struct dmabridge_region *region, struct dmabridge_run *run)
{
	struct dmabridge_stolen *stolen = region->stolen;
	int ret;

	ret = dmabridge_pool_take(region, run);
	if (ret) {
		mutex_lock(&stolen->lock);
		reclaim(stolen);
		mutex_unlock(&stolen->lock);
		ret = dmabridge_pool_take(region, run);
	}
	return ret;
}

/* The pages [@from, @to) of @run are idle. */
static void give_pages(struct dmabridge_region *region, const struct dmabridge_run *run,
		       unsigned long from, unsigned long to)
{
	if (to > from)
		gen_pool_free(region->pool, run->phys + ((phys_addr_t)from << PAGE_SHIFT),
			      (to - from) << PAGE_SHIFT);
}

static u64 stolen_give(struct dmabridge_region *region, const struct dmabridge_run *run)
{
	struct dmabridge_stolen *stolen = region->stolen;
	unsigned long first = (run->phys - region->start) >> PAGE_SHIFT;
	unsigned long nr = run->length >> PAGE_SHIFT;
	unsigned long idle = 0, kept = 0, i;

	mutex_lock(&stolen->lock);
	for (i = 0; i < nr; i++) {
		if (is_idle(run->page + i))
			continue;
		give_pages(region, run, idle, i);
		idle = i + 1;
		set_bit(first + i, stolen->pinned);
		kept++;
	}
	give_pages(region, run, idle, nr);
	stolen->nr_pinned += kept;
	if (stolen->nr_pinned)
		look_later(stolen);
	mutex_unlock(&stolen->lock);
	return (u64)(nr - kept) << PAGE_SHIFT;
}

static bool stolen_close(struct dmabridge_region *region)
{
	struct dmabridge_stolen *stolen = region->stolen;
	bool gone;

	mutex_lock(&stolen->lock);
	gone = is_unused(stolen);
	if (!gone) {
		stolen->closing = true;
		/* We were called from a module that depends on this one. */
		__module_get(THIS_MODULE);
		dev_warn(region->dev.parent,
			 "%s: memory that is pinned or mapped stays in quarantine until it is let go of: %llu bytes\n",
			 region->name, region->size - gen_pool_avail(region->pool));
		look_later(stolen);
	}
	mutex_unlock(&stolen->lock);
	/* Nothing is given back any more, so that nobody queues it again. */
	if (gone) {
		cancel_delayed_work_sync(&stolen->look);
		unmap(stolen);
	}
	return gone;
}

static void stolen_free(struct dmabridge_region *region)
{
	struct dmabridge_stolen *stolen = region->stolen;

	dmabridge_pool_destroy(region);
	bitmap_free(stolen->pinned);
	mutex_destroy(&stolen->lock);
	kfree(stolen);
}

static const struct dmabridge_memory_ops stolen_memory = {
	.open = stolen_open,
	.take = stolen_take,
	.give = stolen_give,
	.close = stolen_close,
	.free = stolen_free,
};

u64 dmabridge_stolen_quarantined(struct dmabridge_region *region)
{
	struct dmabridge_stolen *stolen = region->stolen;
	u64 bytes;

	mutex_lock(&stolen->lock);
	bytes = stolen->closing ? region->size - gen_pool_avail(region->pool) :
				  stolen->nr_pinned << PAGE_SHIFT;
	mutex_unlock(&stolen->lock);
	return bytes;
}

/* --- registration -------------------------------------------------------------------- */

static int check_stolen(struct pci_dev *pdev, const struct dmabridge_stolen_desc *desc)
{
	u64 end;

	if (desc->bar < 0 || desc->bar >= PCI_STD_NUM_BARS ||
	    !(pci_resource_flags(pdev, desc->bar) & IORESOURCE_MEM))
		return -EINVAL;
	if (!desc->size || check_add_overflow(desc->bar_offset, desc->size, &end) ||
	    end > pci_resource_len(pdev, desc->bar))
		return -EINVAL;
	if (!IS_ALIGNED(desc->start, PAGES_ALIGN) || !IS_ALIGNED(desc->size, PAGES_ALIGN) ||
	    check_add_overflow(desc->start, desc->size, &end))
		return -EINVAL;
	/* Encrypted RAM reads differently through the BAR. */
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		return -EOPNOTSUPP;
	if (region_intersects(desc->start, desc->size, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return -EINVAL;
	return 0;
}

struct dmabridge_region *dmabridge_register_stolen(struct pci_dev *pdev,
						   const struct dmabridge_stolen_desc *desc)
{
	struct dmabridge_region *region;
	struct dmabridge_stolen *stolen;
	int ret;

	if (!desc->cpu_reachable || !desc->dma_reachable || !desc->coherent) {
		const struct dmabridge_bar_desc bar = {
			.region = desc->region,
			.bar = desc->bar,
			.offset = desc->bar_offset,
			.size = desc->size,
		};

		return dmabridge_register_bar(pdev, &bar);
	}
	ret = check_stolen(pdev, desc);
	if (ret)
		return ERR_PTR(ret);
	stolen = kzalloc_obj(*stolen);
	if (!stolen)
		return ERR_PTR(-ENOMEM);
	region = dmabridge_region_alloc(&pdev->dev, &desc->region, "stolen");
	if (IS_ERR(region)) {
		kfree(stolen);
		return region;
	}
	stolen->region = region;
	mutex_init(&stolen->lock);
	INIT_DELAYED_WORK(&stolen->look, look);
	region->kind = DMABRIDGE_REGION_STOLEN;
	region->memory = &stolen_memory;
	region->stolen = stolen;
	region->has_pages = true;
	region->bar = desc->bar;
	region->start = desc->start;
	region->in_bar = pci_resource_start(pdev, desc->bar) + desc->bar_offset;
	region->size = desc->size;
	return dmabridge_region_register(region);
}
EXPORT_SYMBOL_GPL(dmabridge_register_stolen);

int dmabridge_stolen_init(void)
{
	looks = alloc_workqueue("dmabridge_stolen", WQ_UNBOUND, 0);
	return looks ? 0 : -ENOMEM;
}

void dmabridge_stolen_exit(void)
{
	destroy_workqueue(looks);
}

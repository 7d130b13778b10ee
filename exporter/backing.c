// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory behind a buffer: runs of its region's device memory (bar.c,
 * stolen.c), or of system memory.
 */
#include <linux/io.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

#define CLEAR_STEP	SZ_1M		/* bytes between looks at signals */
#define MAX_SYSTEM_ORDER	PMD_ORDER	/* one TLB entry, and few runs */

/* Append @run, whose start follows from what is there. */
static int add_run(struct dmabridge_backing *backing, const struct dmabridge_run *run)
{
	struct dmabridge_run *runs;
	u32 nr = backing->nr_runs;

	/* Grows by powers of two: that many runs fit when nr is one. */
	if (!nr || is_power_of_2(nr)) {
		runs = kvrealloc(backing->runs, array_size(nr ? nr * 2 : 1, sizeof(*runs)),
				 GFP_KERNEL_ACCOUNT);
		if (!runs)
			return -ENOMEM;
		backing->runs = runs;
	}
	backing->runs[nr] = *run;
	backing->runs[nr].start = backing->size;
	backing->nr_runs++;
	backing->size += run->length;
	return 0;
}

void *dmabridge_run_address(const struct dmabridge_backing *backing,
			    const struct dmabridge_run *run)
{
	const struct dmabridge_region *region = backing->region;

	if (run->page)
		return page_address(run->page);
	return (void __force *)region->io + (run->phys - region->start);
}

void dmabridge_put_pages(struct page *page, u64 length)
{
	u64 i;

	for (i = 0; i < length >> PAGE_SHIFT; i++) {
		put_page(page + i);
		if (!(i % 1024))
			cond_resched();
	}
}

/* Nobody clears what is handed out, and its last owner may be anyone. */
static int clear_run(const struct dmabridge_backing *backing, const struct dmabridge_run *run)
{
	void *addr = dmabridge_run_address(backing, run);
	u64 done;

	for (done = 0; done < run->length; done += CLEAR_STEP) {
		u64 length = min_t(u64, CLEAR_STEP, run->length - done);

		if (fatal_signal_pending(current))
			return -EINTR;
		if (dmabridge_backing_is_io(backing))
			memset_io((void __iomem *)addr + done, 0, length);
		else
			memset(addr + done, 0, length);
		cond_resched();
	}
	return 0;
}

static int alloc_device(struct dmabridge_backing *backing, u64 size)
{
	struct dmabridge_region *region = backing->region;
	u64 left = size, step = size;
	int ret;

	while (left) {
		struct dmabridge_run run;

		step = min(step, left);
		run = (struct dmabridge_run){ .length = step };
		ret = region->memory->take(region, &run);
		if (ret) {
			/* Fragmented: several smaller runs will do. */
			if (ret != -ENOSPC || step == PAGE_SIZE)
				return ret;
			step = PAGE_ALIGN(step / 2);
			continue;
		}
		ret = add_run(backing, &run);
		if (ret) {
			region->memory->give(region, &run);
			return ret;
		}
		ret = clear_run(backing, &run);
		if (ret)
			return ret;
		left -= step;
	}
	return 0;
}

static int alloc_system(struct dmabridge_backing *backing, u64 size)
{
	unsigned int order = MAX_SYSTEM_ORDER;
	u64 left = size;
	int ret;

	while (left) {
		gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
		struct page *page;

		while (order && (PAGE_SIZE << order) > left)
			order--;
		/* Rather fail than kill somebody: the buffer is well where it is. */
		gfp |= order ? __GFP_NORETRY : __GFP_RETRY_MAYFAIL;
		if (fatal_signal_pending(current))
			return -EINTR;
		page = alloc_pages(gfp, order);
		if (!page) {
			if (!order)
				return -ENOMEM;
			order--;
			continue;
		}
		/* User mappings and pins count each page for itself. */
		split_page(page, order);
		ret = add_run(backing, &(struct dmabridge_run){
			.length = PAGE_SIZE << order,
			.phys = page_to_phys(page),
			.page = page,
		});
		if (ret) {
			dmabridge_put_pages(page, PAGE_SIZE << order);
			return ret;
		}
		left -= PAGE_SIZE << order;
	}
	return 0;
}

static bool on_device(const struct dmabridge_backing *backing)
{
	return backing->placement == DMABRIDGE_PLACEMENT_DEVICE;
}

/* A limit is on device memory. A region that has none limits what it has. */
static bool is_charged(const struct dmabridge_backing *backing)
{
	return on_device(backing) || !backing->region->memory;
}

static void backing_release(struct kref *ref)
{
	struct dmabridge_backing *backing = container_of(ref, struct dmabridge_backing, ref);
	struct dmabridge_region *region = backing->region;
	u64 given = 0;
	u32 i;

	for (i = 0; i < backing->nr_runs; i++) {
		const struct dmabridge_run *run = &backing->runs[i];

		if (on_device(backing)) {
			given += region->memory->give(region, run);
		} else {
			dmabridge_put_pages(run->page, run->length);
			given += run->length;
		}
	}
	if (is_charged(backing))
		dmabridge_region_uncharge(region, given);
	kvfree(backing->runs);
	put_device(&region->dev);
	kfree(backing);
}

void dmabridge_backing_put(struct dmabridge_backing *backing)
{
	kref_put(&backing->ref, backing_release);
}

static int alloc_memory(struct dmabridge_backing *backing, u64 size, struct mem_cgroup *memcg)
{
	struct mem_cgroup *old;
	int ret;

	if (on_device(backing))
		return alloc_device(backing, size);
	old = set_active_memcg(memcg);
	ret = alloc_system(backing, size);
	set_active_memcg(old);
	return ret;
}

struct dmabridge_backing *dmabridge_backing_alloc(struct dmabridge_region *region, u32 placement,
						  u64 size, struct mem_cgroup *memcg)
{
	struct dmabridge_backing *backing;
	int ret;

	if (placement == DMABRIDGE_PLACEMENT_DEVICE && !region->memory)
		return ERR_PTR(-ENOSPC);
	backing = kzalloc_obj(*backing);
	if (!backing)
		return ERR_PTR(-ENOMEM);
	kref_init(&backing->ref);
	backing->placement = placement;
	backing->region = region;
	ret = is_charged(backing) ? dmabridge_region_charge(region, size) : 0;
	if (ret) {
		kfree(backing);
		return ERR_PTR(ret);
	}
	get_device(&region->dev);
	ret = alloc_memory(backing, size, memcg);
	if (!ret)
		return backing;
	/* backing_release() uncharges backing->size at most, which falls short. */
	if (is_charged(backing))
		dmabridge_region_uncharge(region, size - backing->size);
	dmabridge_backing_put(backing);
	return ERR_PTR(ret);
}

const struct dmabridge_run *dmabridge_backing_find(const struct dmabridge_backing *backing,
						   u64 offset)
{
	u32 low = 0, high = backing->nr_runs - 1;

	while (low < high) {
		u32 middle = low + (high - low + 1) / 2;

		if (backing->runs[middle].start <= offset)
			low = middle;
		else
			high = middle - 1;
	}
	return &backing->runs[low];
}

u64 dmabridge_backing_pins(const struct dmabridge_backing *backing)
{
	u64 pins = 0, i;
	u32 run;

	for (run = 0; run < backing->nr_runs; run++) {
		const struct page *page = backing->runs[run].page;

		/* What has no pages cannot be pinned. */
		if (!page)
			continue;
		for (i = 0; i < backing->runs[run].length >> PAGE_SHIFT; i++)
			pins += page_count(page + i) > 1;
	}
	return pins;
}

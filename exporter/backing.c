// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pages behind a buffer: a device's P2PDMA pages, or system memory.
 *
 * References of P2PDMA pages (7.2): the pool hands them out with a count of 0
 * and one reference on the pagemap per allocation; the last put_page() returns
 * one page to the pool and drops one pagemap reference. So each page gets a
 * count of 1 here and each page but an allocation's first one more pagemap
 * reference; from then on they are freed by put_page() alone, one by one, never
 * by pci_free_p2pmem(). That is what lets pins through user mappings outlive the
 * buffer.
 */
#include <linux/io.h>
#include <linux/memcontrol.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pci-p2pdma.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

#define COPY_STEP	SZ_64K		/* bytes between looks at signals */
#define MAX_SYSTEM_ORDER	PMD_ORDER	/* one TLB entry, and few runs */

static int add_run(struct dmabridge_backing *backing, struct page *page, u64 length)
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
	backing->runs[nr] = (struct dmabridge_run){
		.start = backing->size,
		.length = length,
		.page = page,
	};
	backing->nr_runs++;
	backing->size += length;
	return 0;
}

static void free_run_pages(struct page *page, u64 length)
{
	u64 i;

	for (i = 0; i < length >> PAGE_SHIFT; i++) {
		put_page(page + i);
		if (!(i % 1024))
			cond_resched();
	}
}

static void own_p2p_pages(struct page *page, u64 length)
{
	struct percpu_ref *ref = &page_pgmap(page)->ref;
	unsigned long nr = length >> PAGE_SHIFT;
	unsigned long i;

	for (i = 0; i < nr; i++)
		set_page_count(page + i, 1);
	percpu_ref_get_many(ref, nr - 1);
}

/* The pool does not clear what it hands out, and its last owner may be anyone. */
static int clear_device(void *addr, u64 length)
{
	u64 done;

	for (done = 0; done < length; done += SZ_1M) {
		if (fatal_signal_pending(current))
			return -EINTR;
		memset_io((void __iomem *)addr + done, 0, min_t(u64, SZ_1M, length - done));
		cond_resched();
	}
	return 0;
}

/* Whether the pool gave what is the region's: its driver may have filled in more. */
static bool is_in_region(const struct dmabridge_region *region, void *addr, u64 length)
{
	phys_addr_t start = page_to_phys(virt_to_page(addr));

	return start >= region->start && start + length <= region->start + region->size;
}

static int alloc_device(struct dmabridge_backing *backing, u64 size)
{
	struct pci_dev *pdev = backing->region->pdev;
	u64 left = size, step = size;
	int ret;

	while (left) {
		void *addr;

		step = min(step, left);
		addr = pci_alloc_p2pmem(pdev, step);
		if (!addr) {
			/* Fragmented: several smaller runs will do. */
			if (step == PAGE_SIZE)
				return -ENOSPC;
			step = PAGE_ALIGN(step / 2);
			continue;
		}
		if (!is_in_region(backing->region, addr, step)) {
			dev_warn_once(&pdev->dev, "P2P memory outside the region %s\n",
				      backing->region->name);
			pci_free_p2pmem(pdev, addr, step);
			return -ENOSPC;
		}
		own_p2p_pages(virt_to_page(addr), step);
		ret = add_run(backing, virt_to_page(addr), step);
		if (ret) {
			free_run_pages(virt_to_page(addr), step);
			return ret;
		}
		ret = clear_device(addr, step);
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
		ret = add_run(backing, page, PAGE_SIZE << order);
		if (ret) {
			free_run_pages(page, PAGE_SIZE << order);
			return ret;
		}
		left -= PAGE_SIZE << order;
	}
	return 0;
}

static void backing_release(struct kref *ref)
{
	struct dmabridge_backing *backing = container_of(ref, struct dmabridge_backing, ref);
	u32 i;

	for (i = 0; i < backing->nr_runs; i++)
		free_run_pages(backing->runs[i].page, backing->runs[i].length);
	if (backing->placement == DMABRIDGE_PLACEMENT_DEVICE)
		dmabridge_region_uncharge(backing->region, backing->size);
	kvfree(backing->runs);
	put_device(&backing->region->dev);
	kfree(backing);
}

void dmabridge_backing_put(struct dmabridge_backing *backing)
{
	kref_put(&backing->ref, backing_release);
}

struct dmabridge_backing *dmabridge_backing_alloc(struct dmabridge_region *region, u32 placement,
						  u64 size, struct mem_cgroup *memcg)
{
	struct dmabridge_backing *backing;
	struct mem_cgroup *old;
	int ret;

	backing = kzalloc_obj(*backing);
	if (!backing)
		return ERR_PTR(-ENOMEM);
	kref_init(&backing->ref);
	backing->placement = placement;
	backing->region = region;

	if (placement == DMABRIDGE_PLACEMENT_DEVICE) {
		ret = dmabridge_region_charge(region, size);
		if (ret) {
			kfree(backing);
			return ERR_PTR(ret);
		}
		get_device(&region->dev);
		ret = alloc_device(backing, size);
		/* backing_release() uncharges backing->size, which falls short then. */
		if (ret)
			dmabridge_region_uncharge(region, size - backing->size);
	} else {
		get_device(&region->dev);
		old = set_active_memcg(memcg);
		ret = alloc_system(backing, size);
		set_active_memcg(old);
	}
	if (ret) {
		dmabridge_backing_put(backing);
		return ERR_PTR(ret);
	}
	return backing;
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

	for (run = 0; run < backing->nr_runs; run++)
		for (i = 0; i < backing->runs[run].length >> PAGE_SHIFT; i++)
			pins += page_count(backing->runs[run].page + i) - 1;
	return pins;
}

static void copy_step(const struct dmabridge_backing *to, const struct dmabridge_backing *from,
		      void *dst, void *src, size_t length)
{
	if (to->placement == DMABRIDGE_PLACEMENT_DEVICE)
		memcpy_toio((void __iomem *)dst, src, length);
	else if (from->placement == DMABRIDGE_PLACEMENT_DEVICE)
		memcpy_fromio(dst, (const void __iomem *)src, length);
	else
		memcpy(dst, src, length);
}

int dmabridge_backing_copy(const struct dmabridge_backing *to,
			   const struct dmabridge_backing *from, const bool *stop)
{
	u64 offset = 0;

	while (offset < from->size) {
		const struct dmabridge_run *src = dmabridge_backing_find(from, offset);
		const struct dmabridge_run *dst = dmabridge_backing_find(to, offset);
		u64 in_src = offset - src->start;
		u64 in_dst = offset - dst->start;
		u64 length = min3((u64)COPY_STEP, src->length - in_src, dst->length - in_dst);

		if (READ_ONCE(*stop))
			return -ENODEV;
		if (fatal_signal_pending(current))
			return -EINTR;
		copy_step(to, from, page_address(dst->page) + in_dst,
			  page_address(src->page) + in_src, length);
		offset += length;
		cond_resched();
	}
	/* Posted writes to the device are ordered before whatever follows. */
	wmb();
	/* A device that was pulled out reads as ones, without an error. */
	if (from->placement == DMABRIDGE_PLACEMENT_DEVICE &&
	    !pci_device_is_present(from->region->pdev))
		return -ENODEV;
	return 0;
}

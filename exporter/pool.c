// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device memory that is not in p2pdma's pool, handed out by pages. The pool's
 * addresses are physical ones: never 0, which genalloc takes for "none".
 */
#include <linux/genalloc.h>

#include "internal.h"

int dmabridge_pool_create(struct dmabridge_region *region)
{
	struct gen_pool *pool = gen_pool_create(PAGE_SHIFT, NUMA_NO_NODE);
	int ret;

	if (!pool)
		return -ENOMEM;
	ret = gen_pool_add(pool, region->start, region->size, NUMA_NO_NODE);
	if (ret) {
		gen_pool_destroy(pool);
		return ret;
	}
	region->pool = pool;
	return 0;
}

/* All was given back: genalloc insists on it. */
void dmabridge_pool_destroy(struct dmabridge_region *region)
{
	if (region->pool)
		gen_pool_destroy(region->pool);
}

int dmabridge_pool_take(struct dmabridge_region *region, struct dmabridge_run *run)
{
	run->phys = gen_pool_alloc(region->pool, run->length);
	if (!run->phys)
		return -ENOSPC;
	run->page = region->has_pages ? phys_to_page(run->phys) : NULL;
	return 0;
}

u64 dmabridge_pool_give(struct dmabridge_region *region, const struct dmabridge_run *run)
{
	gen_pool_free(region->pool, run->phys, run->length);
	return run->length;
}

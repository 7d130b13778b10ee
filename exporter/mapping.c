// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA mappings of a buffer for its attachments, and what the CPU has to do around
 * its own accesses while they exist.
 */
#include <linux/dma-buf-mapping.h>
#include <linux/dma-mapping.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "internal.h"

/*
 * One map_dma_buf(). Keeps its backing until it is unmapped: after a move an
 * importer's old mapping stays valid for as long as it takes to let go of it.
 */
struct mapping {
	struct sg_table sgt;			/* what the importer gets */
	struct list_head node;			/* buffer->mappings, resv */
	struct dma_buf_attachment *attach;
	struct dmabridge_backing *backing;	/* referenced */
	enum dma_data_direction dir;
	u32 nr_parts;
	struct sg_table *parts[] __counted_by(nr_parts);	/* device memory: one per run */
};

/*
 * Device memory: each run is mapped by itself. With several ranges in one call
 * under an IOMMU, dma_buf_phys_vec_to_sgt() links every range at offset 0 of the
 * same IOVA span (7.2, 7.3).
 */
static int map_device_parts(struct mapping *mapping)
{
	const struct dmabridge_backing *backing = mapping->backing;
	u32 i;

	for (i = 0; i < backing->nr_runs; i++) {
		struct phys_vec range = {
			.paddr = page_to_phys(backing->runs[i].page),
			.len = backing->runs[i].length,
		};
		struct sg_table *part;

		part = dma_buf_phys_vec_to_sgt(mapping->attach, backing->region->provider, &range,
					       1, range.len, mapping->dir);
		if (IS_ERR(part))
			return PTR_ERR(part);
		mapping->nr_parts++;
		mapping->parts[i] = part;
	}
	return 0;
}

static void unmap_device(struct mapping *mapping)
{
	while (mapping->nr_parts) {
		u32 last = mapping->nr_parts - 1;
		struct sg_table *part = mapping->parts[last];

		mapping->nr_parts = last;
		dma_buf_free_sgt(mapping->attach, part, mapping->dir);
	}
}

/* The parts' DMA addresses in one table, without a CPU side, as theirs. */
static int join_parts(struct mapping *mapping)
{
	struct scatterlist *to, *from;
	unsigned int nents = 0, i;
	u32 part;
	int ret;

	for (part = 0; part < mapping->nr_parts; part++)
		nents += mapping->parts[part]->nents;
	ret = sg_alloc_table(&mapping->sgt, nents, GFP_KERNEL);
	if (ret)
		return ret;
	to = mapping->sgt.sgl;
	for (part = 0; part < mapping->nr_parts; part++) {
		for_each_sgtable_dma_sg(mapping->parts[part], from, i) {
			sg_set_page(to, NULL, 0, 0);
			sg_dma_address(to) = sg_dma_address(from);
			sg_dma_len(to) = sg_dma_len(from);
			to = sg_next(to);
		}
	}
	/* Importers must not look for pages; sg_free_table() gets it back below. */
	mapping->sgt.orig_nents = 0;
	return 0;
}

static int map_device(struct mapping *mapping)
{
	int ret;

	ret = map_device_parts(mapping);
	if (!ret)
		ret = join_parts(mapping);
	if (ret)
		unmap_device(mapping);
	return ret;
}

static int map_system(struct mapping *mapping)
{
	const struct dmabridge_backing *backing = mapping->backing;
	struct scatterlist *sg;
	unsigned int i;
	int ret;

	ret = sg_alloc_table(&mapping->sgt, backing->nr_runs, GFP_KERNEL);
	if (ret)
		return ret;
	for_each_sgtable_sg(&mapping->sgt, sg, i)
		sg_set_page(sg, backing->runs[i].page, backing->runs[i].length, 0);
	ret = dma_map_sgtable(mapping->attach->dev, &mapping->sgt, mapping->dir, 0);
	if (ret)
		sg_free_table(&mapping->sgt);
	return ret;
}

struct sg_table *dmabridge_map(struct dma_buf_attachment *attach, enum dma_data_direction dir)
{
	struct dmabridge_user_state *user = attach->priv;
	struct dmabridge_buffer *buffer = user->buffer;
	struct dmabridge_backing *backing = buffer->backing;
	struct mapping *mapping;
	bool on_device;
	int ret;

	dma_resv_assert_held(buffer->dmabuf->resv);
	if (!backing)
		return ERR_PTR(-ENODEV);
	on_device = backing->placement == DMABRIDGE_PLACEMENT_DEVICE;
	/* Attach saw to it; if it is stale by now, the importer may try again. */
	if (on_device && !user->reaches_device)
		return ERR_PTR(-EAGAIN);

	mapping = kzalloc_flex(*mapping, parts, on_device ? backing->nr_runs : 0);
	if (!mapping)
		return ERR_PTR(-ENOMEM);
	mapping->nr_parts = 0;
	mapping->attach = attach;
	mapping->dir = dir;
	mapping->backing = backing;
	ret = on_device ? map_device(mapping) : map_system(mapping);
	if (ret) {
		kfree(mapping);
		return ERR_PTR(ret);
	}
	kref_get(&backing->ref);
	list_add_tail(&mapping->node, &buffer->mappings);
	if (dir != DMA_TO_DEVICE)
		WRITE_ONCE(buffer->touched, true);
	return &mapping->sgt;
}

void dmabridge_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		     enum dma_data_direction dir)
{
	struct mapping *mapping = container_of(sgt, struct mapping, sgt);

	dma_resv_assert_held(attach->dmabuf->resv);
	list_del(&mapping->node);
	if (mapping->backing->placement == DMABRIDGE_PLACEMENT_DEVICE) {
		mapping->sgt.orig_nents = mapping->sgt.nents;
		unmap_device(mapping);
	} else {
		dma_unmap_sgtable(attach->dev, sgt, dir, 0);
	}
	sg_free_table(sgt);
	dmabridge_backing_put(mapping->backing);
	kfree(mapping);
}

/* --- CPU access ------------------------------------------------------------------ */

/*
 * System memory may be behind a bounce buffer or a cache that does not snoop.
 * Device memory is neither: it is not mapped cacheable, and never bounced.
 */
static bool needs_sync(const struct mapping *mapping)
{
	return mapping->backing->placement == DMABRIDGE_PLACEMENT_SYSTEM;
}

int dmabridge_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;
	struct mapping *mapping;
	int ret;

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	if (!buffer->backing)
		ret = -ENODEV;
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (needs_sync(mapping))
			dma_sync_sgtable_for_cpu(mapping->attach->dev, &mapping->sgt, dir);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

int dmabridge_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;
	struct mapping *mapping;
	int ret;

	/* Write-combined stores are on their way before a peer is told to read. */
	wmb();
	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (needs_sync(mapping))
			dma_sync_sgtable_for_device(mapping->attach->dev, &mapping->sgt, dir);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

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

static bool is_io(const struct mapping *mapping)
{
	return dmabridge_backing_is_io(mapping->backing);
}

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
			.paddr = backing->runs[i].phys,
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
	/* Importers must not look for pages; dmabridge_unmap() puts it back. */
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

/* What the device takes in one piece, and a bounce buffer too if it needs one. */
static u32 max_segment(struct device *dev)
{
	size_t most = min_t(size_t, dma_get_max_seg_size(dev), dma_max_mapping_size(dev));

	return max_t(size_t, PAGE_ALIGN_DOWN(most), PAGE_SIZE);
}

static int map_system(struct mapping *mapping)
{
	const struct dmabridge_backing *backing = mapping->backing;
	u32 most = max_segment(mapping->attach->dev);
	struct scatterlist *sg;
	unsigned int nents = 0;
	u32 i;
	int ret;

	for (i = 0; i < backing->nr_runs; i++)
		nents += DIV_ROUND_UP(backing->runs[i].length, most);
	ret = sg_alloc_table(&mapping->sgt, nents, GFP_KERNEL);
	if (ret)
		return ret;
	sg = mapping->sgt.sgl;
	for (i = 0; i < backing->nr_runs; i++) {
		const struct dmabridge_run *run = &backing->runs[i];
		u64 done;

		for (done = 0; done < run->length; done += most) {
			sg_set_page(sg, run->page + (done >> PAGE_SHIFT),
				    min_t(u64, most, run->length - done), 0);
			sg = sg_next(sg);
		}
	}
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
	bool io;
	int ret;

	dma_resv_assert_held(buffer->dmabuf->resv);
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE)
		return ERR_PTR(-ENODEV);
	/* Attach saw to it; if it is stale by now, the importer may try again. */
	if (buffer->placement == DMABRIDGE_PLACEMENT_DEVICE && !user->reaches_device)
		return ERR_PTR(-EAGAIN);

	io = dmabridge_backing_is_io(backing);
	mapping = kvzalloc_flex(*mapping, parts, io ? backing->nr_runs : 0);
	if (!mapping)
		return ERR_PTR(-ENOMEM);
	mapping->nr_parts = 0;
	mapping->attach = attach;
	mapping->dir = dir;
	mapping->backing = backing;
	ret = io ? map_device(mapping) : map_system(mapping);
	if (ret) {
		kvfree(mapping);
		return ERR_PTR(ret);
	}
	kref_get(&backing->ref);
	list_add_tail(&mapping->node, &buffer->mappings);
	if (io)
		WRITE_ONCE(buffer->nr_io_mappings, buffer->nr_io_mappings + 1);
	if (dir != DMA_TO_DEVICE)
		WRITE_ONCE(buffer->touched, true);
	return &mapping->sgt;
}

void dmabridge_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		     enum dma_data_direction dir)
{
	struct mapping *mapping = container_of(sgt, struct mapping, sgt);
	struct dmabridge_buffer *buffer = attach->dmabuf->priv;
	bool io = is_io(mapping);

	dma_resv_assert_held(attach->dmabuf->resv);
	list_del(&mapping->node);
	if (io) {
		mapping->sgt.orig_nents = mapping->sgt.nents;
		unmap_device(mapping);
	} else {
		dma_unmap_sgtable(attach->dev, sgt, dir, 0);
	}
	sg_free_table(sgt);
	dmabridge_backing_put(mapping->backing);
	kvfree(mapping);
	/* Last: who waits for it goes on to take the device down. */
	if (io) {
		WRITE_ONCE(buffer->nr_io_mappings, buffer->nr_io_mappings - 1);
		if (!buffer->nr_io_mappings)
			wake_up_all(&buffer->unmap_wait);
	}
}

bool dmabridge_mapped_for_good(struct dmabridge_buffer *buffer)
{
	const struct mapping *mapping;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (!dma_buf_attach_revocable(mapping->attach))
			return true;
	return false;
}

/* --- CPU access ------------------------------------------------------------------ */

/*
 * System memory may be behind a bounce buffer or a cache that does not snoop.
 * Device memory is neither: it is not mapped cacheable, and never bounced.
 */
void dmabridge_sync_for_cpu(struct dmabridge_buffer *buffer)
{
	struct mapping *mapping;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (!is_io(mapping))
			dma_sync_sgtable_for_cpu(mapping->attach->dev, &mapping->sgt,
						 mapping->dir);
}

void dmabridge_sync_for_device(struct dmabridge_buffer *buffer)
{
	struct mapping *mapping;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (!is_io(mapping))
			dma_sync_sgtable_for_device(mapping->attach->dev, &mapping->sgt,
						    mapping->dir);
}

int dmabridge_begin_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;
	int ret;

	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE)
		ret = -ENODEV;
	else
		dmabridge_sync_for_cpu(buffer);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

int dmabridge_end_cpu_access(struct dma_buf *dmabuf, enum dma_data_direction dir)
{
	struct dmabridge_buffer *buffer = dmabuf->priv;
	int ret;

	/* Write-combined stores are on their way before a peer is told to read. */
	wmb();
	ret = dma_resv_lock_interruptible(dmabuf->resv, NULL);
	if (ret)
		return ret;
	dmabridge_sync_for_device(buffer);
	dma_resv_unlock(dmabuf->resv);
	return 0;
}

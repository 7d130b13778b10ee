// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA mappings of a buffer for its attachments, and what the CPU has to do around
 * its own accesses while they exist.
 */
#include <linux/dma-buf-mapping.h>
#include <linux/dma-mapping.h>
#include <linux/iommu.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "internal.h"
#include "segment.h"

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
	struct dma_iova_state iova;		/* RAM: in use if it is linked */
	u32 nr_parts;
	struct sg_table *parts[] __counted_by(nr_parts);	/* BAR: one per run */
};

static bool is_io(const struct mapping *mapping)
{
	return dmabridge_backing_is_io(mapping->backing);
}

/* --- the table ------------------------------------------------------------------ */

/* What the device takes in one entry, and no more than @most bytes. */
static struct dmabridge_segment_limits segment_limits(struct device *dev, size_t most)
{
	return dmabridge_limit_segments(min_t(size_t, dma_get_max_seg_size(dev), most),
					dma_get_seg_boundary(dev), PAGE_SIZE);
}

static int alloc_table(struct mapping *mapping, u64 nents)
{
	if (nents > UINT_MAX)
		return -E2BIG;
	return sg_alloc_table(&mapping->sgt, nents, GFP_KERNEL);
}

/* Return: the entry after those that were filled in. */
static struct scatterlist *fill_dma(struct scatterlist *sg,
				    const struct dmabridge_segment_limits *limits,
				    dma_addr_t address, u64 length)
{
	while (length) {
		u32 bytes = dmabridge_segment_length(limits, address, length);

		sg_set_page(sg, NULL, 0, 0);
		sg_dma_address(sg) = address;
		sg_dma_len(sg) = bytes;
		address += bytes;
		length -= bytes;
		sg = sg_next(sg);
	}
	return sg;
}

/* Importers must not look for pages. */
static void hide_cpu_side(struct sg_table *sgt)
{
	sgt->orig_nents = 0;
}

/* sg_free_table() frees what the CPU's side has, and leaks the rest. */
static void show_cpu_side(struct sg_table *sgt)
{
	if (!sgt->orig_nents)
		sgt->orig_nents = sgt->nents;
}

static void free_table(struct sg_table *sgt)
{
	show_cpu_side(sgt);
	sg_free_table(sgt);
}

/* --- BARs ----------------------------------------------------------------------- */

/*
 * Each run is mapped by itself. With several ranges in one call under an IOMMU,
 * dma_buf_phys_vec_to_sgt() links every range at offset 0 of the same IOVA span
 * (7.2, 7.3).
 */
static int map_parts(struct mapping *mapping)
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

static void unmap_parts(struct mapping *mapping)
{
	while (mapping->nr_parts) {
		u32 last = mapping->nr_parts - 1;
		struct sg_table *part = mapping->parts[last];

		mapping->nr_parts = last;
		/* dma_buf_phys_vec_to_sgt() hid it, and dma_buf_free_sgt() forgets that (7.2, 7.3). */
		show_cpu_side(part);
		dma_buf_free_sgt(mapping->attach, part, mapping->dir);
	}
}

/* The parts know nothing of what the device takes in one entry. */
static int join_parts(struct mapping *mapping)
{
	const struct dmabridge_segment_limits limits = segment_limits(mapping->attach->dev,
								      SIZE_MAX);
	struct scatterlist *to, *from;
	unsigned int i;
	u64 nents = 0;
	u32 part;
	int ret;

	for (part = 0; part < mapping->nr_parts; part++)
		for_each_sgtable_dma_sg(mapping->parts[part], from, i)
			nents += dmabridge_segment_count(&limits, sg_dma_address(from),
							 sg_dma_len(from));
	ret = alloc_table(mapping, nents);
	if (ret)
		return ret;
	to = mapping->sgt.sgl;
	for (part = 0; part < mapping->nr_parts; part++)
		for_each_sgtable_dma_sg(mapping->parts[part], from, i)
			to = fill_dma(to, &limits, sg_dma_address(from), sg_dma_len(from));
	hide_cpu_side(&mapping->sgt);
	return 0;
}

static int map_io(struct mapping *mapping)
{
	int ret;

	ret = map_parts(mapping);
	if (!ret)
		ret = join_parts(mapping);
	if (ret)
		unmap_parts(mapping);
	return ret;
}

/* --- RAM ------------------------------------------------------------------------ */

/*
 * Of linked memory the DMA API keeps no record by which to sync it. So it must never
 * have to be: this makes the link fail for a device that is not coherent. Whole
 * pages are not bounced under an IOMMU, not even for an untrusted device.
 */
#define LINK_ATTRS	DMA_ATTR_REQUIRE_COHERENT

/*
 * Several importers map the same memory at once, and rightly so: whose turn it is
 * they know by fences, and the CPU's is between begin and end.
 */
#define PAGES_ATTRS	DMA_ATTR_DEBUGGING_IGNORE_CACHELINES

static int link_runs(struct mapping *mapping)
{
	const struct dmabridge_backing *backing = mapping->backing;
	const struct dmabridge_run *run = backing->runs, *end = run + backing->nr_runs;
	struct device *dev = mapping->attach->dev;
	u64 linked = 0;
	int ret;

	while (run < end) {
		phys_addr_t phys = run->phys;
		u64 length = 0;

		/* What is contiguous by chance costs one walk of the IOMMU's tables. */
		do
			length += run++->length;
		while (run < end && run->phys == phys + length);
		ret = dma_iova_link(dev, &mapping->iova, phys, linked, length, mapping->dir,
				    LINK_ATTRS);
		if (ret)
			goto destroy;
		linked += length;
	}
	ret = dma_iova_sync(dev, &mapping->iova, 0, linked);
	if (!ret)
		return 0;

destroy:
	dma_iova_destroy(dev, &mapping->iova, linked, mapping->dir, LINK_ATTRS);
	return ret;
}

/* Return: -EOPNOTSUPP: no IOMMU translates, or the device is not coherent. */
static int map_linked(struct mapping *mapping)
{
	struct device *dev = mapping->attach->dev;
	const struct dmabridge_segment_limits limits = segment_limits(dev, SIZE_MAX);
	u64 size = mapping->backing->size;
	dma_addr_t start;
	int ret;

	/* Runs are whole pages, and have to be whole pages of the IOMMU's as well. */
	if (dma_get_merge_boundary(dev) >= PAGE_SIZE ||
	    !dma_iova_try_alloc(dev, &mapping->iova, 0, size))
		return -EOPNOTSUPP;
	start = mapping->iova.addr;
	ret = alloc_table(mapping, dmabridge_segment_count(&limits, start, size));
	if (ret) {
		dma_iova_free(dev, &mapping->iova);
		goto unlinked;
	}
	ret = link_runs(mapping);
	if (ret) {
		sg_free_table(&mapping->sgt);
		goto unlinked;
	}
	fill_dma(mapping->sgt.sgl, &limits, start, size);
	hide_cpu_side(&mapping->sgt);
	return 0;

unlinked:
	mapping->iova = (struct dma_iova_state){};
	return ret;
}

/* Without IOMMU; also through a bounce buffer, if the device needs one. */
static int map_pages(struct mapping *mapping)
{
	const struct dmabridge_backing *backing = mapping->backing;
	struct device *dev = mapping->attach->dev;
	const struct dmabridge_segment_limits limits = segment_limits(dev,
								      dma_max_mapping_size(dev));
	struct scatterlist *sg;
	u64 nents = 0;
	u32 i;
	int ret;

	for (i = 0; i < backing->nr_runs; i++)
		nents += dmabridge_segment_count(&limits, backing->runs[i].phys,
						 backing->runs[i].length);
	ret = alloc_table(mapping, nents);
	if (ret)
		return ret;
	sg = mapping->sgt.sgl;
	for (i = 0; i < backing->nr_runs; i++) {
		const struct dmabridge_run *run = &backing->runs[i];
		u64 done = 0;

		while (done < run->length) {
			u32 bytes = dmabridge_segment_length(&limits, run->phys + done,
							     run->length - done);

			sg_set_page(sg, run->page + (done >> PAGE_SHIFT), bytes, 0);
			done += bytes;
			sg = sg_next(sg);
		}
	}
	ret = dma_map_sgtable(dev, &mapping->sgt, mapping->dir, PAGES_ATTRS);
	if (ret)
		sg_free_table(&mapping->sgt);
	return ret;
}

static int map_ram(struct mapping *mapping)
{
	int ret = map_linked(mapping);

	return ret == -EOPNOTSUPP ? map_pages(mapping) : ret;
}

static void unmap_ram(struct mapping *mapping)
{
	struct device *dev = mapping->attach->dev;

	if (dma_use_iova(&mapping->iova))
		dma_iova_destroy(dev, &mapping->iova, mapping->backing->size, mapping->dir,
				 LINK_ATTRS);
	else
		dma_unmap_sgtable(dev, &mapping->sgt, mapping->dir, PAGES_ATTRS);
}

/* --- map and unmap ---------------------------------------------------------------- */

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
	ret = io ? map_io(mapping) : map_ram(mapping);
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

/*
 * A lazy IOMMU domain flushes what it has cached of a mapping some time after the
 * unmap (up to 7.2 also after dma_iova_destroy() and dma_buf_free_sgt()). System
 * memory is the kernel's to risk, but a device's may be gone by then.
 */
static void flush_iommu(struct device *dev)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(dev);

	if (domain && domain->type == IOMMU_DOMAIN_DMA_FQ)
		iommu_flush_iotlb_all(domain);
}

void dmabridge_unmap(struct dma_buf_attachment *attach, struct sg_table *sgt,
		     enum dma_data_direction dir)
{
	struct mapping *mapping = container_of(sgt, struct mapping, sgt);
	struct dmabridge_buffer *buffer = attach->dmabuf->priv;
	bool io = is_io(mapping);

	dma_resv_assert_held(attach->dmabuf->resv);
	list_del(&mapping->node);
	if (io)
		unmap_parts(mapping);
	else
		unmap_ram(mapping);
	if (mapping->backing->placement == DMABRIDGE_PLACEMENT_DEVICE)
		flush_iommu(attach->dev);
	free_table(sgt);
	dmabridge_backing_put(mapping->backing);
	kvfree(mapping);
	/* Last: who waits for it goes on to take the device down. */
	if (io) {
		WRITE_ONCE(buffer->nr_io_mappings, buffer->nr_io_mappings - 1);
		if (!buffer->nr_io_mappings)
			wake_up_all(&buffer->unmap_wait);
	}
}

/* Static importers do not count: what they map is pinned by dma-buf's core. */
bool dmabridge_mapped_for_good(struct dmabridge_buffer *buffer)
{
	const struct mapping *mapping;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (mapping->attach->importer_ops && !dma_buf_attach_revocable(mapping->attach))
			return true;
	return false;
}

/* --- CPU access ------------------------------------------------------------------ */

/*
 * RAM may be behind a bounce buffer or a cache that does not snoop. But a BAR is
 * neither mapped cacheable nor bounced, and linked memory has no need of it.
 */
static bool needs_sync(struct mapping *mapping)
{
	return !is_io(mapping) && !dma_use_iova(&mapping->iova);
}

void dmabridge_sync_for_cpu(struct dmabridge_buffer *buffer)
{
	struct mapping *mapping;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (needs_sync(mapping))
			dma_sync_sgtable_for_cpu(mapping->attach->dev, &mapping->sgt,
						 mapping->dir);
}

void dmabridge_sync_for_device(struct dmabridge_buffer *buffer)
{
	struct mapping *mapping;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(mapping, &buffer->mappings, node)
		if (needs_sync(mapping))
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

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Buffers of our own, and the device's page table: where it finds each page of
 * them. dmabridge tells of every move under the buffer's dma_resv, and so no job
 * is queued at that moment, and none runs: dmabridge has waited for their fences.
 * A revoke is told while jobs run; the memory stays until they have ended.
 *
 * There are other buffers in the region: those that user space got from
 * dmabridge's own node. The device does not work on them, and does not look.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "accelerator.h"

static u64 make_pte(const struct dmabridge_location *location, u64 inside)
{
	if (location->placement == DMABRIDGE_PLACEMENT_DEVICE)
		return (location->offset + inside) | PTE_VALID;
	/* A real device would have it mapped for DMA. */
	return (u64)(uintptr_t)(page_address(location->page) + inside) | PTE_VALID | PTE_SYSTEM;
}

static void fill_table(struct accelerator_buffer *buffer)
{
	struct dmabridge_location location;
	u64 page = 0, inside;

	dma_resv_assert_held(buffer_dma_buf(buffer)->resv);
	while (page < buffer->nr_pages) {
		if (dmabridge_buffer_locate(buffer->buffer, page << PAGE_SHIFT, &location)) {
			/* Revoked. */
			WRITE_ONCE(buffer->table[page++], 0);
			continue;
		}
		for (inside = 0; inside < location.length; inside += PAGE_SIZE)
			WRITE_ONCE(buffer->table[page++], make_pte(&location, inside));
	}
	buffer->updates++;
}

void buffer_moved(void *priv, struct dmabridge_buffer *moved, u32 placement)
{
	struct accelerator *accelerator = priv;
	struct accelerator_buffer *buffer;

	mutex_lock(&accelerator->lock);
	list_for_each_entry(buffer, &accelerator->buffers, node)
		if (buffer->buffer == moved)
			fill_table(buffer);
	mutex_unlock(&accelerator->lock);
}

struct accelerator_buffer *buffer_create(struct accelerator *accelerator,
					 struct dmabridge_region *region, u64 size, u32 policy)
{
	struct dmabridge_buffer *memory;
	struct accelerator_buffer *buffer;
	struct dma_resv *resv;

	memory = dmabridge_buffer_create(region, size, policy);
	if (IS_ERR(memory))
		return ERR_CAST(memory);
	buffer = kvzalloc_flex(*buffer, table, size >> PAGE_SHIFT, GFP_KERNEL_ACCOUNT);
	if (!buffer) {
		dmabridge_buffer_put(memory);
		return ERR_PTR(-ENOMEM);
	}
	kref_init(&buffer->ref);
	buffer->nr_pages = size >> PAGE_SHIFT;
	buffer->buffer = memory;
	buffer->accelerator = accelerator;
	kref_get(&accelerator->ref);

	/* On the list first: what happens from here on we are told. */
	mutex_lock(&accelerator->lock);
	list_add_tail(&buffer->node, &accelerator->buffers);
	mutex_unlock(&accelerator->lock);
	resv = dmabridge_buffer_dma_buf(memory)->resv;
	dma_resv_lock(resv, NULL);
	fill_table(buffer);
	dma_resv_unlock(resv);
	return buffer;
}

static void buffer_free(struct kref *ref)
{
	struct accelerator_buffer *buffer = container_of(ref, struct accelerator_buffer, ref);
	struct accelerator *accelerator = buffer->accelerator;

	mutex_lock(&accelerator->lock);
	list_del(&buffer->node);
	mutex_unlock(&accelerator->lock);
	dmabridge_buffer_put(buffer->buffer);
	kvfree(buffer);
	accelerator_put(accelerator);
}

void buffer_put(struct accelerator_buffer *buffer)
{
	kref_put(&buffer->ref, buffer_free);
}

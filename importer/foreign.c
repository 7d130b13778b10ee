// SPDX-License-Identifier: GPL-2.0-only
/*
 * dma-bufs of other exporters, if they are ordinary system memory and their exporter
 * gives the kernel a mapping of it (dma-heaps, udmabuf, GEM shmem). Disks' drivers
 * get the pages behind that mapping, as for any vector of kernel memory.
 *
 * What keeps the pages: the mapping, and an attachment, which is when exporters
 * without a pin operation pin. Those with one may move a buffer under its mapping;
 * and pins are not for whoever has an fd to hand out. So these are refused. Nobody
 * revokes: to exporters who would, the attachment says that it cannot follow.
 *
 * To its exporter each command is an access by the CPU: it waits for the fences, and
 * is bracketed as such. That sleeps, and so is not done where one must not wait; the
 * other end of the bracket is closed in the submitter's context, before its CQE.
 */
#include <linux/dma-buf.h>
#include <linux/dma-resv.h>
#include <linux/highmem.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/vmalloc.h>

#include "block.h"

/* --- its pages ------------------------------------------------------------------- */

static struct page *page_at(const void *address)
{
	return is_vmalloc_addr(address) ? vmalloc_to_page(address) : virt_to_page(address);
}

/* A page that is in the linear map: whoever gets it may read it with the CPU. */
static bool is_ordinary(const void *address)
{
	struct page *page;

	if (!is_vmalloc_addr(address) && !virt_addr_valid(address))
		return false;
	page = page_at(address);
	return page && pfn_valid(page_to_pfn(page)) && !PageReserved(page) &&
	       !is_zone_device_page(page);
}

/* Some exporters map device memory as if it was none. */
static bool is_memory(const struct iosys_map *map, size_t size)
{
	size_t offset;

	if (map->is_iomem || !PAGE_ALIGNED(map->vaddr))
		return false;
	for (offset = 0; offset < size; offset += PAGE_SIZE) {
		if (!is_ordinary(map->vaddr + offset))
			return false;
		cond_resched();
	}
	return true;
}

/*
 * What a memfd's pages are given by DMA would be lost with them if they were reclaimed
 * as never written: nobody else says so of udmabuf's. Once is enough, as pages that are
 * pinned are not cleaned.
 */
static void mark_dirty(const struct iosys_map *map, size_t size)
{
	size_t offset;

	for (offset = 0; offset < size; offset += PAGE_SIZE) {
		struct page *page = page_at(map->vaddr + offset);

		if (folio_mapping(page_folio(page)))
			set_page_dirty_lock(page);
		cond_resched();
	}
}

/* --- open and close ---------------------------------------------------------------- */

/* What does not stay in place is good for as long as the dma_resv is held. */
static int map(struct dma_buf *dmabuf, struct iosys_map *map)
{
	int ret;

	dma_resv_assert_held(dmabuf->resv);
	/* It warns of exporters whose operation fails, and not of those who have none. */
	if (!dmabuf->ops->vmap)
		return -EOPNOTSUPP;
	ret = dma_buf_vmap(dmabuf, map);
	if (ret)
		return ret;
	if (!is_memory(map, dmabuf->size)) {
		dma_buf_vunmap(dmabuf, map);
		return -EREMOTEIO;
	}
	return 0;
}

/* An attach might bring it to system memory. Whose buffer is moved is not for us to say. */
static int look(struct dma_buf *dmabuf)
{
	struct iosys_map seen;
	int ret;

	if (dmabuf->ops->pin)
		return -EOPNOTSUPP;
	dma_resv_lock(dmabuf->resv, NULL);
	ret = map(dmabuf, &seen);
	if (!ret)
		dma_buf_vunmap(dmabuf, &seen);
	dma_resv_unlock(dmabuf->resv);
	return ret;
}

int foreign_open(struct block_foreign *foreign, struct dma_buf *dmabuf, bool fill)
{
	int ret;

	ret = look(dmabuf);
	if (ret)
		return ret;
	foreign->attach = dma_buf_attach(dmabuf, dmabridge_device());
	if (IS_ERR(foreign->attach))
		return PTR_ERR(foreign->attach);
	dma_resv_lock(dmabuf->resv, NULL);
	ret = map(dmabuf, &foreign->map);
	dma_resv_unlock(dmabuf->resv);
	if (ret) {
		dma_buf_detach(dmabuf, foreign->attach);
		return ret;
	}
	mutex_init(&foreign->begin_lock);
	if (fill)
		mark_dirty(&foreign->map, dmabuf->size);
	return 0;
}

void foreign_close(struct block_foreign *foreign, struct dma_buf *dmabuf)
{
	mutex_destroy(&foreign->begin_lock);
	dma_buf_vunmap_unlocked(dmabuf, &foreign->map);
	dma_buf_detach(dmabuf, foreign->attach);
}

/* --- a command -------------------------------------------------------------------- */

/* Of a cache line at an end of the range only a part is written. */
static enum dma_data_direction access_of(const struct block_command *command)
{
	return command->write ? DMA_FROM_DEVICE : DMA_BIDIRECTIONAL;
}

static enum dma_resv_usage fences_before(const struct block_command *command)
{
	return dma_resv_usage_rw(!command->write);
}

/*
 * The addresses at which caches may hold the range, where these go by virtual
 * addresses. Not invalidated after a read: what the CPU has done of it (a hole's
 * zeros, a copy from the page cache) would be lost.
 */
static void flush(const struct block_foreign *foreign, const struct block_command *command)
{
	flush_kernel_vmap_range(foreign->map.vaddr + command->buffer_offset, command->length);
}

/* Without brackets there is nothing to sleep for but fences. */
static bool has_brackets(const struct dma_buf *dmabuf)
{
	return dmabuf->ops->begin_cpu_access || dmabuf->ops->end_cpu_access;
}

static int begin_access(struct block_foreign *foreign, struct dma_buf *dmabuf,
			const struct block_command *command)
{
	int ret;

	ret = dmabridge_wait_fences(dmabuf->resv, fences_before(command), NULL);
	if (ret)
		return ret;
	/* Some exporters set themselves up at the first call, and not for two at once. */
	ret = mutex_lock_killable(&foreign->begin_lock);
	if (ret)
		return ret;
	ret = dma_buf_begin_cpu_access(dmabuf, access_of(command));
	mutex_unlock(&foreign->begin_lock);
	return ret;
}

int foreign_begin(struct block_foreign *foreign, struct dma_buf *dmabuf,
		  const struct block_command *command, bool nowait)
{
	int ret;

	if (!nowait) {
		ret = begin_access(foreign, dmabuf, command);
		if (ret)
			return ret;
	} else if (has_brackets(dmabuf) ||
		   !dma_resv_test_signaled(dmabuf->resv, fences_before(command))) {
		return -EAGAIN;
	}
	flush(foreign, command);
	return 0;
}

int foreign_end(struct block_foreign *foreign, struct dma_buf *dmabuf,
		const struct block_command *command)
{
	if (!command->write)
		flush(foreign, command);
	return dma_buf_end_cpu_access(dmabuf, access_of(command));
}

struct dmabridge_segment foreign_segment(const struct block_foreign *foreign, u64 offset,
					 size_t length)
{
	const void *start = foreign->map.vaddr + offset;
	struct page *page = page_at(start);
	unsigned int inside = offset_in_page(start);
	unsigned int nr = 1;

	while (nr * PAGE_SIZE - inside < length &&
	       page_at(start - inside + nr * PAGE_SIZE) == page + nr)
		nr++;
	return (struct dmabridge_segment){
		.page = page,
		.offset = inside,
		.length = min(length, nr * PAGE_SIZE - inside),
	};
}

struct kvec foreign_vec(const struct block_foreign *foreign, u64 offset, size_t length)
{
	return (struct kvec){
		.iov_base = foreign->map.vaddr + offset,
		.iov_len = length,
	};
}

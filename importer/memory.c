// SPDX-License-Identifier: GPL-2.0-only
/*
 * The memory of a binding: a buffer of ours, which is held in place for each I/O and
 * may move between two of them, or a dma-buf of another exporter, which foreign.c
 * keeps where it is.
 */
#include <linux/dma-buf.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "block.h"

static int open_ours(struct block_memory *memory, const struct dmabridge_user_desc *desc,
		     struct dmabridge_verdict *verdict)
{
	memory->user = dmabridge_user_add(memory->buffer, desc, verdict);
	return PTR_ERR_OR_ZERO(memory->user);
}

static int open_foreign(struct block_memory *memory, const struct dmabridge_user_desc *desc,
			struct dmabridge_verdict *verdict)
{
	int error, ret;

	error = foreign_open(&memory->foreign, memory->dmabuf, desc->write);
	if (error == -ENOMEM)
		return error;
	ret = dmabridge_foreign_judge(memory->dmabuf, error, desc, verdict);
	if (ret && !error)
		foreign_close(&memory->foreign, memory->dmabuf);
	return ret;
}

int memory_open(struct block_memory *memory, struct dma_buf *dmabuf,
		const struct dmabridge_user_desc *desc, struct dmabridge_verdict *verdict)
{
	int ret;

	memory->dmabuf = dmabuf;
	memory->buffer = dmabridge_buffer_of(dmabuf);
	ret = memory->buffer ? open_ours(memory, desc, verdict) :
			       open_foreign(memory, desc, verdict);
	if (!ret)
		get_dma_buf(dmabuf);
	return ret;
}

void memory_close(struct block_memory *memory)
{
	if (memory->buffer)
		dmabridge_user_remove(memory->user);
	else
		foreign_close(&memory->foreign, memory->dmabuf);
	dma_buf_put(memory->dmabuf);
}

/* Only a try tells, which is undone at once. Nothing is going to be written. */
static int ask_foreign(struct dma_buf *dmabuf, const struct dmabridge_user_desc *desc,
		       struct dmabridge_negotiate *arg)
{
	struct block_memory *memory __free(kfree) = kzalloc_obj(*memory);
	struct dmabridge_user_desc reader = *desc;
	int ret;

	if (!memory)
		return -ENOMEM;
	reader.write = false;
	ret = memory_open(memory, dmabuf, &reader, &arg->verdict);
	if (ret)
		return ret;
	memory_close(memory);
	arg->placement = DMABRIDGE_PLACEMENT_SYSTEM;
	return 0;
}

int memory_ask(const struct dmabridge_question *question, const struct dmabridge_user_desc *desc,
	       struct dmabridge_negotiate *arg)
{
	struct dma_buf *foreign = dmabridge_question_foreign(question);

	return foreign ? ask_foreign(foreign, desc, arg) :
			 dmabridge_user_ask(question, desc, arg);
}

u64 memory_size(const struct block_memory *memory)
{
	return memory->dmabuf->size;
}

u64 memory_generation(const struct block_memory *memory)
{
	return memory->buffer ? dmabridge_buffer_generation(memory->buffer) : 0;
}

int memory_begin(struct block_memory *memory, struct block_command *command, bool nowait)
{
	u32 route = DMABRIDGE_ROUTE_SYSTEM;
	int ret;

	if (memory->buffer)
		ret = dmabridge_io_begin(memory->user,
					 command->write ? DMA_TO_DEVICE : DMA_FROM_DEVICE,
					 nowait, &route);
	else
		ret = foreign_begin(&memory->foreign, memory->dmabuf, command, nowait);
	if (!ret)
		command->route = route;
	return ret;
}

void memory_release(struct block_memory *memory)
{
	if (memory->buffer)
		dmabridge_io_end(memory->user);
}

int memory_end(struct block_memory *memory, const struct block_command *command)
{
	return memory->buffer ? 0 : foreign_end(&memory->foreign, memory->dmabuf, command);
}

int memory_copy(struct block_memory *memory, u64 offset, struct page *page, size_t length,
		enum dma_data_direction dir)
{
	u32 route;
	int ret;

	ret = dmabridge_io_begin(memory->user, dir, false, &route);
	if (ret)
		return ret;
	ret = dmabridge_io_copy(memory->user, offset, page, length, dir);
	dmabridge_io_end(memory->user);
	return ret;
}

struct dmabridge_segment memory_segment(struct block_memory *memory, u64 offset, size_t length)
{
	return memory->buffer ? dmabridge_io_segment(memory->user, offset, length) :
				foreign_segment(&memory->foreign, offset, length);
}

struct kvec memory_vec(struct block_memory *memory, u64 offset, size_t length)
{
	struct dmabridge_segment segment;

	if (!memory->buffer)
		return foreign_vec(&memory->foreign, offset, length);
	segment = dmabridge_io_segment(memory->user, offset, length);
	return (struct kvec){
		.iov_base = page_address(segment.page) + segment.offset,
		.iov_len = segment.length,
	};
}

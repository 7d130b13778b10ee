// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies between a device and system memory: by the driver's copy engine if it
 * has one, else by the CPU, which reads a BAR slowly.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

#define CPU_STEP	SZ_64K		/* bytes between looks at signals */
#define ENGINE_STEP	SZ_2M
#define ENGINE_DEPTH	8		/* pieces in flight */

/* Where the two sides of a copy are contiguous. */
struct piece {
	const struct dmabridge_backing *to, *from;
	const struct dmabridge_run *dst, *src;
	u64 in_dst, in_src;
	u64 length;
};

static struct piece find_piece(const struct dmabridge_backing *to, u64 to_offset,
			       const struct dmabridge_backing *from, u64 from_offset, u64 length)
{
	struct piece piece = {
		.to = to,
		.from = from,
		.dst = dmabridge_backing_find(to, to_offset),
		.src = dmabridge_backing_find(from, from_offset),
	};

	piece.in_dst = to_offset - piece.dst->start;
	piece.in_src = from_offset - piece.src->start;
	piece.length = min3(length, piece.dst->length - piece.in_dst,
			    piece.src->length - piece.in_src);
	return piece;
}

/* --- by the CPU ------------------------------------------------------------------ */

static void copy_by_cpu(const struct piece *piece)
{
	void *dst = dmabridge_run_address(piece->to, piece->dst) + piece->in_dst;
	void *src = dmabridge_run_address(piece->from, piece->src) + piece->in_src;

	if (dmabridge_backing_is_io(piece->to))
		memcpy_toio((void __iomem *)dst, src, piece->length);
	else if (dmabridge_backing_is_io(piece->from))
		memcpy_fromio(dst, (const void __iomem *)src, piece->length);
	else
		memcpy(dst, src, piece->length);
}

/* --- by the device's engine ---------------------------------------------------------- */

struct engine_slot {
	struct dmabridge_copy copy;
	struct engine *engine;		/* NULL: free; engine->lock */
};

struct engine {
	spinlock_t lock;		/* innermost; taken by completions, in any context */
	wait_queue_head_t wait;
	unsigned int busy;		/* lock */
	int error;			/* of the first that failed; lock */
	struct engine_slot slots[ENGINE_DEPTH];
};

void dmabridge_copy_done(struct dmabridge_copy *copy, int error)
{
	struct engine_slot *slot = container_of(copy, struct engine_slot, copy);
	struct engine *engine = slot->engine;
	unsigned long flags;

	spin_lock_irqsave(&engine->lock, flags);
	slot->engine = NULL;
	engine->busy--;
	/* Other than what is said of signals and revokes. */
	if (error && !engine->error)
		engine->error = error == -EINTR || error == -ENODEV ? -EIO : error;
	/* Under the lock: who waits for the last one frees the engine after it. */
	wake_up(&engine->wait);
	spin_unlock_irqrestore(&engine->lock, flags);
}
EXPORT_SYMBOL_GPL(dmabridge_copy_done);

/* Engines end in bounded time by contract: not killable. */
static struct engine_slot *get_slot(struct engine *engine)
{
	struct engine_slot *slot = engine->slots;

	spin_lock_irq(&engine->lock);
	wait_event_lock_irq(engine->wait, engine->busy < ENGINE_DEPTH, engine->lock);
	while (slot->engine)
		slot++;
	slot->engine = engine;
	engine->busy++;
	spin_unlock_irq(&engine->lock);
	return slot;
}

/* Return: the first error. */
static int drain(struct engine *engine)
{
	int error;

	spin_lock_irq(&engine->lock);
	wait_event_lock_irq(engine->wait, !engine->busy, engine->lock);
	error = engine->error;
	spin_unlock_irq(&engine->lock);
	return error;
}

static void submit(struct engine *engine, const struct piece *piece)
{
	bool to_device = piece->to->placement == DMABRIDGE_PLACEMENT_DEVICE;
	const struct dmabridge_region *region = to_device ? piece->to->region :
							    piece->from->region;
	u64 in_system = to_device ? piece->in_src : piece->in_dst;
	struct engine_slot *slot = get_slot(engine);
	int ret;

	slot->copy = (struct dmabridge_copy){
		.to_device = to_device,
		.offset = (to_device ? piece->dst->phys + piece->in_dst :
				       piece->src->phys + piece->in_src) - region->start,
		.page = (to_device ? piece->src : piece->dst)->page + (in_system >> PAGE_SHIFT),
		.page_offset = offset_in_page(in_system),
		.length = piece->length,
	};
	ret = region->ops->copy(region->priv, &slot->copy);
	if (ret)
		dmabridge_copy_done(&slot->copy, ret);
}

/* --- a copy --------------------------------------------------------------------------- */

static int copy_pieces(struct engine *engine, const struct dmabridge_backing *to, u64 to_offset,
		       const struct dmabridge_backing *from, u64 from_offset, u64 length,
		       const bool *stop)
{
	u64 done = 0;

	while (done < length) {
		u64 step = min_t(u64, engine ? ENGINE_STEP : CPU_STEP, length - done);
		struct piece piece = find_piece(to, to_offset + done, from, from_offset + done,
						step);

		if (READ_ONCE(*stop))
			return -ENODEV;
		if (fatal_signal_pending(current))
			return -EINTR;
		if (engine && READ_ONCE(engine->error))
			return 0;	/* drain() tells */
		if (engine)
			submit(engine, &piece);
		else
			copy_by_cpu(&piece);
		done += piece.length;
		cond_resched();
	}
	return 0;
}

static int copy_by_engine(const struct dmabridge_backing *to, u64 to_offset,
			  const struct dmabridge_backing *from, u64 from_offset, u64 length,
			  const bool *stop)
{
	struct engine *engine = kzalloc_obj(*engine);
	int ret, error;

	if (!engine)
		return -ENOMEM;
	spin_lock_init(&engine->lock);
	init_waitqueue_head(&engine->wait);
	ret = copy_pieces(engine, to, to_offset, from, from_offset, length, stop);
	error = drain(engine);
	kfree(engine);
	return ret ?: error;
}

int dmabridge_copy_backing(const struct dmabridge_backing *to, u64 to_offset,
			   const struct dmabridge_backing *from, u64 from_offset, u64 length,
			   const bool *stop)
{
	const struct dmabridge_backing *device =
		to->placement == DMABRIDGE_PLACEMENT_DEVICE ? to : from;
	int ret;

	/* Else both are in system memory: what bounces was moved there. */
	if (device->placement == DMABRIDGE_PLACEMENT_DEVICE && device->region->has_engine)
		ret = copy_by_engine(to, to_offset, from, from_offset, length, stop);
	else
		ret = copy_pieces(NULL, to, to_offset, from, from_offset, length, stop);
	if (ret)
		return ret;
	/* Posted writes to the device are ordered before whatever follows. */
	wmb();
	/* A device that was pulled out reads as ones, without an error. */
	if (dmabridge_backing_is_io(from) && (!pci_device_is_present(from->region->pdev) ||
					      pci_channel_offline(from->region->pdev)))
		return -ENODEV;
	return 0;
}

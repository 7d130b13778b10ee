// SPDX-License-Identifier: GPL-2.0-only
/*
 * The device's copy engine, as dmabridge uses it when a buffer moves: it takes
 * pieces, copies them by itself, and says of each when it has ended. A driver
 * for real hardware maps the pages for DMA, writes a descriptor, rings a
 * doorbell, and calls dmabridge_copy_done() in the interrupt handler, or gives
 * up after a time-out: a piece must end, whatever the device does.
 *
 * Nothing is to be done about fences here: dmabridge waits for the buffer's
 * before it copies, and lets nobody have the buffer until it is done.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "accelerator.h"

struct piece {
	struct list_head node;
	struct dmabridge_copy *copy;
	int error;
};

static bool is_nth(u64 number, u32 every)
{
	return every && !(number % every);
}

int copy_engine_copy(void *priv, struct dmabridge_copy *copy)
{
	struct accelerator *accelerator = priv;
	struct copy_engine *engine = &accelerator->copy_engine;
	struct piece *piece;

	piece = kzalloc_obj(*piece);
	if (!piece)
		return -ENOMEM;
	copy->driver_data = accelerator;
	piece->copy = copy;

	spin_lock(&engine->lock);
	engine->pieces++;
	if (is_nth(engine->pieces, READ_ONCE(engine->refuse_every))) {
		spin_unlock(&engine->lock);
		kfree(piece);
		return -ENOSPC;
	}
	if (is_nth(engine->pieces, READ_ONCE(engine->fail_every)))
		piece->error = -EIO;
	engine->busy++;
	engine->most_busy = max(engine->most_busy, engine->busy);
	list_add_tail(&piece->node, &engine->queue);
	spin_unlock(&engine->lock);
	queue_work(engine->worker, &engine->work);
	return 0;
}

/* --- in place of hardware --------------------------------------------------------------- */

static void copy_bytes(const struct dmabridge_copy *copy)
{
	const struct accelerator *accelerator = copy->driver_data;
	void __iomem *device = accelerator->memory + copy->offset;
	void *system = page_address(copy->page) + copy->page_offset;

	if (copy->to_device)
		memcpy_toio(device, system, copy->length);
	else
		memcpy_fromio(system, device, copy->length);
}

static struct piece *next_piece(struct copy_engine *engine)
{
	struct piece *piece = NULL;

	spin_lock(&engine->lock);
	if (!READ_ONCE(engine->hold))
		piece = READ_ONCE(engine->last_first) ?
				list_last_entry_or_null(&engine->queue, struct piece, node) :
				list_first_entry_or_null(&engine->queue, struct piece, node);
	if (piece)
		list_del(&piece->node);
	spin_unlock(&engine->lock);
	return piece;
}

static void work(struct work_struct *work)
{
	struct copy_engine *engine = container_of(work, struct copy_engine, work);
	struct piece *piece;

	while ((piece = next_piece(engine))) {
		if (READ_ONCE(engine->delay_ms))
			msleep(READ_ONCE(engine->delay_ms));
		if (!piece->error)
			copy_bytes(piece->copy);
		spin_lock(&engine->lock);
		engine->busy--;
		spin_unlock(&engine->lock);
		/* From here on the copy is not ours. */
		dmabridge_copy_done(piece->copy, piece->error);
		kfree(piece);
		cond_resched();
	}
}

void copy_engine_hold(struct copy_engine *engine, bool hold)
{
	WRITE_ONCE(engine->hold, hold);
	if (!hold)
		queue_work(engine->worker, &engine->work);
}

int copy_engine_init(struct copy_engine *engine)
{
	spin_lock_init(&engine->lock);
	INIT_LIST_HEAD(&engine->queue);
	INIT_WORK(&engine->work, work);
	engine->worker = alloc_ordered_workqueue("accelerator-copy", 0);
	return engine->worker ? 0 : -ENOMEM;
}

void copy_engine_exit(struct copy_engine *engine)
{
	if (engine->worker)
		destroy_workqueue(engine->worker);
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a buffer's bytes are: moves between device and system memory, and the
 * revoke that ends it.
 *
 * Why nobody can touch device memory after remove(). dmabridge_unregister()
 * calls dmabridge_revoke() for every buffer. It
 *   1. sets "revoked", so that no command, attachment, mapping or fault that
 *      starts later gets at the backing;
 *   2. closes the gate and waits until our own block I/O has ended;
 *   3. under dma_resv takes the backing away, tells the importers
 *      (dma_buf_invalidate_mappings()) and waits for all fences: the first of
 *      dma-buf's two waits;
 *   4. zaps the CPU's mappings: later touches fault, and get SIGBUS;
 *   5. waits, without dma_resv, until the last importer has unmapped: the second
 *      wait. It ends, because only importers that can be told to stop were given
 *      device memory (DMABRIDGE_REASON_NOT_REVOCABLE), or else the driver chose
 *      to wait for them (take_unrevocable).
 * Pages that user space has pinned for O_DIRECT by then go back to p2pdma's pool
 * when that I/O ends; its teardown, after remove(), waits for them.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "internal.h"

/* --- the gate ------------------------------------------------------------------ */

void dmabridge_gate_released(struct percpu_ref *gate)
{
	struct dmabridge_buffer *buffer = container_of(gate, struct dmabridge_buffer, gate);

	wake_up_all(&buffer->gate_wait);
}

static void gate_open(struct dmabridge_buffer *buffer)
{
	percpu_ref_resurrect(&buffer->gate);
	wake_up_all(&buffer->gate_wait);
}

/* Return: 0: closed and drained; -EINTR: a fatal signal came, and it is open again. */
static int gate_close(struct dmabridge_buffer *buffer)
{
	int ret;

	percpu_ref_kill(&buffer->gate);
	ret = wait_event_killable(buffer->gate_wait, percpu_ref_is_zero(&buffer->gate));
	if (ret) {
		gate_open(buffer);
		return -EINTR;
	}
	return 0;
}

/* --- move ---------------------------------------------------------------------- */

static void add_reason(struct dmabridge_verdict *verdict, u32 code, u64 value)
{
	struct dmabridge_reason reason = {
		.code = code,
		.flags = DMABRIDGE_REASON_BLOCKS_MOVE,
		.value = value,
	};

	dmabridge_verdict_add(verdict, &reason);
}

static u64 count_importer_pins(struct dmabridge_buffer *buffer)
{
	struct dmabridge_user_state *user;
	u64 pins = 0;

	dma_resv_assert_held(buffer->dmabuf->resv);
	list_for_each_entry(user, &buffer->users, node)
		pins += user->nr_pins;
	return pins;
}

/*
 * Pins through user mappings, after those were zapped. A process that exits, or
 * memory management looking at pages, holds references for a moment too: give
 * them that moment.
 */
static u64 count_user_pins(const struct dmabridge_backing *backing)
{
	unsigned int tries;
	u64 pins = 0;

	for (tries = 0; tries < 5; tries++) {
		pins = dmabridge_backing_pins(backing);
		if (!pins)
			break;
		msleep(1 << tries);
	}
	return pins;
}

/* With the gate closed and dma_resv held: from @from to @to, or nothing changed. */
static int replace_backing(struct dmabridge_buffer *buffer, struct dmabridge_backing *to,
			   const struct dmabridge_reason *why, struct dmabridge_verdict *verdict)
{
	struct dmabridge_backing *from = buffer->backing;
	long waited;
	u64 pins;
	int ret;

	dma_resv_assert_held(buffer->dmabuf->resv);
	pins = count_importer_pins(buffer);
	if (pins) {
		add_reason(verdict, DMABRIDGE_REASON_PINNED_BY_IMPORTER, pins);
		return -EBUSY;
	}
	dma_buf_invalidate_mappings(buffer->dmabuf);
	unmap_mapping_range(buffer->dmabuf->file->f_mapping, 0, 0, 1);
	pins = count_user_pins(from);
	if (pins) {
		add_reason(verdict, DMABRIDGE_REASON_PINNED_BY_USER, pins);
		return -EBUSY;
	}
	waited = dma_resv_wait_timeout(buffer->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, true,
				       MAX_SCHEDULE_TIMEOUT);
	if (waited < 0) {
		add_reason(verdict, DMABRIDGE_REASON_INTERRUPTED, 0);
		return -EINTR;
	}
	/* Both backings were cleared: what nobody touched needs no copy. */
	if (READ_ONCE(buffer->touched)) {
		ret = dmabridge_backing_copy(to, from, &buffer->revoked);
		if (ret) {
			if (ret == -EINTR)
				add_reason(verdict, DMABRIDGE_REASON_INTERRUPTED, 0);
			return ret;
		}
	}
	buffer->backing = to;
	buffer->redirected = to->placement == DMABRIDGE_PLACEMENT_SYSTEM &&
			     why->code != DMABRIDGE_REASON_MOVED;
	buffer->last_move = *why;
	buffer->moves++;
	WRITE_ONCE(buffer->generation, buffer->generation + 1);
	return 0;
}

static void explain_no_memory(struct dmabridge_verdict *verdict, u32 placement, u64 size,
			      int error)
{
	if (error == -EINTR)
		add_reason(verdict, DMABRIDGE_REASON_INTERRUPTED, 0);
	else if (placement == DMABRIDGE_PLACEMENT_SYSTEM)
		add_reason(verdict, DMABRIDGE_REASON_NO_SYSTEM_MEMORY, size);
	else
		add_reason(verdict, DMABRIDGE_REASON_NO_DEVICE_MEMORY, size);
}

int dmabridge_move_locked(struct dmabridge_buffer *buffer, u32 placement,
			  const struct dmabridge_reason *why, struct dmabridge_verdict *verdict)
{
	struct dmabridge_backing *from, *to;
	int ret;

	lockdep_assert_held(&buffer->place_lock);
	from = buffer->backing;
	if (!from || READ_ONCE(buffer->revoked))
		return -ENODEV;
	if (from->placement == placement)
		return 0;

	to = dmabridge_backing_alloc(buffer->region, placement, buffer->size, buffer->memcg);
	if (IS_ERR(to)) {
		explain_no_memory(verdict, placement, buffer->size, PTR_ERR(to));
		return PTR_ERR(to);
	}
	ret = gate_close(buffer);
	if (ret) {
		add_reason(verdict, DMABRIDGE_REASON_INTERRUPTED, 0);
		dmabridge_backing_put(to);
		return ret;
	}
	dma_resv_lock(buffer->dmabuf->resv, NULL);
	ret = replace_backing(buffer, to, why, verdict);
	dma_resv_unlock(buffer->dmabuf->resv);
	gate_open(buffer);
	/* Importers that have not unmapped the old backing yet keep it. */
	dmabridge_backing_put(ret ? to : from);
	return ret;
}

int dmabridge_check_policy(const struct dmabridge_buffer *buffer, u32 placement,
			   struct dmabridge_verdict *verdict)
{
	u32 asked = placement == DMABRIDGE_PLACEMENT_SYSTEM ? DMABRIDGE_POLICY_FORBID :
							      DMABRIDGE_POLICY_REQUIRE;

	if (dmabridge_combine_policies(buffer->policy, asked))
		return 0;
	add_reason(verdict, DMABRIDGE_REASON_POLICY_CONFLICT,
		   (u64)buffer->policy << 32 | asked);
	return -EOPNOTSUPP;
}

int dmabridge_move(struct dmabridge_buffer *buffer, struct dmabridge_move *arg)
{
	bool to_system = arg->placement == DMABRIDGE_PLACEMENT_SYSTEM;
	struct dmabridge_reason why = { .code = DMABRIDGE_REASON_MOVED };
	struct dmabridge_user_state *other;
	int ret;

	ret = dmabridge_check_policy(buffer, arg->placement, &arg->verdict);
	if (ret)
		return ret;
	ret = mutex_lock_killable(&buffer->place_lock);
	if (ret)
		return ret;
	other = dmabridge_user_find(buffer, to_system ? DMABRIDGE_USER_NEEDS_DEVICE :
							DMABRIDGE_USER_NEEDS_SYSTEM);
	if (other) {
		struct dmabridge_reason reason;

		reason = dmabridge_user_reason(other, DMABRIDGE_REASON_HELD,
					       to_system ? DMABRIDGE_PLACEMENT_DEVICE :
							   DMABRIDGE_PLACEMENT_SYSTEM);
		reason.flags |= DMABRIDGE_REASON_BLOCKS_MOVE;
		dmabridge_verdict_add(&arg->verdict, &reason);
		ret = -EBUSY;
	} else {
		ret = dmabridge_move_locked(buffer, arg->placement, &why, &arg->verdict);
		/* Asked for where it already was: there it stays from now on. */
		if (!ret && to_system) {
			dma_resv_lock(buffer->dmabuf->resv, NULL);
			buffer->redirected = false;
			dma_resv_unlock(buffer->dmabuf->resv);
		}
	}
	mutex_unlock(&buffer->place_lock);
	return ret;
}

/* --- revoke -------------------------------------------------------------------- */

void dmabridge_revoke(struct dmabridge_buffer *buffer)
{
	DECLARE_COMPLETION_ONSTACK(released);
	struct dmabridge_backing *backing;

	/* A copy under way sees this and gives up the place_lock soon. */
	WRITE_ONCE(buffer->revoked, true);
	wake_up_all(&buffer->gate_wait);
	mutex_lock(&buffer->place_lock);
	percpu_ref_kill(&buffer->gate);
	wait_event(buffer->gate_wait, percpu_ref_is_zero(&buffer->gate));

	dma_resv_lock(buffer->dmabuf->resv, NULL);
	backing = buffer->backing;
	buffer->backing = NULL;
	buffer->last_move = (struct dmabridge_reason){
		.code = DMABRIDGE_REASON_REVOKED,
		.flags = DMABRIDGE_REASON_HAS_DEVICE,
		.device = dmabridge_pci_address(buffer->region->pdev),
	};
	WRITE_ONCE(buffer->generation, buffer->generation + 1);
	dma_buf_invalidate_mappings(buffer->dmabuf);
	dma_resv_wait_timeout(buffer->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, false,
			      MAX_SCHEDULE_TIMEOUT);
	dma_resv_unlock(buffer->dmabuf->resv);
	unmap_mapping_range(buffer->dmabuf->file->f_mapping, 0, 0, 1);
	mutex_unlock(&buffer->place_lock);

	/*
	 * System memory does not go away with the device: importers that cannot be
	 * told to stop may keep it for as long as they map it.
	 */
	if (backing->placement == DMABRIDGE_PLACEMENT_DEVICE) {
		backing->released = &released;
		dmabridge_backing_put(backing);
		wait_for_completion(&released);
	} else {
		dmabridge_backing_put(backing);
	}
}

// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a buffer's bytes are: moves between device and system memory, and the
 * revoke that ends it.
 *
 * Why nobody can touch a BAR after remove(). dmabridge_unregister() revokes every
 * buffer. dmabridge_revoke_begin()
 *   1. sets "revoked" and closes the gate: no I/O of our own starts any more;
 *   2. under dma_resv takes the placement away, so that later attachments,
 *      mappings and faults are refused, and tells the importers
 *      (dma_buf_invalidate_mappings());
 *   3. zaps the CPU's mappings: later touches fault, and get SIGBUS.
 * It waits for nobody's I/O: in an error recovery or a reset of several devices
 * those of the importers come back only after ours has answered. What has to be
 * over before the memory is anyone else's, dmabridge_revoke_finish() waits for,
 * without dma_resv:
 *   4. what is in flight by the gate;
 *   5. all fences: the first of dma-buf's two waits;
 *   6. the last unmap of the BAR, also of memory that a move
 *      left behind: the second wait. It ends, because only importers that can be
 *      told to stop were given device memory (DMABRIDGE_REASON_NOT_REVOCABLE), or
 *      else the driver chose to wait for them (take_unrevocable).
 * System memory does not go away with the device, so nothing waits for those who
 * use it: it stays until the buffer is released. Nor does stolen memory, which is
 * RAM: what is mapped, pinned or in use by I/O by then goes into quarantine (stolen.c).
 * Pages that user space has pinned for O_DIRECT by then go back to p2pdma's pool
 * when that I/O ends; its teardown, after remove(), waits for them.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>

#include "internal.h"
#include "trace.h"

/* --- the gate ------------------------------------------------------------------ */

void dmabridge_gate_released(struct percpu_ref *gate)
{
	struct dmabridge_buffer *buffer = container_of(gate, struct dmabridge_buffer, gate);

	wake_up_all(&buffer->gate_wait);
}

static void gate_open(struct dmabridge_buffer *buffer)
{
	/* Pairs with the read barrier in enter_gate(): the backing first. */
	smp_wmb();
	percpu_ref_resurrect(&buffer->gate);
	wake_up_all(&buffer->gate_wait);
}

/*
 * Waits for I/O, but not for ever: behind us others wait for place_lock, who cannot be
 * killed, to detach for example.
 * Return: 0: closed and drained; else it is open again, and whoever came to it goes on:
 * -EINTR: a fatal signal; -ENODEV: a revoke began, which must not wait for I/O that a
 * move waits for; -EBUSY: there is I/O that does not end.
 */
static int gate_close(struct dmabridge_buffer *buffer)
{
	long left;

	lockdep_assert_held(&buffer->place_lock);
	percpu_ref_kill(&buffer->gate);
	left = wait_event_killable_timeout(buffer->gate_wait,
					   percpu_ref_is_zero(&buffer->gate) ||
						   READ_ONCE(buffer->revoked),
					   IO_PATIENCE);
	if (left >= 0 && percpu_ref_is_zero(&buffer->gate))
		return 0;
	gate_open(buffer);
	if (left < 0)
		return -EINTR;
	return left ? -ENODEV : -EBUSY;
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

int dmabridge_place_lock(struct dmabridge_buffer *buffer, struct dmabridge_verdict *verdict)
{
	if (!mutex_lock_killable(&buffer->place_lock))
		return 0;
	add_reason(verdict, DMABRIDGE_REASON_INTERRUPTED, 0);
	return -EINTR;
}

/*
 * In slices, since dma-buf offers waits that any signal ends, or none. Fences
 * end in bounded time by contract.
 */
int dmabridge_wait_fences(struct dma_resv *resv, enum dma_resv_usage usage, const bool *stop)
{
	while (!dma_resv_wait_timeout(resv, usage, false, HZ / 10)) {
		if (fatal_signal_pending(current))
			return -EINTR;
		if (stop && READ_ONCE(*stop))
			return -ENODEV;
	}
	return 0;
}
EXPORT_SYMBOL_GPL(dmabridge_wait_fences);

/* Why a move ended early. */
static void explain_stop(struct dmabridge_verdict *verdict, int error)
{
	if (error == -EINTR)
		add_reason(verdict, DMABRIDGE_REASON_INTERRUPTED, 0);
	else if (error == -ENODEV)
		add_reason(verdict, DMABRIDGE_REASON_REVOKED, 0);
	else
		add_reason(verdict, DMABRIDGE_REASON_COPY_FAILED, -error);
}

/* Why the gate did not stay closed, and there was no move. */
static void explain_open_gate(struct dmabridge_verdict *verdict, int error)
{
	if (error == -EBUSY)
		add_reason(verdict, DMABRIDGE_REASON_IO_IN_FLIGHT, jiffies_to_msecs(IO_PATIENCE));
	else
		explain_stop(verdict, error);
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

static int check_importers(struct dmabridge_buffer *buffer, struct dmabridge_verdict *verdict)
{
	u64 pins = count_importer_pins(buffer) + dmabridge_mapped_for_good(buffer);

	if (!pins)
		return 0;
	add_reason(verdict, DMABRIDGE_REASON_PINNED_BY_IMPORTER, pins);
	return -EBUSY;
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

/* Not after the region has gone: its unregistering revokes under place_lock first. */
static void tell_driver(struct dmabridge_buffer *buffer)
{
	const struct dmabridge_region *region = buffer->region;

	lockdep_assert_held(&buffer->place_lock);
	dma_resv_assert_held(buffer->dmabuf->resv);
	if (region->ops->moved)
		region->ops->moved(region->priv, buffer, buffer->placement);
}

/* With the gate closed and dma_resv held: from @from to @to, or nothing changed. */
static int replace_backing(struct dmabridge_buffer *buffer, struct dmabridge_backing *to,
			   const struct dmabridge_reason *why, struct dmabridge_verdict *verdict)
{
	struct dmabridge_backing *from = buffer->backing;
	u64 pins;
	int ret;

	ret = check_importers(buffer, verdict);
	if (ret)
		return ret;
	dma_buf_invalidate_mappings(buffer->dmabuf);
	unmap_mapping_range(buffer->dmabuf->file->f_mapping, 0, 0, 1);
	pins = count_user_pins(from);
	if (pins) {
		add_reason(verdict, DMABRIDGE_REASON_PINNED_BY_USER, pins);
		return -EBUSY;
	}
	ret = dmabridge_wait_fences(buffer->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP,
				    &buffer->revoked);
	if (ret) {
		explain_stop(verdict, ret);
		return ret;
	}
	dmabridge_sync_for_cpu(buffer);
	/* Both backings were cleared: what nobody touched needs no copy. */
	if (READ_ONCE(buffer->touched)) {
		ret = dmabridge_copy_backing(to, 0, from, 0, buffer->size, &buffer->revoked);
		if (ret) {
			explain_stop(verdict, ret);
			return ret;
		}
	}
	buffer->backing = to;
	buffer->placement = to->placement;
	buffer->redirected = to->placement == DMABRIDGE_PLACEMENT_SYSTEM &&
			     why->code != DMABRIDGE_REASON_MOVED;
	buffer->last_move = *why;
	buffer->moves++;
	WRITE_ONCE(buffer->generation, buffer->generation + 1);
	tell_driver(buffer);
	dmabridge_watched_changed(buffer);
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

/* Neither buffer nor region are in a state that keeps it from @placement. */
static int check_state(struct dmabridge_buffer *buffer, u32 placement,
		       struct dmabridge_verdict *verdict)
{
	lockdep_assert_held(&buffer->place_lock);
	if (READ_ONCE(buffer->revoked)) {
		add_reason(verdict, DMABRIDGE_REASON_REVOKED, 0);
		return -ENODEV;
	}
	/* Whoever stops the region looks at every buffer after that, by place_lock. */
	if (placement == DMABRIDGE_PLACEMENT_DEVICE && buffer->placement != placement &&
	    READ_ONCE(buffer->region->stops)) {
		add_reason(verdict, DMABRIDGE_REASON_SUSPENDED, 0);
		return -EBUSY;
	}
	return 0;
}

static int try_move(struct dmabridge_buffer *buffer, u32 placement,
		    const struct dmabridge_reason *why, struct dmabridge_verdict *verdict)
{
	struct dmabridge_backing *from, *to;
	int ret;

	lockdep_assert_held(&buffer->place_lock);
	from = buffer->backing;
	ret = check_state(buffer, placement, verdict);
	if (ret || buffer->placement == placement)
		return ret;

	to = dmabridge_backing_alloc(buffer->region, placement, buffer->size, buffer->memcg);
	if (IS_ERR(to)) {
		explain_no_memory(verdict, placement, buffer->size, PTR_ERR(to));
		return PTR_ERR(to);
	}
	ret = gate_close(buffer);
	if (ret) {
		explain_open_gate(verdict, ret);
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

int dmabridge_move_locked(struct dmabridge_buffer *buffer, u32 placement,
			  const struct dmabridge_reason *why, struct dmabridge_verdict *verdict)
{
	u32 from = buffer->placement;
	int ret;

	ret = try_move(buffer, placement, why, verdict);
	if (ret || from != placement)
		trace_dmabridge_move(buffer, from, placement, why, verdict, ret);
	return ret;
}

int dmabridge_check_move(struct dmabridge_buffer *buffer, u32 placement,
			 struct dmabridge_verdict *verdict)
{
	int ret;

	ret = check_state(buffer, placement, verdict);
	if (ret || buffer->placement == placement)
		return ret;
	ret = dma_resv_lock_interruptible(buffer->dmabuf->resv, NULL);
	if (ret) {
		explain_stop(verdict, ret);
		return ret;
	}
	ret = check_importers(buffer, verdict);
	dma_resv_unlock(buffer->dmabuf->resv);
	return ret;
}

int dmabridge_check_request(struct dmabridge_buffer *buffer, u32 placement,
			    struct dmabridge_verdict *verdict)
{
	bool to_system = placement == DMABRIDGE_PLACEMENT_SYSTEM;
	u32 asked = to_system ? DMABRIDGE_POLICY_FORBID : DMABRIDGE_POLICY_REQUIRE;
	const struct dmabridge_user_state *other;
	struct dmabridge_reason reason;

	lockdep_assert_held(&buffer->place_lock);
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE) {
		add_reason(verdict, DMABRIDGE_REASON_REVOKED, 0);
		return -ENODEV;
	}
	if (!to_system && !buffer->region->memory) {
		add_reason(verdict, DMABRIDGE_REASON_SYSTEM_REGION, 0);
		return -EOPNOTSUPP;
	}
	if (!dmabridge_combine_policies(buffer->policy, asked)) {
		add_reason(verdict, DMABRIDGE_REASON_POLICY_CONFLICT,
			   (u64)buffer->policy << 32 | asked);
		return -EOPNOTSUPP;
	}
	other = dmabridge_user_find(buffer, to_system ? DMABRIDGE_USER_NEEDS_DEVICE :
							DMABRIDGE_USER_NEEDS_SYSTEM);
	if (!other)
		return 0;
	reason = dmabridge_user_reason(other, DMABRIDGE_REASON_HELD,
				       to_system ? DMABRIDGE_PLACEMENT_DEVICE :
						   DMABRIDGE_PLACEMENT_SYSTEM);
	reason.flags |= DMABRIDGE_REASON_BLOCKS_MOVE;
	dmabridge_verdict_add(verdict, &reason);
	return -EBUSY;
}

int dmabridge_move(struct dmabridge_buffer *buffer, struct dmabridge_move *arg)
{
	struct dmabridge_reason why = { .code = DMABRIDGE_REASON_MOVED };
	int ret;

	ret = dmabridge_place_lock(buffer, &arg->verdict);
	if (ret)
		return ret;
	ret = dmabridge_check_request(buffer, arg->placement, &arg->verdict);
	if (!ret)
		ret = dmabridge_move_locked(buffer, arg->placement, &why, &arg->verdict);
	/* Asked for where it already was: there it stays from now on. */
	if (!ret && arg->placement == DMABRIDGE_PLACEMENT_SYSTEM) {
		dma_resv_lock(buffer->dmabuf->resv, NULL);
		buffer->redirected = false;
		dma_resv_unlock(buffer->dmabuf->resv);
	}
	mutex_unlock(&buffer->place_lock);
	return ret;
}

/* --- moves by the driver -------------------------------------------------------- */

/* It decides over its device's memory: no policy and no hold is asked. */
int dmabridge_move_away(struct dmabridge_buffer *buffer, u32 code)
{
	struct dmabridge_reason why = {
		.code = code,
		.flags = DMABRIDGE_REASON_HAS_DEVICE,
		.device = dmabridge_region_address(buffer->region),
	};
	struct dmabridge_verdict verdict = {};
	int ret;

	if (mutex_lock_killable(&buffer->place_lock))
		return -EINTR;
	ret = dmabridge_move_locked(buffer, DMABRIDGE_PLACEMENT_SYSTEM, &why, &verdict);
	mutex_unlock(&buffer->place_lock);
	if (ret && ret != -ENODEV)
		dev_warn_ratelimited(buffer->region->dev.parent,
				     "cannot move a buffer of %llu bytes off the device: %s (%llu), error %d\n",
				     buffer->size, dmabridge_reason_text(verdict.reasons[0].code),
				     verdict.reasons[0].value, ret);
	return ret;
}

int dmabridge_evict(struct dmabridge_buffer *buffer)
{
	return dmabridge_move_away(buffer, DMABRIDGE_REASON_EVICTED);
}
EXPORT_SYMBOL_GPL(dmabridge_evict);

void dmabridge_move_home(struct dmabridge_buffer *buffer)
{
	mutex_lock(&buffer->place_lock);
	/* What was evicted before makes room for others still. */
	if (buffer->last_move.code != DMABRIDGE_REASON_EVICTED)
		dmabridge_go_home(buffer);
	mutex_unlock(&buffer->place_lock);
}

/* --- revoke -------------------------------------------------------------------- */

/*
 * How often a wait for others says in the log who they may be: nothing else tells why
 * remove() hangs.
 */
#define WAIT_REPORT	(5 * HZ)

static bool may_have_mapped(const struct dmabridge_user_state *user)
{
	return user->attach && user->reaches_device;
}

static bool may_do_io(const struct dmabridge_user_state *user)
{
	return user->kind == DMABRIDGE_USER_BINDING;
}

/* A few of them, and how many more: user space can make any number of bindings. */
static void report_wait(struct dmabridge_buffer *buffer, const char *what,
			bool (*may)(const struct dmabridge_user_state *user))
{
	struct dmabridge_user_state *user;

	dma_resv_lock(buffer->dmabuf->resv, NULL);
	list_for_each_entry(user, &buffer->users, node)
		if (may(user))
			dev_warn_ratelimited(buffer->region->dev.parent,
					     "still waiting for any %s a buffer by %s (%s) to end\n",
					     what, user->name, user->driver);
	dma_resv_unlock(buffer->dmabuf->resv);
}

/* The second wait of a revoke, after that for I/O. */
void dmabridge_wait_unmaps(struct dmabridge_buffer *buffer)
{
	while (!wait_event_timeout(buffer->unmap_wait, !READ_ONCE(buffer->nr_io_mappings),
				   WAIT_REPORT))
		report_wait(buffer, "mapping of", may_have_mapped);
}

void dmabridge_revoke_begin(struct dmabridge_buffer *buffer)
{
	/* A move under way sees this and gives up the place_lock soon. */
	WRITE_ONCE(buffer->revoked, true);
	wake_up_all(&buffer->gate_wait);
	mutex_lock(&buffer->place_lock);
	if (buffer->placement == DMABRIDGE_PLACEMENT_NONE)
		goto unlock;
	percpu_ref_kill(&buffer->gate);
	wake_up_all(&buffer->gate_wait);

	dma_resv_lock(buffer->dmabuf->resv, NULL);
	trace_dmabridge_revoke(buffer);
	buffer->revoked_on_device = buffer->placement == DMABRIDGE_PLACEMENT_DEVICE;
	buffer->placement = DMABRIDGE_PLACEMENT_NONE;
	buffer->last_move = (struct dmabridge_reason){
		.code = DMABRIDGE_REASON_REVOKED,
		.flags = DMABRIDGE_REASON_HAS_DEVICE,
		.device = dmabridge_region_address(buffer->region),
	};
	WRITE_ONCE(buffer->generation, buffer->generation + 1);
	tell_driver(buffer);
	dmabridge_watched_changed(buffer);
	dma_buf_invalidate_mappings(buffer->dmabuf);
	dma_resv_unlock(buffer->dmabuf->resv);
	unmap_mapping_range(buffer->dmabuf->file->f_mapping, 0, 0, 1);
unlock:
	mutex_unlock(&buffer->place_lock);
}

/*
 * Of what was on the device. I/O on a BAR is waited for until it ends, since its DMA may
 * come at any time before: it is on block devices, which end it, and on files of the file
 * systems that are listed, which can make it wait for whoever has locked the file. I/O on
 * RAM can be on one that never answers. That is no concern of the device: stolen memory
 * that is still in use at @until stays until the buffer is released, as system memory
 * does anyway. Return: whether no I/O is left.
 */
static bool drain(struct dmabridge_buffer *buffer, unsigned long until)
{
	long left = max_t(long, until - jiffies, 0);

	if (!dmabridge_region_is_io(buffer->region))
		return wait_event_timeout(buffer->gate_wait, percpu_ref_is_zero(&buffer->gate),
					  left);
	while (!wait_event_timeout(buffer->gate_wait, percpu_ref_is_zero(&buffer->gate),
				   WAIT_REPORT))
		report_wait(buffer, "I/O on", may_do_io);
	return true;
}

void dmabridge_revoke_finish(struct dmabridge_buffer *buffer, unsigned long until)
{
	bool takes_back = buffer->revoked_on_device && drain(buffer, until);
	struct dmabridge_backing *backing = NULL;

	/*
	 * Without dma_resv, which would make all others wait as well. Whoever still works
	 * on the memory was told under it, and has a fence there since.
	 */
	dma_resv_wait_timeout(buffer->dmabuf->resv, DMA_RESV_USAGE_BOOKKEEP, false,
			      MAX_SCHEDULE_TIMEOUT);
	dma_resv_lock(buffer->dmabuf->resv, NULL);
	if (takes_back)
		swap(backing, buffer->backing);
	dma_resv_unlock(buffer->dmabuf->resv);
	dmabridge_wait_unmaps(buffer);
	if (backing)
		dmabridge_backing_put(backing);
}

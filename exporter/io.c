// SPDX-License-Identifier: GPL-2.0-only
/*
 * I/O on a buffer by an importer of our own: begin, segments, end. No lock and
 * no cache line is shared between CPUs on the way.
 */
#include <linux/dma-resv.h>
#include <linux/sched/signal.h>

#include "internal.h"

/* Waits while the buffer moves. */
static int enter_gate(struct dmabridge_buffer *buffer, bool nowait)
{
	while (!percpu_ref_tryget_live(&buffer->gate)) {
		if (READ_ONCE(buffer->revoked))
			return -ENODEV;
		if (nowait)
			return -EAGAIN;
		if (wait_event_killable(buffer->gate_wait,
					!percpu_ref_is_dying(&buffer->gate) ||
						READ_ONCE(buffer->revoked)))
			return -EINTR;
	}
	/*
	 * The backing that is read from here on is the one that was in place when
	 * the gate opened: pairs with the release in percpu_ref_resurrect().
	 */
	smp_rmb();
	return 0;
}

/* Which fences on the buffer must have signalled before an access by @dir. */
static enum dma_resv_usage fences_before(enum dma_data_direction dir)
{
	return dma_resv_usage_rw(dir == DMA_FROM_DEVICE);
}

static int find_route(const struct dmabridge_user_state *user, u32 *route)
{
	/* Fixed while the gate is held, but that system memory can be revoked. */
	u32 placement = READ_ONCE(user->buffer->placement);

	if (placement == DMABRIDGE_PLACEMENT_NONE)
		return -ENODEV;
	if (placement == DMABRIDGE_PLACEMENT_SYSTEM) {
		/* A caller that insists on P2P must not get less unnoticed. */
		if (user->verdict.policy == DMABRIDGE_POLICY_REQUIRE)
			return -EREMOTEIO;
		*route = DMABRIDGE_ROUTE_SYSTEM;
		return 0;
	}
	if (user->bounces) {
		*route = DMABRIDGE_ROUTE_BOUNCE;
		return 0;
	}
	if (!user->reaches_device)
		return -EREMOTEIO;
	*route = user->path_route;
	return 0;
}

int dmabridge_io_begin(struct dmabridge_user_state *user, enum dma_data_direction dir,
		       bool nowait, u32 *route)
{
	struct dmabridge_buffer *buffer = user->buffer;
	struct dma_resv *resv = buffer->dmabuf->resv;
	int ret;

	for (;;) {
		ret = enter_gate(buffer, nowait);
		if (ret)
			return ret;
		ret = find_route(user, route);
		if (ret)
			break;
		if (likely(dma_resv_test_signaled(resv, fences_before(dir)))) {
			if (dir == DMA_FROM_DEVICE && !READ_ONCE(buffer->touched))
				WRITE_ONCE(buffer->touched, true);
			return 0;
		}
		if (nowait) {
			ret = -EAGAIN;
			break;
		}
		/* Not through the gate: a move need not wait for that fence. */
		percpu_ref_put(&buffer->gate);
		ret = dmabridge_wait_fences(resv, fences_before(dir), &buffer->revoked);
		if (ret)
			return ret;
	}
	percpu_ref_put(&buffer->gate);
	return ret;
}
EXPORT_SYMBOL_GPL(dmabridge_io_begin);

void dmabridge_io_end(struct dmabridge_user_state *user)
{
	percpu_ref_put(&user->buffer->gate);
}
EXPORT_SYMBOL_GPL(dmabridge_io_end);

struct dmabridge_segment dmabridge_io_segment(struct dmabridge_user_state *user, u64 offset,
					      size_t length)
{
	const struct dmabridge_run *run = dmabridge_backing_find(user->buffer->backing, offset);
	u64 inside = offset - run->start;

	return (struct dmabridge_segment){
		.page = run->page + (inside >> PAGE_SHIFT),
		.offset = offset_in_page(inside),
		.length = min_t(u64, length, run->length - inside),
	};
}
EXPORT_SYMBOL_GPL(dmabridge_io_segment);

int dmabridge_io_copy(struct dmabridge_user_state *user, u64 offset, struct page *page,
		      size_t length, enum dma_data_direction dir)
{
	struct dmabridge_buffer *buffer = user->buffer;
	struct dmabridge_run run = {
		.length = length,
		.phys = page_to_phys(page),
		.page = page,
	};
	const struct dmabridge_backing staging = {
		.placement = DMABRIDGE_PLACEMENT_SYSTEM,
		.nr_runs = 1,
		.size = length,
		.region = buffer->region,
		.runs = &run,
	};

	if (dir == DMA_FROM_DEVICE)
		return dmabridge_copy_backing(buffer->backing, offset, &staging, 0, length,
					      &buffer->revoked);
	return dmabridge_copy_backing(&staging, 0, buffer->backing, offset, length,
				      &buffer->revoked);
}
EXPORT_SYMBOL_GPL(dmabridge_io_copy);

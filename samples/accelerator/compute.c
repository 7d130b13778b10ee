// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the device computes: jobs on buffers, in the order in which they come.
 *
 * Fences order it all. A job has one, on the dma_resv of its buffer from the
 * moment it is queued: moves, block I/O and other drivers wait for that before
 * they touch the buffer. In turn the job waits for the fences that are there
 * when it is queued. Whoever waits for a fence may hold locks and may be the one
 * that frees memory, so between its publication and its end there is nothing that
 * could fail or wait for them: all memory is had before.
 *
 * A job reads the page table without a lock: no move comes while its fence is
 * pending. See buffer.c.
 */
#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-resv.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "accelerator.h"
#include "accelerator_ioctl.h"

struct job {
	struct list_head node;
	struct accelerator_buffer *buffer;	/* referenced */
	struct accelerator_run run;
	struct dma_fence *fence;		/* referenced; signalled at the end */
	struct dma_fence *after;		/* referenced, or NULL */
};

/* --- the fence --------------------------------------------------------------------------- */

static const char *fence_driver_name(struct dma_fence *fence)
{
	return "dmabridge_accelerator";
}

static const char *fence_timeline_name(struct dma_fence *fence)
{
	return "compute";
}

static const struct dma_fence_ops fence_ops = {
	.get_driver_name = fence_driver_name,
	.get_timeline_name = fence_timeline_name,
};

/* --- in place of hardware ---------------------------------------------------------------- */

/* Between scratch and the buffer, within a page. */
static int access_page(struct accelerator_buffer *buffer, u64 at, size_t length, bool write)
{
	struct accelerator *accelerator = buffer->accelerator;
	u64 pte = READ_ONCE(buffer->table[at >> PAGE_SHIFT]);
	u64 where = (pte & PAGE_MASK) + offset_in_page(at);
	void *scratch = accelerator->compute.scratch;

	if (!(pte & PTE_VALID))
		return -ENODEV;
	if (pte & PTE_SYSTEM && write)
		memcpy((void *)(uintptr_t)where, scratch, length);
	else if (pte & PTE_SYSTEM)
		memcpy(scratch, (const void *)(uintptr_t)where, length);
	else if (write)
		memcpy_toio(accelerator->memory + where, scratch, length);
	else
		memcpy_fromio(scratch, accelerator->memory + where, length);
	return 0;
}

static int fill_or_sum(struct job *job)
{
	struct accelerator_buffer *buffer = job->buffer;
	u64 *scratch = buffer->accelerator->compute.scratch;
	const struct accelerator_run *run = &job->run;
	bool fill = run->job == ACCELERATOR_JOB_FILL;
	u64 done, length, sum = 0, i;
	int ret = 0;

	if (fill)
		memset64(scratch, run->value, PAGE_SIZE / sizeof(*scratch));
	for (done = 0; done < run->length && !ret; done += length) {
		u64 at = run->offset + done;

		length = min_t(u64, run->length - done, PAGE_SIZE - offset_in_page(at));
		ret = access_page(buffer, at, length, fill);
		for (i = 0; !fill && i < length / sizeof(*scratch); i++)
			sum += scratch[i];
		cond_resched();
	}
	if (!ret && !fill) {
		scratch[0] = sum;
		ret = access_page(buffer, run->value, sizeof(sum), true);
	}
	return ret;
}

static struct job *next_job(struct compute *compute)
{
	struct job *job = NULL;

	spin_lock(&compute->lock);
	if (!compute->hold || compute->cancel)
		job = list_first_entry_or_null(&compute->queue, struct job, node);
	if (job)
		list_del(&job->node);
	spin_unlock(&compute->lock);
	return job;
}

static void free_job(struct job *job)
{
	dma_fence_put(job->after);
	dma_fence_put(job->fence);
	buffer_put(job->buffer);
	kfree(job);
}

static void work(struct work_struct *work)
{
	struct compute *compute = container_of(work, struct compute, work);
	struct job *job;

	while ((job = next_job(compute))) {
		int error = -ECANCELED;
		bool cookie;

		if (job->after && !READ_ONCE(compute->cancel))
			dma_fence_wait(job->after, false);
		cookie = dma_fence_begin_signalling();
		if (!READ_ONCE(compute->cancel))
			error = fill_or_sum(job);
		/* Writes have reached the device before anyone is told. */
		wmb();
		if (error)
			dma_fence_set_error(job->fence, error);
		dma_fence_signal(job->fence);
		dma_fence_end_signalling(cookie);
		free_job(job);
	}
}

/* --- the queue ------------------------------------------------------------------------------ */

static bool is_in_buffer(const struct accelerator_buffer *buffer, u64 offset, u64 length)
{
	u64 end;

	return IS_ALIGNED(offset | length, sizeof(u64)) && length &&
	       !check_add_overflow(offset, length, &end) && end <= buffer->nr_pages << PAGE_SHIFT;
}

static bool is_sound(const struct accelerator_buffer *buffer, const struct accelerator_run *run)
{
	if (!is_in_buffer(buffer, run->offset, run->length))
		return false;
	return run->job == ACCELERATOR_JOB_FILL ||
	       (run->job == ACCELERATOR_JOB_CHECKSUM &&
		is_in_buffer(buffer, run->value, sizeof(u64)));
}

/* From here on the job cannot fail. dma_resv held, with room for a fence. */
static int queue_job(struct compute *compute, struct job *job, struct dma_resv *resv)
{
	spin_lock(&compute->lock);
	if (compute->stopped) {
		spin_unlock(&compute->lock);
		return -EBUSY;
	}
	dma_fence_init(job->fence, &fence_ops, NULL, compute->context, ++compute->seqno);
	dma_resv_add_fence(resv, job->fence, DMA_RESV_USAGE_WRITE);
	list_add_tail(&job->node, &compute->queue);
	spin_unlock(&compute->lock);
	queue_work(compute->worker, &compute->work);
	return 0;
}

/* Takes the job over if it succeeds. */
static int publish(struct job *job)
{
	struct accelerator_buffer *buffer = job->buffer;
	struct dma_resv *resv = buffer_dma_buf(buffer)->resv;
	int ret;

	ret = dma_resv_lock_interruptible(resv, NULL);
	if (ret)
		return ret;
	if (!(buffer->table[0] & PTE_VALID)) {
		ret = -ENODEV;
		goto unlock;
	}
	ret = dma_resv_reserve_fences(resv, 1);
	if (!ret)
		ret = dma_resv_get_singleton(resv, dma_resv_usage_rw(true), &job->after);
	if (!ret)
		ret = queue_job(&buffer->accelerator->compute, job, resv);
unlock:
	dma_resv_unlock(resv);
	return ret;
}

int compute_run(struct accelerator_buffer *buffer, const struct accelerator_run *run)
{
	struct dma_fence *fence;
	struct job *job;
	int ret;

	if (!is_sound(buffer, run))
		return -EINVAL;
	job = kzalloc_obj(*job, GFP_KERNEL_ACCOUNT);
	fence = kzalloc_obj(*fence, GFP_KERNEL_ACCOUNT);
	if (!job || !fence) {
		kfree(fence);
		kfree(job);
		return -ENOMEM;
	}
	job->run = *run;
	job->fence = fence;
	job->buffer = buffer;
	kref_get(&buffer->ref);
	ret = publish(job);
	if (ret) {
		/* Never initialized, and so not to be put. */
		job->fence = NULL;
		kfree(fence);
		free_job(job);
	}
	return ret;
}

/* --- start and stop --------------------------------------------------------------------------- */

void compute_stop(struct compute *compute)
{
	spin_lock(&compute->lock);
	compute->stopped = true;
	spin_unlock(&compute->lock);
	queue_work(compute->worker, &compute->work);
	flush_work(&compute->work);
}

void compute_cancel(struct compute *compute)
{
	spin_lock(&compute->lock);
	compute->stopped = true;
	WRITE_ONCE(compute->cancel, true);
	spin_unlock(&compute->lock);
	queue_work(compute->worker, &compute->work);
}

void compute_start(struct compute *compute)
{
	spin_lock(&compute->lock);
	compute->stopped = false;
	WRITE_ONCE(compute->cancel, false);
	spin_unlock(&compute->lock);
}

void compute_hold(struct compute *compute, bool hold)
{
	spin_lock(&compute->lock);
	compute->hold = hold;
	spin_unlock(&compute->lock);
	queue_work(compute->worker, &compute->work);
}

int compute_init(struct compute *compute)
{
	spin_lock_init(&compute->lock);
	INIT_LIST_HEAD(&compute->queue);
	INIT_WORK(&compute->work, work);
	compute->context = dma_fence_context_alloc(1);
	compute->scratch = (u64 *)__get_free_page(GFP_KERNEL);
	if (!compute->scratch)
		return -ENOMEM;
	/* Others wait for its jobs, also those that free memory. */
	compute->worker = alloc_ordered_workqueue("accelerator-compute", WQ_MEM_RECLAIM);
	return compute->worker ? 0 : -ENOMEM;
}

void compute_exit(struct compute *compute)
{
	if (compute->worker)
		destroy_workqueue(compute->worker);
	free_page((unsigned long)compute->scratch);
}

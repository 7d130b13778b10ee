/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sample accelerator's own structures.
 *
 * Locks, outermost first:
 *
 *   accelerator.alive		rwsem: read: an ioctl runs; written once, by remove()
 *   dma_resv of a buffer
 *   accelerator.lock		mutex: the list of buffers
 *   compute.lock, copy_engine.lock	spinlocks: their queues
 */
#ifndef _ACCELERATOR_H
#define _ACCELERATOR_H

#include <linux/dma-fence.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "dmabridge_exporter.h"

struct dentry;

/* --- copy_engine.c: the device's DMA engine, for dmabridge's moves ---------------- */

struct copy_engine {
	struct workqueue_struct *worker;	/* the engine itself, in place of hardware */
	struct work_struct work;
	spinlock_t lock;			/* innermost */
	struct list_head queue;			/* lock */

	/* What tests want of it; written and read without a lock. */
	bool hold;				/* do nothing until let go */
	bool last_first;			/* end pieces in another order than they came in */
	u32 delay_ms;				/* per piece */
	u32 fail_every;				/* every nth piece ends with -EIO; 0: none */
	u32 refuse_every;			/* every nth is not taken (-ENOSPC); 0: none */
	u64 pieces;				/* lock: that were taken */
	u32 busy;				/* lock: taken, and not ended */
	u32 most_busy;				/* lock */
};

int copy_engine_init(struct copy_engine *engine);
void copy_engine_exit(struct copy_engine *engine);
void copy_engine_hold(struct copy_engine *engine, bool hold);
/* As struct dmabridge_region_ops has it; @priv is the accelerator. */
int copy_engine_copy(void *priv, struct dmabridge_copy *copy);

/* --- compute.c: the device's own work -------------------------------------------- */

struct compute {
	struct workqueue_struct *worker;
	struct work_struct work;
	spinlock_t lock;			/* innermost */
	struct list_head queue;			/* lock */
	bool stopped;				/* lock: takes no jobs */
	bool cancel;				/* lock: jobs end without being run */
	bool hold;				/* lock: for tests */
	u64 context;				/* of the fences: one timeline, as queued */
	u64 seqno;				/* lock */
	u64 *scratch;				/* one page; the worker's */
};

struct accelerator_run;
struct accelerator_buffer;

int compute_init(struct compute *compute);
void compute_exit(struct compute *compute);
int compute_run(struct accelerator_buffer *buffer, const struct accelerator_run *run);
/* No job is taken until compute_start(), and on return all have ended. */
void compute_stop(struct compute *compute);
/* No job is taken until compute_start(), and those that there are fail. Waits for nothing. */
void compute_cancel(struct compute *compute);
void compute_start(struct compute *compute);
void compute_hold(struct compute *compute, bool hold);

/* --- main.c ------------------------------------------------------------------------ */

/* One function. Lives as long as the driver is bound, files are open, and jobs run. */
struct accelerator {
	struct kref ref;
	struct pci_dev *pdev;			/* not to be used once gone */
	void __iomem *memory;			/* of the region; likewise */
	struct dmabridge_region *region;	/* likewise */
	struct dmabridge_region *system;	/* likewise; may be NULL */

	struct rw_semaphore alive;
	bool gone;				/* alive */

	struct mutex lock;			/* under dma_resv */
	struct list_head buffers;		/* lock */

	struct copy_engine copy_engine;
	struct compute compute;
	struct miscdevice node;
	char name[32];				/* of the node */
	struct dentry *knobs;
};

void accelerator_put(struct accelerator *accelerator);
int accelerator_suspend(struct accelerator *accelerator);
void accelerator_resume(struct accelerator *accelerator);
void accelerator_recover(struct accelerator *accelerator);
/* Whatever is in the device's memory is lost. */
void accelerator_lose(struct accelerator *accelerator);

/* --- buffer.c: buffers, and where the device finds their bytes ------------------------ */

/*
 * One page of a buffer in the device's page table: an offset in its memory, or an
 * address in system memory, with these bits. It is written under dma_resv, and
 * read by jobs, whose fences hold off moves, but not a revoke: so READ_ONCE().
 */
#define PTE_VALID	1ull
#define PTE_SYSTEM	2ull

/* A buffer that was made by our node. Each handle and each job has a reference. */
struct accelerator_buffer {
	struct kref ref;
	struct accelerator *accelerator;	/* referenced */
	struct list_head node;			/* accelerator->lock */
	struct dmabridge_buffer *buffer;	/* referenced */
	u64 updates;				/* dma_resv */
	u64 nr_pages;
	u64 table[] __counted_by(nr_pages);
};

struct accelerator_buffer *buffer_create(struct accelerator *accelerator,
					 struct dmabridge_region *region, u64 size, u32 policy);
void buffer_put(struct accelerator_buffer *buffer);
static inline struct dma_buf *buffer_dma_buf(struct accelerator_buffer *buffer)
{
	return dmabridge_buffer_dma_buf(buffer->buffer);
}

/* As struct dmabridge_region_ops has it; @priv is the accelerator. */
void buffer_moved(void *priv, struct dmabridge_buffer *moved, u32 placement);

/* --- node.c: /dev/accelerator-FUNCTION ------------------------------------------------- */

int node_register(struct accelerator *accelerator);
/* No ioctl runs any more, or will. */
void node_unregister(struct accelerator *accelerator);

/* --- knobs.c: debugfs, for tests --------------------------------------------------------- */

void knobs_create(struct accelerator *accelerator);
void knobs_remove(struct accelerator *accelerator);

#endif /* _ACCELERATOR_H */
